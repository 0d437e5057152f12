"""A check from two names to a verdict: what is compared is found, each cell is run, the family of cells is judged, and the history told."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdedge import __version__
from kdedge.devices import open_device
from kdedge.devices.device import Device
from kdedge.errors import KdedgeError
from kdedge.latency.check import Arm, Checked, CheckSettings, check
from kdedge.latency.history.records import Session, environment_key
from kdedge.latency.holm import confirmed, holm
from kdedge.latency.verdicts import EXIT_CODES, State
from kdedge.regression.arms import WHOLE, Given, arms_of, with_inputs_of
from kdedge.regression.baselines import names, read_baseline

if TYPE_CHECKING:
    from kdedge.latency.history.store import History

SCHEMA = 1
# The state of several cells is the first of these that one of them is in.
_WORST_FIRST: tuple[State, ...] = ("regressed", "invalid", "inconclusive", "equivalent", "improved")
REMEMBERED = 20
"""So many earlier checks say what the noise of a device is."""


@dataclass(frozen=True)
class CheckedCell:
    """One artifact on one device. `key`: TARGET/PRECISION, "" where there is only one; `kind`: of the device, `simulated` where times are invented;
    `again`: the independent repeat of a flagged cell; `adjusted_p`: Holm's, over all cells."""

    key: str
    device: str
    kind: str
    environment: Mapping[str, str]
    first: Checked
    again: Checked | None
    state: State
    adjusted_p: float
    notes: tuple[str, ...] = ()

    @property
    def decisive(self) -> Checked:
        """The run that the state rests on."""
        return self.again or self.first

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "key": self.key,
            "device": self.device,
            "kind": self.kind,
            "environment": dict(self.environment),
            "state": self.state,
            "adjusted_p": self.adjusted_p,
            "notes": list(self.notes),
            "first": _checked_json(self.first),
            "again": None if self.again is None else _checked_json(self.again),
        }


@dataclass(frozen=True)
class CheckReport:
    """All cells of a check. `missing`: what stands on one side only and was not compared."""

    baseline: str
    candidate: str
    settings: CheckSettings
    cells: tuple[CheckedCell, ...]
    missing: tuple[str, ...]
    started: datetime

    @property
    def state(self) -> State:
        """The worst of its cells' states."""
        return next(state for state in _WORST_FIRST if any(cell.state == state for cell in self.cells))

    @property
    def exit_code(self) -> int:
        """0 fine, 1 a proven regression, 3 inconclusive, 4 invalid."""
        return EXIT_CODES[self.state]

    def as_json(self) -> dict[str, Any]:
        """The versioned object that `--json` prints."""
        return {
            "schema": SCHEMA,
            "tool_version": __version__,
            "started": self.started.isoformat(timespec="seconds"),
            "baseline": self.baseline,
            "candidate": self.candidate,
            "state": self.state,
            "exit_code": self.exit_code,
            "settings": asdict(self.settings),
            "missing": list(self.missing),
            "cells": [cell.as_json() for cell in self.cells],
        }


def run_check(
    baseline: str,
    candidate: str,
    devices: Sequence[str],
    settings: CheckSettings,
    folder: Path,
    *,
    given: Given | None = None,
    store: Path,
    history: History | None = None,
    told: Callable[[str], None] = lambda sentence: None,
) -> CheckReport:
    """Check a candidate against a baseline on each device. `baseline`, `candidate`: a path, or the name of a kept baseline. `folder`: an empty one.

    Raises:
        KdedgeError: what is to be compared is not there or damaged, or cannot be launched.
    """
    started = datetime.now(UTC)
    before = _sides(baseline, store, given or Given(), folder / "baseline")
    after = _sides(candidate, store, given or Given(), folder / "candidate")
    if len(before) == len(after) == 1:  # two artifacts are compared whatever they are called
        before, after = {WHOLE: next(iter(before.values()))}, {WHOLE: next(iter(after.values()))}
    keys = sorted(set(before) & set(after))
    if not keys:
        raise KdedgeError(f"{baseline} and {candidate} have nothing in common: {_listed(before)} and {_listed(after)}")
    places = [(key, name) for name in devices for key in keys]
    opened = {name: open_device(name) for name in dict.fromkeys(devices)}
    first: list[Checked] = []
    for number, (key, name) in enumerate(places):
        work = folder / f"cell-{number}"
        first.append(_one(opened[name], before[key], after[key], settings, work, history, told, _label(key, name, places)))
    cells = _judged(places, first, opened, before, after, settings, folder, history, told)
    missing = tuple(f"{key} stands in {baseline if key in before else candidate} only" for key in sorted(set(before) ^ set(after)))
    return CheckReport(baseline, candidate, settings, cells, missing, started)


def _judged(
    places: Sequence[tuple[str, str]],
    first: Sequence[Checked],
    opened: Mapping[str, Device],
    before: Mapping[str, Arm],
    after: Mapping[str, Arm],
    settings: CheckSettings,
    folder: Path,
    history: History | None,
    told: Callable[[str], None],
) -> tuple[CheckedCell, ...]:
    """One alarm among many cells is likely by chance: Holm's correction over all of them, and what is still flagged is measured a second time."""
    adjusted = holm([found.verdict.p_regressed for found in first])
    cells = []
    for number, ((key, name), found, p) in enumerate(zip(places, first, adjusted, strict=True)):
        state, again, notes = found.verdict.state, None, list(_environment_notes(before[key], opened[name]))
        if state == "regressed" and len(places) > 1:
            if p > settings.alpha:
                state = "inconclusive"
                notes.append(f"regressed by itself; among {len(places)} cells its p value is {p:.2g}, above {settings.alpha:g}")
            else:
                told(f"{_label(key, name, places)} is flagged and is measured again")
                repeat = replace(settings, seed=settings.seed + 1)
                again = _one(opened[name], before[key], after[key], repeat, folder / f"again-{number}", history, told, "")
                state = _as_state(confirmed(state, again.verdict.state))
                notes.append(f"flagged, and measured again: {again.verdict.state}")
        identity = opened[name].identity
        cells.append(CheckedCell(key, name, identity.kind, identity.fingerprint, found, again, state, p, tuple(notes)))
    return tuple(cells)


def _one(
    device: Device,
    baseline: Arm,
    candidate: Arm,
    settings: CheckSettings,
    work: Path,
    history: History | None,
    told: Callable[[str], None],
    label: str,
) -> Checked:
    work.mkdir(parents=True)
    candidate = with_inputs_of(candidate, baseline)
    noise = None if history is None else known_noise(history, candidate.line, device)
    begun = datetime.now(UTC)
    say = (lambda sentence: told(f"{label}: {sentence}")) if label else told
    found = check(device, baseline, candidate, settings, work, known_noise=noise, told=say)
    if history is not None:
        history.add(session_of(found, device, settings, begun))
    return found


def session_of(found: Checked, device: Device, settings: CheckSettings, started: datetime) -> Session:
    """A check as the history keeps it."""
    told = {**found.verdict.as_json(), "baseline": found.baseline.sha256, "candidate": found.candidate.sha256}
    identity = device.identity
    return Session(
        uuid.uuid4().hex,
        "check",
        started,
        identity.name,
        identity.fingerprint,
        found.launches,
        asdict(settings),
        found.verdict.state,
        told,
        __version__,
    )


def known_noise(history: History, line: str, device: Device) -> float | None:
    """The pooled standard deviation of log ratios of this line's last checks on this device in this environment; None where there is none."""
    environment = environment_key(device.identity.fingerprint)
    found = [
        (float(session.told["noise"]), len(session.told["counted"]) - 1)
        for session in history.sessions(kind="check", device=device.identity.name, limit=REMEMBERED * 5)
        if session.environment == environment and session.told.get("noise") is not None and any(launch.line == line for launch in session.launches)
    ][:REMEMBERED]
    degrees = sum(degree for _, degree in found)
    return math.sqrt(sum(sd * sd * degree for sd, degree in found) / degrees) if degrees > 0 else None


def _sides(named: str, store: Path, given: Given, folder: Path) -> dict[str, Arm]:
    path = Path(named)
    if path.exists():
        return arms_of(path, given, folder)
    if named in names(store):
        return {WHOLE: read_baseline(named, store).arm}
    raise KdedgeError(
        f"{named}: there is no such file, bundle or folder of a run, and no baseline of this name ({', '.join(names(store)) or 'none'})"
    )


def _environment_notes(baseline: Arm, device: Device) -> list[str]:
    """How the device differs from where the baseline was set: it runs again here, so that this is no mismatch, but people want to know."""
    now = device.identity.fingerprint
    kept = baseline.environment
    return [
        f"the baseline was set with {name} {kept.get(name, 'absent')}, here it is {now.get(name, 'absent')}"
        for name in sorted({*kept, *now})
        if kept and kept.get(name) != now.get(name)
    ]


def _label(key: str, device: str, places: Sequence[tuple[str, str]]) -> str:
    return "" if len(places) == 1 else f"{key or 'the artifact'} on {device}"


def _listed(arms: Mapping[str, Arm]) -> str:
    return ", ".join(key or arm.name for key, arm in arms.items())


def _as_state(text: str) -> State:
    return next(state for state in _WORST_FIRST if state == text)


def _checked_json(found: Checked) -> dict[str, Any]:
    sides = {
        side: {"name": arm.name, "line": arm.line, "sha256": arm.sha256, "runtime": arm.job.runtime, "options": dict(arm.job.options)}
        for side, arm in (("baseline", found.baseline), ("candidate", found.candidate))
    }
    return {**found.verdict.as_json(), **sides, "plan": found.plan, "seconds": found.seconds}
