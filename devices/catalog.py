"""The catalog of devices: one TOML file a device in `catalog/`, every figure with its source and how far it is to be trusted.

A figure stands in a table `{ value, source, confidence }`, or in a row (`[[peak]]`, `[[mode]]`) that says `source` and `confidence` for all its
figures. `source` is the key of a line in the file's own `[sources]`. Units are in the names of keys. Where sources differ, a figure is the
highest plausible one: what is computed from it (`kdedge.latency.roofline`) is a bound that no correct measurement may beat.
"""

from __future__ import annotations

import difflib
import functools
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, get_args

from kdedge.devices.setters import SETTERS
from kdedge.errors import DeviceError

FOLDER = Path(__file__).parent / "catalog"

Confidence = Literal["datasheet", "documentation", "derived", "press", "unverified"]
CONFIDENCES: tuple[str, ...] = get_args(Confidence)
UNITS = ("cpu", "gpu", "npu")
SENSORS = ("clocks", "temperatures", "power", "throttling", "under-voltage", "battery", "memory")
#: Facts of a fingerprint that entries may be recognised by, and what each is made of.
KEYS = {
    "compatible": "words of /proc/device-tree/compatible, in order",
    "soc": "Android: ro.soc.manufacturer and ro.soc.model, such as `QTI SM8650`",
    "cpu": "arm64: `arm implementer 0x41 part 0xd05 0xd41`, the parts of all cores in order",
    "cpu_id": "x86: vendor, family and model of /proc/cpuinfo, such as `GenuineIntel 6 190`",
    "cpu_max_khz": "the largest cpuinfo_max_freq of all cores",
}


@dataclass(frozen=True)
class Fact:
    """A figure, where it is from, and how far it is to be trusted."""

    value: Any
    source: str
    confidence: Confidence


@dataclass(frozen=True)
class Cores:
    """Cores of one kind. `macs_per_clock`: most multiply-accumulates of one core in one clock, by dtype."""

    core: str
    count: Fact
    max_mhz: Fact
    macs_per_clock: dict[str, Fact]


@dataclass(frozen=True)
class Peak:
    """The dense peak of a unit in a dtype at `clock_mhz`: `tops` counts a multiply-accumulate as two operations.

    A derived peak is units x macs_per_clock x 2 x clock. `clock_mhz` is None where a vendor gives a figure without one.
    """

    unit: str
    dtype: str
    tops: Fact
    clock_mhz: float | None
    units: int | None
    macs_per_clock: int | None


@dataclass(frozen=True)
class PowerMode:
    """What a power mode allows at most; None where it sets no limit of its own."""

    name: str
    cpu_mhz: float | None
    gpu_mhz: float | None
    cores: int | None
    source: str
    confidence: Confidence


@dataclass(frozen=True)
class Rule:
    """Facts that must all hold: key -> patterns, of which one must fit; `without`: key -> patterns of which none may."""

    facts: dict[str, tuple[str, ...]]
    source: str
    without: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def holds(self, facts: Mapping[str, str]) -> bool:
        """Whether a machine with these facts is meant."""
        meant = all(_fits(facts.get(key, ""), key, patterns) for key, patterns in self.facts.items())
        return meant and not any(_fits(facts.get(key, ""), key, patterns) for key, patterns in self.without.items())


@dataclass(frozen=True)
class Profile:
    """A device of the catalog. `machines` and `targets` are those of `kdedge.targets`; `facts`: figures of the whole device by name."""

    id: str
    name: str
    family: str
    soc: str
    machines: tuple[str, ...]
    targets: tuple[str, ...]
    runtimes: tuple[str, ...]
    sensors: tuple[str, ...]
    setters: tuple[str, ...]
    notes: tuple[str, ...]
    match: tuple[Rule, ...]
    facts: dict[str, Fact]
    cores: tuple[Cores, ...]
    peaks: tuple[Peak, ...]
    modes: tuple[PowerMode, ...]

    def mode(self, name: str) -> PowerMode:
        """A power mode by its name.

        Raises:
            DeviceError: there is none of this name.
        """
        for mode in self.modes:
            if mode.name == name:
                return mode
        raise DeviceError(f"{self.id} has no power mode `{name}` in the catalog (there is: {', '.join(mode.name for mode in self.modes) or 'none'})")


# ---- finding a device ------------------------------------------------------------------------------------------------------


@functools.cache
def profiles() -> dict[str, Profile]:
    """All entries by id, in order.

    Raises:
        DeviceError: a file breaks the rules above.
    """
    return {path.stem: read_profile(path) for path in sorted(FOLDER.glob("*.toml"))}


def detect(facts: Mapping[str, str], among: Iterable[Profile] | None = None) -> Profile | None:
    """The entry that a machine with these facts (`KEYS`) is, None where the catalog has none.

    Raises:
        DeviceError: several entries claim it.
    """
    found = [profile for profile in (profiles().values() if among is None else among) if any(rule.holds(facts) for rule in profile.match)]
    if len(found) > 1:
        raise DeviceError(
            f"the catalog has {len(found)} entries for this machine ({', '.join(profile.id for profile in found)}): their rules overlap"
        )
    return found[0] if found else None


def find_profile(name: str) -> Profile:
    """An entry by its name, or by the start of it where one entry is meant: `jetson-orin-nano` is `jetson-orin-nano-8gb`.

    Raises:
        DeviceError: no entry is meant, or more than one; the message lists them.
    """
    known = profiles()
    if name in known:
        return known[name]
    begun = sorted((entry for entry in known if name and entry.startswith(name)), key=len)
    if begun and all(entry.startswith(begun[0]) for entry in begun):
        return known[begun[0]]
    if begun:
        raise DeviceError(f"`{name}` is the start of several devices of the catalog: {', '.join(begun)}")
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    hint = f"; did you mean `{near[0]}`?" if near else ""
    raise DeviceError(f"the catalog has no device `{name}`{hint} (there is: {', '.join(known)})")


def _fits(value: str, key: str, patterns: Iterable[str]) -> bool:
    words = value.split() if key == "compatible" else [value]
    return any(fnmatchcase(word, pattern) for word in words for pattern in patterns)


# ---- reading a file --------------------------------------------------------------------------------------------------------


def read_profile(path: Path) -> Profile:
    """An entry from its file.

    Raises:
        DeviceError: it is no TOML, lacks something, or has a figure without source or confidence; the message names file and place.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DeviceError(f"{path.name}: it cannot be read: {error}") from error
    try:
        return _Reader(path.name, content).profile(path.stem)
    except KeyError as error:
        raise DeviceError(f"{path.name}: `{error.args[0]}` is missing") from error
    except (TypeError, AttributeError) as error:
        raise DeviceError(f"{path.name}: a value is of another type than it must be ({error})") from error


class _Reader:
    """Reads one file and knows its name and its sources."""

    def __init__(self, file: str, content: dict[str, Any]) -> None:
        self.file, self.content, self.sources = file, content, content.get("sources", {})

    def profile(self, name: str) -> Profile:
        content = self.content
        self._check_numbers(content, "")
        if content["id"] != name:
            raise self._wrong("id", f"it is `{content['id']}`, and the file is called `{name}`")
        return Profile(
            id=name,
            name=content["name"],
            family=content["family"],
            soc=content["soc"],
            machines=tuple(content["machines"]),
            targets=tuple(content["targets"]),
            runtimes=tuple(content["runtimes"]),
            sensors=self._allowed("sensors", SENSORS),
            setters=self._allowed("setters", tuple(SETTERS)),
            notes=tuple(content.get("notes", ())),
            match=tuple(self._rule(rule, f"match[{place}]") for place, rule in enumerate(content["match"])),
            facts={key: self._fact(value, f"facts.{key}") for key, value in content["facts"].items()},
            cores=tuple(self._cores(cores, f"cpu[{place}]") for place, cores in enumerate(content["cpu"])),
            peaks=tuple(self._peak(peak, f"peak[{place}]") for place, peak in enumerate(content.get("peak", ()))),
            modes=tuple(self._mode(mode, f"mode[{place}]") for place, mode in enumerate(content.get("mode", ()))),
        )

    def _cores(self, table: dict[str, Any], where: str) -> Cores:
        ending = "_macs_per_clock"
        rates = {key.removesuffix(ending): self._fact(value, f"{where}.{key}") for key, value in table.items() if key.endswith(ending)}
        if "fp32" not in rates or "int8" not in rates:
            raise self._wrong(where, "it needs fp32_macs_per_clock and int8_macs_per_clock")
        count, max_mhz = (self._fact(table[key], f"{where}.{key}") for key in ("count", "max_mhz"))
        for fact in (count, max_mhz, *rates.values()):
            if isinstance(fact.value, str):
                raise self._wrong(where, f"`{fact.value}` is no number")
        return Cores(table["core"], count, max_mhz, rates)

    def _peak(self, table: dict[str, Any], where: str) -> Peak:
        if table["unit"] not in UNITS:
            raise self._wrong(f"{where}.unit", f"it is `{table['unit']}` (allowed: {', '.join(UNITS)})")
        if table["dense"] is not True or table["excludes_dla"] is not True:
            raise self._wrong(where, "a peak must be dense and without the DLA (dense = true, excludes_dla = true)")
        if table.get("confidence") == "derived" and not ("units" in table and "macs_per_clock" in table and "clock_mhz" in table):
            raise self._wrong(where, "a derived peak says from what: units, macs_per_clock, clock_mhz")
        fact = self._fact({"value": table["tops"], **{key: table[key] for key in ("source", "confidence") if key in table}}, where)
        return Peak(table["unit"], table["dtype"], fact, table.get("clock_mhz"), table.get("units"), table.get("macs_per_clock"))

    def _mode(self, table: dict[str, Any], where: str) -> PowerMode:
        source, confidence = self._sourced(table, where)
        return PowerMode(table["name"], table.get("cpu_mhz"), table.get("gpu_mhz"), table.get("cores"), source, confidence)

    def _rule(self, table: dict[str, Any], where: str) -> Rule:
        without = table.get("without", {})
        facts = {key: value for key, value in table.items() if key not in ("without", "source")}
        for key in (*facts, *without):
            if key not in KEYS:
                raise self._wrong(f"{where}.{key}", f"machines are not recognised by it (allowed: {', '.join(KEYS)})")
        if not facts:
            raise self._wrong(where, "a rule without facts fits every machine")
        patterns, never = ({key: tuple(value) for key, value in each.items()} for each in (facts, without))
        return Rule(patterns, self._source(table["source"], where), never)

    def _fact(self, table: Any, where: str) -> Fact:
        if not isinstance(table, dict) or "value" not in table:
            raise self._wrong(where, "it says no value: write { value, source, confidence }")
        source, confidence = self._sourced(table, where)
        value = table["value"]
        if isinstance(value, int | float) and not 0 < value < float("inf"):
            raise self._wrong(where, f"it is {value}: a figure is above zero, and finite")
        return Fact(value, source, confidence)

    def _sourced(self, table: Mapping[str, Any], where: str) -> tuple[str, Confidence]:
        missing = [key for key in ("source", "confidence") if key not in table]
        if missing:
            raise self._wrong(where, f"a figure without {' and '.join(missing)}")
        if table["confidence"] not in CONFIDENCES:
            raise self._wrong(where, f"its confidence is `{table['confidence']}` (allowed: {', '.join(CONFIDENCES)})")
        return self._source(table["source"], where), table["confidence"]

    def _source(self, name: str, where: str) -> str:
        if name not in self.sources:
            raise self._wrong(where, f"its source `{name}` is not in [sources] (there is: {', '.join(self.sources) or 'none'})")
        return str(self.sources[name])

    def _check_numbers(self, table: Mapping[str, Any], where: str) -> None:
        """No number may stand where nothing says its source."""
        sourced = "source" in table and "confidence" in table
        for key, value in table.items():
            place = f"{where}.{key}".lstrip(".")
            if isinstance(value, dict):
                self._check_numbers(value, place)
            elif isinstance(value, list) and value and isinstance(value[0], dict):
                for number, item in enumerate(value):
                    self._check_numbers(item, f"{place}[{number}]")
            elif isinstance(value, int | float) and not isinstance(value, bool) and not sourced:
                lacks = " and ".join(key for key in ("source", "confidence") if key not in table)
                raise self._wrong(place, f"a figure without {lacks}")

    def _allowed(self, key: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
        for name in self.content[key]:
            if name not in allowed:
                raise self._wrong(key, f"there is no `{name}` (allowed: {', '.join(allowed)})")
        return tuple(self.content[key])

    def _wrong(self, where: str, what: str) -> DeviceError:
        return DeviceError(f"{self.file}: {where}: {what}")
