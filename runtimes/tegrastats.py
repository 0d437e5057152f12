"""One line of `tegrastats` as numbers. The format drifts from release to release, so that every field may be missing and unknown ones are kept.

Shapes: NVIDIA Jetson Linux Developer Guide, "tegrastats Utility" (r35 to r38). `GR3D_FREQ` comes as `10%@1300` (JetPack 4), `0%@[305]` or
`0%@[0,0]` (JetPack 5 to 7 on Orin), `@[0,0,0]` without a load (Thor) and `88%` without a clock.
"""

from __future__ import annotations

import re
from typing import Any, Callable, Dict, List, Match, Optional, Pattern, Tuple

from .linux import SWITCHED_OFF_C
from .reach import Reach, output_of

# It writes a line an interval for ever: one is taken, and one that says nothing is ended with all that was started for it.
COMMAND = ("timeout", "3", "sh", "-c", "tegrastats --interval 200 2>/dev/null | head -n 1")

_Found = Dict[str, Any]
# Ten times the longest line seen; Python refuses numbers of more than 4300 digits.
_MOST_CHARACTERS = 4000


def activity(reach: Reach) -> Dict[str, Any]:
    """How busy a Jetson is where only tegrastats says so without root: empty where there is none.

    `gpu_percent`; of the memory `emc_percent` and `emc_mhz`; `engines`: percent of those that work (video, DLA, ...). It takes some tenths of a
    second, and belongs outside of what is timed. Clocks, temperatures and rails are read from sysfs, without a program in between.
    """
    said = parse_line(output_of(reach, COMMAND) or "")
    found: _Found = {name: said[name] for name in ("gpu_percent", "emc_percent", "emc_mhz") if name in said}
    busy = {name: engine["percent"] for name, engine in said.get("engines", {}).items() if engine and engine.get("percent")}
    return dict(found, engines=busy) if busy else found


def parse_line(line: str) -> Dict[str, Any]:
    """What a line says. Raises nothing.

    `ram_used_mb`, `ram_total_mb`, `swap_used_mb`, `swap_total_mb`, `swap_cached_mb`; `cpus`: a dict `load_percent`, `mhz` for each core, None
    where it is off; `gpu_percent`, `gpu_mhz` (a list); `emc_percent`, `emc_mhz`; `engines`: name -> `percent`, `mhz` or None where off;
    `temperatures_c`; `rails_mw`: label -> `now`, `average` (tegrastats's own, since its start); `unknown`: the words that fit nothing.
    """
    found: _Found = {}
    unknown: List[str] = []
    place = 0
    text = line.strip()[:_MOST_CHARACTERS]
    while place < len(text):
        if text[place].isspace():
            place += 1
            continue
        for pattern, take in _FIELDS:
            match = pattern.match(text, place)
            if match:
                take(found, match)
                place = match.end()
                break
        else:
            word = text[place:].split(None, 1)[0]
            unknown.append(word)
            place += len(word)
    if unknown:
        found["unknown"] = unknown
    return found


def _time(found: _Found, match: Match[str]) -> None:
    found["time"] = match.group(1)


def _ram(found: _Found, match: Match[str]) -> None:
    found["ram_used_mb"], found["ram_total_mb"] = int(match.group(1)), int(match.group(2))


def _swap(found: _Found, match: Match[str]) -> None:
    found["swap_used_mb"], found["swap_total_mb"] = int(match.group(1)), int(match.group(2))
    if match.group(3):
        found["swap_cached_mb"] = int(match.group(3))


def _cpus(found: _Found, match: Match[str]) -> None:
    # Of old releases the clock stands once, behind the bracket.
    shared = match.group(2)
    cores: List[Optional[Dict[str, int]]] = []
    for word in match.group(1).split(","):
        core = re.match(r"\s*(\d+)%(?:@(\d+))?", word)
        if core is None:
            cores.append(None)
            continue
        clock = core.group(2) or shared
        cores.append({"load_percent": int(core.group(1)), **({"mhz": int(clock)} if clock else {})})
    found["cpus"] = cores


def _gpu(found: _Found, match: Match[str]) -> None:
    if match.group(1):
        found["gpu_percent"] = int(match.group(1))
    clocks = match.group(2) or match.group(3)
    if clocks:
        found["gpu_mhz"] = [int(word) for word in clocks.split(",")]


def _emc(found: _Found, match: Match[str]) -> None:
    found["emc_percent"] = int(match.group(1))
    if match.group(2):
        found["emc_mhz"] = int(match.group(2))


def _engine(found: _Found, match: Match[str]) -> None:
    name, off, percent, clock, alone = match.groups()
    engine: Optional[Dict[str, int]] = None
    if not off:
        engine = {}
        if percent:
            engine["percent"] = int(percent)
        if clock or alone:
            engine["mhz"] = int(clock or alone)
    found.setdefault("engines", {})[name] = engine


def _temperature(found: _Found, match: Match[str]) -> None:
    value = float(match.group(2))
    if value > SWITCHED_OFF_C:
        found.setdefault("temperatures_c", {})[match.group(1)] = value


def _rail(found: _Found, match: Match[str]) -> None:
    if match.group(1) != "NC":
        found.setdefault("rails_mw", {})[match.group(1)] = {"now": int(match.group(2)), "average": int(match.group(3))}


def _nothing(found: _Found, match: Match[str]) -> None:
    """Known, and of no use here."""


# In the order in which they are tried; each ends where a word ends.
_END = r"(?=\s|$)"
_FIELDS: List[Tuple[Pattern[str], Callable[[_Found, Match[str]], None]]] = [
    (re.compile(r"(\d\d-\d\d-\d{4} \d\d:\d\d:\d\d)" + _END), _time),
    (re.compile(r"RAM (\d+)/(\d+)MB(?: \(lfb \d+x\d+[kM]B\))?" + _END), _ram),
    (re.compile(r"SWAP (\d+)/(\d+)MB(?: \(cached (\d+)MB\))?" + _END), _swap),
    (re.compile(r"IRAM \d+/\d+kB ?\(lfb \d+kB\)" + _END), _nothing),
    (re.compile(r"(?:CPU|cpu) \[([^\]]*)\](?:@(\d+))?" + _END), _cpus),
    (re.compile(r"GR3D(?:_FREQ)? (?:off|(?=\S)(?:(\d+)%)?(?:@(?:\[(\d+(?:,\d+)*)\]|(\d+)))?)" + _END), _gpu),
    (re.compile(r"EMC(?:_FREQ)? (\d+)%(?:@(\d+))?" + _END), _emc),
    (re.compile(r"MTS fg \d+% bg \d+%" + _END), _nothing),
    (re.compile(r"(\w+)@(-?\d{1,4}(?:\.\d+)?)C" + _END), _temperature),
    (re.compile(r"([A-Z][A-Z0-9_]*) (\d+)(?:mW)?/(\d+)(?:mW)?" + _END), _rail),
    (re.compile(r"([A-Z][A-Z0-9_]*) (?:(off)|(?:(\d+)%)?@(\d+)|(\d+))" + _END), _engine),
]
