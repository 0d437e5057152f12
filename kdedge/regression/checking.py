"""A check from two names to a verdict: each cell is run, the family of cells is judged, and the history told."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdedge import __version__
from kdedge.devices import open_device
from kdedge.devices.device import Device
from kdedge.errors import KdedgeError, MeasurementError, WorkspaceError
from kdedge.fleet import open_devices
from kdedge.latency.check import Arm, Checked, CheckSettings, broken_off, check
from kdedge.latency.history.records import LaunchRecord, Session, environment_key
from kdedge.latency.holm import confirmed, holm
from kdedge.latency.looks import fewest_even
from kdedge.latency.verdicts import EXIT_CODES, State
from kdedge.measured import DeviceIdentity
from kdedge.regression.arms import WHOLE, Given, key_of, with_inputs_of
from kdedge.regression.sides import refuse_inputs, refuse_sizes, sides_of

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
    """All cells of a check. `missing`: what stands on one side only and was not compared, in words; `lost`: the keys of those that only the
    baseline has."""

    baseline: str
    candidate: str
    settings: CheckSettings
    cells: tuple[CheckedCell, ...]
    missing: tuple[str, ...]
    started: datetime
    lost: tuple[str, ...] = ()

    @property
    def state(self) -> State:
        """The worst of its cells' states. A cell that the candidate has lost can be no regression in time, but nor is all well: inconclusive."""
        states = {cell.state for cell in self.cells} | ({"inconclusive"} if self.lost else set())
        return next(state for state in _WORST_FIRST if state in states)

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
            "lost": list(self.lost),
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
    """Check a candidate against a baseline on each device; one of several that cannot be reached makes its own cells invalid (`open_devices`).
    `baseline`, `candidate`: as `sides_of` takes them. `folder`: an empty one.

    Raises:
        KdedgeError: what is to be compared is not there or damaged, or cannot be launched.
    """
    started = datetime.now(UTC)
    given = given or Given()
    refuse_inputs(baseline, given)
    before = sides_of(baseline, store, given, folder / "baseline")
    others = next(iter(before.values())).job.buckets[0] if len(before) == 1 else None
    after = sides_of(candidate, store, replace(given, others=others), folder / "candidate")
    refuse_sizes(given, baseline, candidate)
    before, after = _by_the_same_keys(before, after)
    keys = sorted(set(before) & set(after))
    if not keys:
        advice = "; name a single bundle to compare it with" if WHOLE in before or WHOLE in after else ""
        raise KdedgeError(f"{baseline} and {candidate} have nothing in common: {_listed(before)} and {_listed(after)}{advice}")
    there, after = set(after), {key: with_inputs_of(after[key], before[key]) for key in keys}
    stamps = {file: stamp for key in keys for file, stamp in _stamps(before[key], after[key]).items()}
    cells = _Family(before, after, stamps, open_devices(devices), settings, folder, history, told).cells()
    missing = tuple(f"{key} stands in {baseline if key in before else candidate} only" for key in sorted(before.keys() ^ there))
    return CheckReport(baseline, candidate, settings, cells, missing, started, tuple(sorted(set(before) - there)))


def _by_the_same_keys(before: dict[str, Arm], after: dict[str, Arm]) -> tuple[dict[str, Arm], dict[str, Arm]]:
    """Two artifacts are compared whatever they are called. One that was named by itself is held against its own kind in a run, and the
    others of that were not asked for."""
    if len(before) == len(after) == 1:
        return {WHOLE: next(iter(before.values()))}, {WHOLE: next(iter(after.values()))}
    alone = before.get(WHOLE) or after.get(WHOLE)
    key = WHOLE if alone is None else key_of(alone)
    if alone is None or not key:
        return before, after
    named, run = {key: alone}, after if WHOLE in before else before
    of_run = {key: run[key]} if key in run else dict(run)
    return (named, of_run) if WHOLE in before else (of_run, named)


@dataclass(frozen=True)
class _Family:
    """All cells of a check: each artifact of the candidate on each device. `stamps`: by which a file that is changed meanwhile is known."""

    before: Mapping[str, Arm]
    after: Mapping[str, Arm]
    stamps: Mapping[str, Any]
    devices: Sequence[DeviceIdentity]
    settings: CheckSettings
    folder: Path
    history: History | None
    told: Callable[[str], None]

    @property
    def size(self) -> int:
        """How many cells."""
        return len(self.devices) * len(self.after)

    def cells(self) -> tuple[CheckedCell, ...]:
        """One alarm among many cells is likely by chance: they share alpha by Holm, and what is flagged is measured a second time.

        Raises:
            KdedgeError: with so few pairs no cell can be decided at its share of alpha.
        """
        places = [(key, device) for device in self.devices for key in self.after]
        # Looks are declared for the smallest level that Holm may ask for, alpha / n: at an early look of the whole alpha no p would be small enough.
        # What is flagged there is so by Holm too, and Holm may flag more of what was left open.
        shared = replace(self.settings, alpha=self.settings.alpha / len(places))
        fewest = fewest_even(shared.alpha / len(shared.metrics))
        if shared.budget_seconds is None and shared.pairs < fewest:
            level = f"{len(places)} cells share alpha {self.settings.alpha:g}" if len(places) > 1 else f"alpha is {self.settings.alpha:g}"
            raise KdedgeError(f"{level}, and with {shared.pairs} pairs none could be decided: the fewest are {fewest}")
        first = [self._one(key, device, shared, self.folder / f"cell-{number}") for number, (key, device) in enumerate(places)]
        adjusted = holm([found.verdict.p_regressed for found, _ in first])
        return tuple(
            self._judged(key, device, found, p, notes, self.folder / f"again-{number}")
            for number, ((key, device), (found, notes), p) in enumerate(zip(places, first, adjusted, strict=True))
        )

    def _judged(self, key: str, device: DeviceIdentity, found: Checked, p: float, notes: tuple[str, ...], work: Path) -> CheckedCell:
        state, again = found.verdict.state, None
        if self.size > 1 and (state == "regressed" or p <= self.settings.alpha):
            self.told(f"{_label(key, device.name)} is flagged and is measured again")
            again, more = self._one(key, device, replace(self.settings, seed=self.settings.seed + 1), work)
            state = _as_state(confirmed("regressed", again.verdict.state))
            notes += (*more, _flag(found, p, self.size), f"flagged, and measured again: {again.verdict.state}")
        notes = (*_environment_notes(self.before[key], device), *notes)
        return CheckedCell(key, device.name, device.kind, device.fingerprint, found, again, state, p, notes)

    def _one(self, key: str, identity: DeviceIdentity, settings: CheckSettings, work: Path) -> tuple[Checked, tuple[str, ...]]:
        """A check of one cell, and what must be said of it besides. A device that is lost in one cell does not cost the others, nor does a history
        that cannot be read or written cost the verdict."""
        work.mkdir(parents=True)
        baseline, candidate = self.before[key], self.after[key]
        if identity.away:
            return broken_off(baseline, candidate, settings, identity.reason, 0.0), ()
        device = open_device(identity.name)
        noise, unread = self._noise(candidate.line, device)
        started, begun = datetime.now(UTC), time.monotonic()
        launched: list[LaunchRecord] = []
        try:
            found = check(
                device,
                baseline,
                candidate,
                settings,
                work,
                known_noise=noise,
                told=self.told if self.size == 1 else lambda sentence: self.told(f"{_label(key, identity.name)}: {sentence}"),
                launched=launched.append,
            )
        except MeasurementError as error:
            found = broken_off(baseline, candidate, settings, str(error), time.monotonic() - begun, launched)
        except (KeyboardInterrupt, WorkspaceError) as error:
            if launched:
                reason = str(error) or "interrupted"
                found = self._of_one_version(broken_off(baseline, candidate, settings, reason, time.monotonic() - begun, launched), settings)
                for unkept in self._keep(found, device, settings, started):  # there is no report that could say it
                    raise WorkspaceError(f"{reason}; {unkept}") from error
            raise
        found = self._of_one_version(found, settings)
        return found, (*unread, *self._keep(found, device, settings, started))

    def _of_one_version(self, found: Checked, settings: CheckSettings) -> Checked:
        """The check, without its launches where a file of a model was changed meanwhile."""
        other = [file for file, stamp in _stamps(found.baseline, found.candidate).items() if stamp != self.stamps[file]]
        if not other:
            return found
        reason = f"{Path(other[0]).name} was changed while it was checked: nobody knows which of its versions was timed"
        return broken_off(found.baseline, found.candidate, settings, reason, found.seconds)

    def _keep(self, found: Checked, device: Device, settings: CheckSettings, started: datetime) -> tuple[str, ...]:
        """Add to the history; what must be said where that cannot be."""
        try:
            if self.history is not None:
                self.history.add(session_of(found, device, settings, started))
        except WorkspaceError as error:
            return (f"this check is not kept: {error}",)
        return ()

    def _noise(self, line: str, device: Device) -> tuple[float | None, tuple[str, ...]]:
        """What earlier checks tell of the noise, and what must be said where they cannot be read."""
        if self.history is None:
            return None, ()
        try:
            return known_noise(self.history, line, device), ()
        except WorkspaceError as error:
            return None, (f"the noise of earlier checks is not known: {error}",)


def _flag(found: Checked, p: float, cells: int) -> str:
    """What was seen when a cell was flagged: pages and tables show its second measurement."""
    worst = min((test for test in found.verdict.tests if test.slower > test.faster), key=lambda test: test.p_regressed)
    return f"the first measurement: {worst.metric} slower by {worst.effect}, p {p:.2g} by Holm over {cells} cells"


def _stamps(*arms: Arm) -> dict[str, tuple[int, ...] | None]:
    """File of a model -> what changes when it is written again or replaced; None where it is gone."""
    found: dict[str, tuple[int, ...] | None] = {}
    for file in [file for arm in arms for files in arm.job.graphs.values() for file in files]:
        try:
            status = Path(file).stat()
            found[file] = (status.st_ino, status.st_size, status.st_mtime_ns)
        except OSError:
            found[file] = None
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
        (float(session.told["noise"]), len(session.told.get("counted", ())) - 1)
        for session in history.sessions(kind="check", device=device.identity.name, limit=REMEMBERED * 5)
        if session.environment == environment and session.told.get("noise") is not None and any(launch.line == line for launch in session.launches)
    ][:REMEMBERED]
    degrees = sum(degree for _, degree in found)
    return math.sqrt(sum(sd * sd * degree for sd, degree in found) / degrees) if degrees > 0 else None


def _environment_notes(baseline: Arm, device: DeviceIdentity) -> list[str]:
    """How the device differs from where the baseline was set: it runs again here, so that this is no mismatch, but people want to know."""
    now, kept = device.fingerprint, baseline.environment
    return [
        f"the baseline was set with {name} {kept.get(name, 'absent')}, here it is {now.get(name, 'absent')}"
        for name in sorted({*kept, *now})
        if kept and now and kept.get(name) != now.get(name)
    ]


def _label(key: str, device: str) -> str:
    return f"{key or 'the artifact'} on {device}"


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
