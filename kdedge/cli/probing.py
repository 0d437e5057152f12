"""The work of `kdedge devices list`, `probe` and `simulate`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from kdedge.errors import DeviceError, KdedgeError

# How each kind of device is named, for people.
_NAMES = {
    "local": "this machine",
    "ssh": "ssh:HOST, a board by the system's OpenSSH",
    "adb": "adb:SERIAL, a phone by the Android debug bridge",
    "emulated": "emulated:CPU, an arm64 board by qemu on this machine (`kdedge devices emulate`)",
    "simulated": "simulated:SCENARIO, an imagined device (`kdedge devices simulate`)",
    "browser": "browser:, any phone by its browser (`kdedge devices serve`)",
}


def list_here(as_json: bool) -> None:
    """What can be opened, without opening it.

    Raises:
        DeviceError: `devices.yaml` is wrong.
    """
    from kdedge.devices import DEVICES
    from kdedge.devices.inventory import inventory_file, read_inventory

    own = read_inventory(DEVICES)
    if as_json:
        entries = [{"name": "local", "transport": "local"}, *({"name": name, "transport": entry.transport} for name, entry in own.items())]
        print(json.dumps({"devices": entries, "schemes": {scheme: _NAMES.get(scheme, scheme) for scheme in DEVICES}}))
        return
    print("local: this machine")
    for name, entry in own.items():
        profile = f", {entry.settings.profile}" if entry.settings.profile else ""
        print(f"{name}: {entry.transport}{profile}")
    file = inventory_file()
    print(f"your own: {file}" if file else "your own: none; a devices.yaml here or in ~/.config/kdedge names them")
    print("without it:")
    for scheme in DEVICES:
        if scheme != "local":
            print(f"  {_NAMES.get(scheme, scheme)}")


def probe_here(names: Sequence[str], as_json: bool) -> int:
    """Open each device and say what it is. Returns the exit code: 0 where all answered, 2 otherwise.

    Raises:
        DeviceError: a pattern matches nothing.
    """
    from kdedge.devices import close_devices
    from kdedge.fleet import named_devices

    found: list[dict[str, Any]] = []
    try:
        for name in named_devices(names):
            try:
                found.append(facts_of(name))
            except KdedgeError as error:  # a device, or what it takes to reach one
                found.append({"name": name, "error": str(error)})
    finally:
        close_devices()
    if as_json:
        print(json.dumps(found))
    else:
        for facts in found:
            print("\n".join(_lines(facts)))
    return 2 if any("error" in facts for facts in found) else 0


def facts_of(name: str) -> dict[str, Any]:
    """Identity, catalog entry and sensors of a device.

    Raises:
        DeviceError: it cannot be reached.
    """
    from kdedge.devices import open_device, profile_of
    from kdedge.devices.sensors import over, sensors

    device = open_device(name)
    profile = profile_of(device.identity)
    try:
        seen: Mapping[str, str] = sensors(over(device.transport))
    except (DeviceError, OSError) as error:  # it is lost, or (a browser) has nothing that could be asked
        seen = {"none": str(error)}
    return {**asdict(device.identity), "profile": profile.name if profile else None, "sensors": dict(seen)}


def _lines(facts: Mapping[str, Any]) -> list[str]:
    if "error" in facts:
        return [f"{facts['name']}: {facts['error']}"]
    lines = [f"{facts['name']} ({facts['kind']}): {', '.join(facts['machines'])}"]
    lines.append(f"  catalog: {facts['profile'] or 'not in it'}")
    lines += [f"  {fact}: {value}" for fact, value in sorted(facts["fingerprint"].items())]
    lines += [f"  sensor {name}: {what}" for name, what in facts["sensors"].items()]
    return lines


def simulate_here(scenario: str, launches: int, milliseconds: float, seed: int, as_json: bool) -> None:
    """The scenarios, or launches drawn from one on its virtual clock.

    Raises:
        KdedgeError: there is no such scenario.
    """
    from kdedge.devices.simulation import SCENARIOS, draw_launch, scenario_of
    from kdedge.latency.validity import invalid_because
    from kdedge.runtimes.job import LaunchRule, Result

    if not scenario:
        if as_json:
            print(json.dumps({name: _plain(asdict(each)) for name, each in SCENARIOS.items()}))
            return
        for name, each in SCENARIOS.items():
            changed = {key: value for key, value in asdict(each).items() if key != "name" and value != type(each).__dataclass_fields__[key].default}
            print(f"simulated:{name}: {', '.join(f'{key} {value:g}' for key, value in changed.items())}")
        return
    import numpy as np

    chosen = scenario_of(scenario.removeprefix("simulated:"))
    clock, drawn = 0.0, []
    for number in range(launches):
        launch = draw_launch(chosen, (seed, number), clock, milliseconds, LaunchRule())
        reason = invalid_because(Result("ok", evidence=launch.evidence, loop_seconds=launch.seconds))
        median = float(np.median(launch.samples_ns)) / 1e6 if launch.samples_ns.size else None
        drawn.append({"launch": number, "clock_seconds": round(clock, 3), "fate": launch.fate, "median_ms": median, "invalid": reason})
        clock += launch.seconds
    if as_json:
        print(json.dumps(drawn))
        return
    for row in drawn:
        figure = "no samples" if row["median_ms"] is None else f"{row['median_ms']:.4g} ms"
        print(f"{row['clock_seconds']:9.1f} s  {row['fate']:<12} {figure:<12} {row['invalid']}".rstrip())


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    # JSON has no infinity: what never happens has no time.
    return {key: None if isinstance(value, float) and value == float("inf") else value for key, value in values.items()}
