"""The latency regression check: launches of a baseline and a candidate in turns on one device, and a verdict at looks that were declared before.

Both run again, now: a stored number is no baseline. What is decided when stands in `verdicts.py` and `looks.py`; here launches are run, replaced by
rule where the machine throttled, and handed over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from kdedge import progress
from kdedge.devices.device import Device
from kdedge.errors import DeviceError, Disconnected, MeasurementError, WorkspaceError
from kdedge.latency.environment import ran_differently
from kdedge.latency.history.records import LaunchRecord
from kdedge.latency.launches import run_launch
from kdedge.latency.looks import Looks, fewest_even, spread_looks
from kdedge.latency.pairs import MEDIAN, P90, Metric, Order, Pair, Timed, orders, replacements, timed_launch
from kdedge.latency.power import Plan, decides, detectable, noise, pairs_needed, plan, spoken_seconds
from kdedge.latency.summary import Launch
from kdedge.latency.verdicts import CheckRule, CheckVerdict, judge
from kdedge.runtimes.job import Job, LaunchRule, Result

PAIRS, LOOKS = 16, 2
PILOT_PAIRS = 4
"""Where no history tells the noise, so many pairs say early what the check will be able to find."""
FAILURES_IN_A_ROW = 3
"""So many failed launches of one side after another are no bad luck."""


@dataclass(frozen=True)
class Arm:
    """One side of a check. `name`: as people see it; `line`: what of which it is a version (its series in the history); `sha256`: of its content;
    `job`: the launch, with inputs. `environment`: facts under which it was stored as a baseline, empty where it was not."""

    name: str
    line: str
    sha256: str
    job: Job
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckSettings:
    """What is declared before the first launch.

    `margin`: an accepted slow-down, as a fraction; `alpha`: the chance of a false alarm where the true slow-down is the margin. `pairs` of launches,
    or as many as fit into `budget_seconds`; `looks`: how often the data may be looked at. `launch`: warm-up and length of a launch. `timeout`:
    seconds for one launch. `allow_mismatch`: compare although runtimes or options differ.
    """

    margin: float = 0.03
    alpha: float = 0.01
    pairs: int = PAIRS
    budget_seconds: float | None = None
    looks: int = LOOKS
    metrics: tuple[Metric, ...] = (MEDIAN, P90)
    seed: int = 0
    launch: LaunchRule = field(default_factory=LaunchRule)
    timeout: float = 600.0
    allow_mismatch: bool = False


@dataclass(frozen=True)
class Checked:
    """A finished check. `plan`: what was planned, in a sentence; `launches`: all of them, in the order in which they ran, pilots left out;
    `seconds`: of wall-clock time."""

    verdict: CheckVerdict
    plan: str
    baseline: Arm
    candidate: Arm
    launches: tuple[LaunchRecord, ...]
    seconds: float


def check(
    device: Device,
    baseline: Arm,
    candidate: Arm,
    settings: CheckSettings,
    folder: Path,
    *,
    known_noise: float | None = None,
    told: Callable[[str], None] = lambda sentence: None,
    launched: Callable[[LaunchRecord], None] = lambda record: None,
) -> Checked:
    """Run a check on an opened device. `folder`: an empty one for raw samples. `known_noise`: standard deviation of log ratios from earlier checks.
    `launched`: is handed both launches of a pair when it has ended, so that those of a check that is broken off are known.

    Raises:
        MeasurementError: one side cannot be launched at all, the settings cannot decide anything, or the device is lost.
        WorkspaceError: `folder` cannot be written.
    """
    begun = time.monotonic()
    usual = _usual(settings)
    course = _Course(device, {"A": baseline, "B": candidate}, settings, folder, launched)
    mismatches = differences(baseline, candidate)
    pilots = course.pilot() if settings.allow_mismatch or not mismatches else ()
    if len(pilots) == 2:
        mismatches += ran_differently(*(launch.result for launch, _ in pilots))
    if mismatches and not settings.allow_mismatch:
        refused = judge((), usual, mismatches=mismatches)
        return Checked(refused, "nothing was timed", baseline, candidate, (), time.monotonic() - begun)
    planned = _planned(settings, usual.looks, pilots, known_noise)
    told(planned.sentence)
    if planned.looks is None:
        nothing = replace(judge((), usual), state="inconclusive", reason=planned.sentence)
        return Checked(nothing, planned.sentence, baseline, candidate, (), time.monotonic() - begun)
    verdict = course.run(CheckRule(planned.looks, settings.margin, settings.metrics), planned, mismatches, known_noise, told)
    return Checked(verdict, planned.sentence, baseline, candidate, tuple(course.records), time.monotonic() - begun)


def broken_off(baseline: Arm, candidate: Arm, settings: CheckSettings, reason: str, seconds: float, launches: Sequence[LaunchRecord] = ()) -> Checked:
    """What is told of a check that could not go on: invalid, and no launch of it counts. `launches`: those that had ended."""
    verdict = replace(judge((), _usual(settings)), state="invalid", reason=reason)
    return Checked(verdict, "unfinished, the check was broken off", baseline, candidate, tuple(launches), seconds)


def differences(baseline: Arm, candidate: Arm) -> list[str]:
    """In what both would be launched differently, one sentence each: a check compares artifacts, not settings."""
    found = []
    for what in ("runtime", "batch", "fixed_batch"):
        ours, theirs = getattr(baseline.job, what), getattr(candidate.job, what)
        if ours != theirs:
            found.append(f"{what.replace('_', ' ')}: {ours} and {theirs}")
    ours, theirs = baseline.job.options, candidate.job.options
    found += [
        f"option {name}: {ours.get(name, 'unset')} and {theirs.get(name, 'unset')}"
        for name in sorted({*ours, *theirs})
        if ours.get(name) != theirs.get(name)
    ]
    return found


def _usual(settings: CheckSettings) -> CheckRule:
    """The rule of a check without a budget; with one, that of the fewest pairs that can decide.

    Raises:
        MeasurementError: so many pairs cannot decide anything at this alpha.
    """
    tests = len(settings.metrics)
    pairs = settings.pairs if settings.budget_seconds is None else fewest_even(settings.alpha / tests)
    return CheckRule(spread_looks(pairs, settings.looks, settings.alpha, tests), settings.margin, settings.metrics)


@dataclass(frozen=True)
class Planned:
    """Looks (None where the budget is too short for any), how many pairs may replace invalid ones, and how long a launch is timed."""

    looks: Looks | None
    spares: int
    launch: LaunchRule
    sentence: str


def _planned(settings: CheckSettings, looks: Looks, pilots: Sequence[tuple[Launch, float]], known_noise: float | None) -> Planned:
    if settings.budget_seconds is None:
        spares = max(2, settings.pairs // 10 * 2)
        said = f"{looks.last} pairs of launches" + (f", looked at after {', '.join(map(str, looks.pairs))}" if len(looks.pairs) > 1 else "")
        return Planned(looks, spares, settings.launch, f"{said}; {_finds(known_noise, looks, settings.margin)}")
    iteration_ms = float(np.median([np.median(launch.samples_ms) for launch, _ in pilots]))
    spent = [seconds - float(launch.samples_ms.sum()) / 1000 for launch, seconds in pilots]
    left = max(1.0, settings.budget_seconds - sum(seconds for _, seconds in pilots))
    given = (round(left, 1), max(0.0, float(np.mean(spent))), iteration_ms, known_noise, settings.margin, settings.alpha)
    found: Plan = plan(*given, looks=settings.looks, tests=len(settings.metrics))
    rule = replace(brief(settings), min_iterations=found.iterations, min_seconds=0.0)
    return Planned(found.looks, found.spares, rule, found.sentence)


def brief(settings: CheckSettings) -> LaunchRule:
    """The rule of a launch under a budget: a quarter of it at most goes into warming up, where the fewest pairs that can decide are run."""
    if settings.budget_seconds is None:
        return settings.launch
    fewest = fewest_even(settings.alpha / len(settings.metrics))
    return replace(settings.launch, warmup_seconds=min(settings.launch.warmup_seconds, settings.budget_seconds / (8 * fewest)))


def _finds(noise: float | None, looks: Looks, margin: float) -> str:
    if noise is None:
        return "the noise of this device is not known yet"
    return f"a slow-down of {100 * detectable(noise, looks.last, margin, looks.share):.1f} % is found with 80 %"


def _shown_by(differences: Sequence[float], rule: CheckRule, pair_seconds: float) -> str:
    """What the first pairs of a check tell of its power: no more than about, since so few hardly show a spread."""
    sd = noise(differences) or 0.0
    finds = detectable(sd, rule.looks.last, rule.margin, rule.looks.share)
    said = f"the first {len(differences)} pairs show a noise of about {100 * sd:.2g} %: a slow-down of about {100 * finds:.1f} % is found with 80 %"
    if decides(sd, rule.looks.last, rule.margin, rule.looks.share):
        return said
    needed = pairs_needed(sd, rule.margin, rule.looks.share)
    return f"{said}; cannot decide at this noise, " + (
        f"needs about {needed} pairs, about {spoken_seconds(needed * pair_seconds)}" if needed else "whatever the number of pairs"
    )


class _Course:
    """The launches of one check, one after the other."""

    def __init__(
        self, device: Device, arms: Mapping[str, Arm], settings: CheckSettings, folder: Path, launched: Callable[[LaunchRecord], None]
    ) -> None:
        self.device, self.arms, self.settings, self.folder, self.launched = device, arms, settings, folder, launched
        self.number = 0
        self.pairs: list[Pair] = []
        self.records: list[LaunchRecord] = []
        self.failures = {"A": 0, "B": 0}
        self.seconds: list[float] = []
        self.told_noise: Callable[[Sequence[float]], None] | None = None

    def pilot(self) -> tuple[tuple[Launch, float], ...]:
        """A launch of each that counts for nothing: it shows that both run, and how long that takes."""
        found = []
        short = replace(brief(self.settings), min_seconds=0.0, min_iterations=1, max_seconds=2.0)
        for arm in ("A", "B"):
            for _ in range(FAILURES_IN_A_ROW):  # a connection may be lost, here as later
                begun = time.monotonic()
                launch = self._launch(arm, short)
                if launch.result.status == "ok":
                    break
            else:
                raise MeasurementError(f"{_SIDES[arm]} {self.arms[arm].name} cannot be launched: {launch.result.reason}")
            found.append((launch, time.monotonic() - begun))
        return tuple(found)

    def run(
        self, rule: CheckRule, planned: Planned, mismatches: Sequence[str], known_noise: float | None, told: Callable[[str], None]
    ) -> CheckVerdict:
        """Pairs up to each look, until a verdict is final."""
        self.told_noise = (lambda differences: told(_shown_by(differences, rule, float(np.mean(self.seconds))))) if known_noise is None else None
        before = None if known_noise is None else detectable(known_noise, rule.looks.last, rule.margin, rule.looks.share)
        first = orders(rule.looks.last, self.settings.seed)[0]
        verdict = None
        for look in rule.looks.pairs:
            self._fill(look, first, rule.looks.last + planned.spares, planned.launch)
            verdict = judge(
                self.pairs,
                rule,
                look,
                mismatches=mismatches,
                allow_mismatch=self.settings.allow_mismatch,
                detectable_before=before,
                pair_seconds=float(np.mean(self.seconds)) if self.seconds else None,
            )
            if verdict.final:
                break
        assert verdict is not None  # a rule has a look at least
        return verdict

    def _fill(self, wanted: int, first: Order, most: int, rule: LaunchRule) -> None:
        # Where more are missing than may still be run, no launch can make this look a valid one.
        while (missing := replacements(self.pairs, wanted, first)) and len(self.pairs) + len(missing) <= most:
            for order in missing:
                progress.advance("checking", len(self.pairs), max(wanted, len(self.pairs) + 1))
                begun = time.monotonic()
                self.pairs.append(self._pair(order, rule))
                self.seconds.append(time.monotonic() - begun)
                self._tell_noise()
                if len(self.pairs) + len(replacements(self.pairs, wanted, first)) > most:
                    return

    def _tell_noise(self) -> None:
        """Once, when enough pairs count. How far apart they are says nothing of which side is faster, so this is no look."""
        differences = [value for pair in self.pairs if pair.valid and (value := pair.log_ratio()) is not None]
        if self.told_noise is not None and len(differences) == PILOT_PAIRS:
            self.told_noise(differences)
            self.told_noise = None

    def _pair(self, order: Order, rule: LaunchRule) -> Pair:
        number = len(self.pairs)
        launches = {arm: self._launch(arm, rule) for arm in order}
        apart = () if self.settings.allow_mismatch else ran_differently(launches["A"].result, launches["B"].result)
        found = {arm: self._timed(arm, number, launch, apart) for arm, launch in launches.items()}
        return Pair(number, order, baseline=found["A"], candidate=found["B"])

    def _timed(self, arm: str, pair: int, launch: Launch, apart: Sequence[str]) -> Timed:
        """`apart`: in what the launch and its partner differ."""
        found = timed_launch(launch)
        if found.median_ms is None:
            self.failures[arm] += 1
            if self.failures[arm] >= FAILURES_IN_A_ROW:
                reason = "; ".join(found.problems)
                raise MeasurementError(f"{_SIDES[arm]} {self.arms[arm].name} failed in {FAILURES_IN_A_ROW} launches in a row: {reason}")
            return found
        self.failures[arm] = 0
        found = replace(found, problems=(*found.problems, *(f"both ran differently ({difference})" for difference in apart)))
        self.records.append(_record(self.arms[arm], arm, pair, launch, found))
        self.launched(self.records[-1])
        return found

    def _launch(self, arm: str, rule: LaunchRule) -> Launch:
        self.number += 1
        try:
            return run_launch(self.device, replace(self.arms[arm].job, launch=rule), self.folder, self.number, self.settings.timeout)
        except (MeasurementError, Disconnected) as error:  # this launch is lost; the next may work
            return Launch(np.empty(0), Result(status="failed", reason=str(error), runtime=self.arms[arm].job.runtime))
        except DeviceError as error:
            raise MeasurementError(f"the device was lost after {len(self.pairs)} pairs: {error}") from error
        except OSError as error:  # of this machine, such as a full disk: the next launch would meet it too
            reason = f"{error.strerror or error}; make room there, or let TMPDIR name another folder for temporary files"
            raise WorkspaceError(f"a launch cannot be kept in {self.folder}: {reason}") from error


def _record(arm: Arm, side: str, pair: int, launch: Launch, timed: Timed) -> LaunchRecord:
    return LaunchRecord(
        line=arm.line,
        sha256=arm.sha256,
        median_ms=timed.median_ms or 0.0,
        iterations=timed.iterations,
        arm=side,
        pair=pair,
        p90_ms=timed.p90_ms,
        invalid="; ".join(timed.problems),
        evidence={**launch.result.evidence, **({"loop": launch.result.facts["loop"]} if "loop" in launch.result.facts else {})},
        samples=np.rint(launch.samples_ms * 1e6).astype(np.int64),
    )


_SIDES = {"A": "the baseline", "B": "the candidate"}
