"""What a Raspberry Pi shows by `vcgencmd`. Bits and commands: raspberrypi/documentation, "vcgencmd". No board has run this yet."""

from __future__ import annotations

import re
from typing import Any, Dict, List, Optional

from .reach import Reach, output_of, text_of

_CONCERNS = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
_SINCE_START = 16
# A line fitted by users between the sum of the rails and a power meter at the plug; another user's
# fit has 1.1327 and 0.6444 W. Nothing of it is verified here.
PMIC_FIT = (1.1451, 0.5879)

THROTTLED = ("vcgencmd", "get_throttled")
PMIC = ("vcgencmd", "pmic_read_adc")


def is_raspberry_pi(reach: Reach) -> bool:
    """Whether the machine is one: its device tree says so."""
    return (text_of(reach, "/proc/device-tree/model") or "").startswith("Raspberry Pi")


def parse_throttled(text: str) -> Optional[int]:
    """The bits of `throttled=0x50005`, or None where the text is of another shape."""
    match = re.search(r"throttled=0x([0-9a-fA-F]{1,8})\b", text)
    return int(match.group(1), 16) if match else None


def now(bits: int) -> List[str]:
    """What goes on at the moment (bits 0 to 3)."""
    return [name for bit, name in _CONCERNS.items() if bits >> bit & 1]


def since_start(bits: int) -> List[str]:
    """What went on at some time since the board started (bits 16 to 19). They stay set until it starts again."""
    return now(bits >> _SINCE_START)


def happened(before: int, after: int) -> List[str]:
    """What went on between two readings, as far as they can tell: what both ends show, and what was set for the first time.

    What had happened once before the first reading, and happened again, cannot be told apart: see `masked`.
    """
    seen = [*now(before), *now(after), *(name for name in since_start(after) if name not in since_start(before))]
    return [name for name in _CONCERNS.values() if name in seen]


def masked(before: int) -> List[str]:
    """What could happen during a job without a trace, since its bit was set already."""
    return since_start(before)


def parse_pmic(text: str) -> Dict[str, Any]:
    """`rails_mw`: the rails of which a Pi 5 tells both volts and amperes; `volts`: those without amperes; `sum_mw`; `unknown`.

    Lines are `NAME_A current(0)=0.1A` and `NAME_V volt(8)=3.3V`, all currents first or in pairs; the numbers in brackets are no rail numbers, so
    that rails are joined by their names.
    """
    values: Dict[str, Dict[str, float]] = {"A": {}, "V": {}}
    unknown = []
    for line in filter(None, map(str.strip, text.splitlines())):
        match = re.match(r"(\w+)_([AV])[\s:=]+(?:(?:current|volt)\(\d+\)\s*=\s*)?(-?\d{1,9}(?:\.\d+)?)\s*[AV]?$", line)
        if match:
            values[match.group(2)][match.group(1)] = float(match.group(3))
        else:
            unknown.append(line)
    rails = {name: 1000.0 * values["V"][name] * amperes for name, amperes in values["A"].items() if name in values["V"]}
    found: Dict[str, Any] = {}
    if rails:
        found["rails_mw"] = rails
        found["sum_mw"] = sum(rails.values())
    alone = {name: volts for name, volts in values["V"].items() if name not in values["A"]}
    if alone:
        found["volts"] = alone
    if unknown:
        found["unknown"] = unknown
    return found


def fitted_milliwatts(sum_mw: float) -> float:
    """What the whole board takes, by `PMIC_FIT`: unverified."""
    slope, watts = PMIC_FIT
    return slope * sum_mw + 1000.0 * watts


def state(reach: Reach) -> Dict[str, Any]:
    """What may change during a job: `pi_throttled`, the bits."""
    text = output_of(reach, THROTTLED)
    bits = parse_throttled(text) if text else None
    return {} if bits is None else {"pi_throttled": bits}


def facts(reach: Reach) -> Dict[str, Any]:
    """What does not change: the board's name."""
    module = text_of(reach, "/proc/device-tree/model")
    return {"module": module} if module else {}
