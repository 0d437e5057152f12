"""The release policy and its verdict: rules on figures, decided by their intervals, never by point values.

A rule passes where the whole interval is on its right side, fails where the whole interval is on the wrong side, and is inconclusive between.
Each target ships its best passing artifact; the run fails where a target that ran has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kdedge.conditions import COMPARISONS, NATS, SHARES, TIMES, nearest, read_condition
from kdedge.errors import RecipeError
from kdedge.estimate import FRACTION, Estimate
from kdedge.measured import Cell
from kdedge.targets import TARGETS

Outcome = Literal["pass", "fail", "inconclusive", "not-run"]
RuleOutcome = Literal["pass", "fail", "inconclusive", "not-counted"]

EXIT_CODES: dict[Outcome, int] = {"pass": 0, "fail": 1, "inconclusive": 3}
INVALID_EXIT_CODE = 4
"""Where nothing failed and a latency could not be had since the device throttled during every launch."""

_ENERGIES = {"mJ": "1", "J": "1e3", "uJ": "1e-3"}
_SIZES = {"B": "1", "KB": "1e3", "kB": "1e3", "MB": "1e6", "GB": "1e9", "KiB": "1024", "MiB": "1048576", "GiB": "1073741824"}


@dataclass(frozen=True)
class Figure:
    """A figure that rules may name: its unit (that of the JSON; sizes in bytes), the units that a rule may be written in (factors to that unit),
    where a cell holds it, and whether it belongs to the device's speed and memory, for which a proxy never counts."""

    unit: str
    units: Mapping[str, str]
    read: Callable[[Cell], Estimate | float | None]
    of_device: bool = False


def _fidelity(name: str) -> Callable[[Cell], Estimate | None]:
    return lambda cell: cell.fidelity.figures.get(name)


def _latency(name: str) -> Callable[[Cell], Estimate | None]:
    return lambda cell: cell.latency.figures.get(name)


def _peak_memory(cell: Cell) -> float | None:
    return None if cell.latency.peak_memory_mb is None else cell.latency.peak_memory_mb * 1e6


_P90 = "latency_p90"
_FEWEST_LAUNCHES = 3  # below, the spread of launches cannot be seen
_EACH_BOUND = 0.975  # of each bound alone: together the 95 % of all intervals

_METRIC = Figure("", SHARES, _fidelity("metric"))

FIGURES: dict[str, Figure] = {
    "metric": _METRIC,
    "agreement_student": Figure(FRACTION, SHARES, _fidelity("agreement_student")),
    "agreement_teacher": Figure(FRACTION, SHARES, _fidelity("agreement_teacher")),
    "kl_student": Figure("nats", NATS, _fidelity("kl_student")),
    "kl_teacher": Figure("nats", NATS, _fidelity("kl_teacher")),
    "sqnr_db": Figure("dB", {"": "1", "dB": "1"}, _fidelity("sqnr_db")),
    "largest_error": Figure("", {"": "1"}, lambda cell: cell.fidelity.largest_error),
    "integer_share": Figure(FRACTION, SHARES, lambda cell: cell.fidelity.audit.integer_share if cell.fidelity.audit else None),
    "latency_median": Figure("ms", TIMES, _latency("latency_median"), of_device=True),
    "latency_p90": Figure("ms", TIMES, _latency("latency_p90"), of_device=True),
    "energy_net": Figure("mJ", _ENERGIES, lambda cell: cell.latency.energy.get("energy_net"), of_device=True),
    "energy_gross": Figure("mJ", _ENERGIES, lambda cell: cell.latency.energy.get("energy_gross"), of_device=True),
    "size": Figure("B", _SIZES, lambda cell: float(cell.artifact.size_bytes)),
    "peak_memory": Figure("B", _SIZES, _peak_memory, of_device=True),
}
"""What a gate can ask for; `metric` goes by the task's own name for it too."""


# ---- the policy ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """`key operator limit`, e.g. latency_median <= 2.0 (in the figure's unit); `text` is how the user wrote it."""

    key: str
    operator: str
    limit: float
    text: str


@dataclass(frozen=True)
class Policy:
    """The rules, the task's name for `metric`, and which targets must have run: "all", or their names."""

    rules: tuple[Rule, ...]
    metric: str
    require: Literal["all"] | tuple[str, ...] = ()

    def requires(self, target: str) -> bool:
        """Whether a target that did not run is more than a note."""
        return self.require == "all" or target in self.require

    def figure(self, key: str) -> Figure:
        """The figure that a rule's key stands for."""
        return _METRIC if key == self.metric else FIGURES[key]


def parse_policy(gate: Mapping[str, str | Sequence[str]], metric: str = "accuracy") -> Policy:
    """Read the recipe's `gate`: figure -> rule, and `require: all` or target names.

    `metric` is the task's name for its metric, under which rules may ask for it.

    Raises:
        RecipeError: a key, operator, number, unit or target that is not known; names the key and what is allowed.
    """
    rules: list[Rule] = []
    require: Literal["all"] | tuple[str, ...] = ()
    for key, text in gate.items():
        if key == "require":
            require = _parse_require(text)
        else:
            rules.append(_parse_rule(key, text, metric))
    return Policy(tuple(rules), metric, require)


def _parse_rule(key: str, text: Any, metric: str) -> Rule:
    allowed = (metric, *FIGURES)
    if key not in allowed:
        raise RecipeError(f"gate.{key}: there is no such figure{nearest(key, allowed)} (allowed: {', '.join(allowed)}, require)")
    figure = _METRIC if key == metric else FIGURES[key]
    found = read_condition(f"gate.{key}", text, figure.units, share=figure.unit == FRACTION)
    if figure.units in (TIMES, _SIZES) and found.limit < 0:
        raise RecipeError(f"gate.{key}: `{text}`: it is never below 0, so that this rule would say the same of every artifact; write a limit above 0")
    return Rule(key, found.operator, found.limit, found.text)


def _parse_require(value: Any) -> Literal["all"] | tuple[str, ...]:
    if not isinstance(value, str | list | tuple):
        raise RecipeError(f"gate.require: `{value}` names no targets (allowed: all, or a list of some of {', '.join(TARGETS)})")
    names = [name.strip() for name in value.strip().strip("[]").split(",")] if isinstance(value, str) else [str(name) for name in value]
    if names == ["all"]:
        return "all"
    for name in names:
        if name not in TARGETS:
            raise RecipeError(f"gate.require: there is no target `{name}`{nearest(name, TARGETS)} (allowed: all, or some of {', '.join(TARGETS)})")
    return tuple(names)


# ---- the verdict -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RuleVerdict:
    """One rule on one cell, with the sentence that shows why. `not-counted`: the cell cannot speak for this figure (a proxy's latency)."""

    rule: Rule
    verdict: RuleOutcome
    evidence: str


@dataclass(frozen=True)
class CellVerdict:
    """One artifact on one device. `reason` says why it failed or did not run; empty where the rules say it all."""

    cell: Cell
    verdict: Outcome
    rules: tuple[RuleVerdict, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class TargetVerdict:
    """A target: what it ships (a cell of its best passing artifact), or why it ships nothing."""

    target: str
    verdict: Outcome
    reason: str
    ships: Cell | None = None


@dataclass(frozen=True)
class GateVerdict:
    """The run's verdict with everything that led to it. `exit_code`: 0 pass, 1 fail, 3 inconclusive, 4 where nothing failed and something could
    not be measured. `reasons`: lines for people."""

    verdict: Outcome
    exit_code: int
    cells: tuple[CellVerdict, ...]
    targets: tuple[TargetVerdict, ...]
    reasons: tuple[str, ...]

    @property
    def shipped(self) -> tuple[Cell, ...]:
        """One cell for each target that has a passing artifact."""
        return tuple(target.ships for target in self.targets if target.ships is not None)

    @property
    def unproven(self) -> tuple[Cell, ...]:
        """One cell for each artifact of a target that ran nowhere: nothing speaks against it and nothing for it, so a bundle of it must say so
        and be checked on the device itself."""
        waiting = {target.target for target in self.targets if target.verdict == "not-run"}
        cells = {one.cell.artifact.sha256: one.cell for one in reversed(self.cells) if one.cell.artifact.target in waiting}
        return tuple(reversed(cells.values()))


def decide(policy: Policy, cells: Sequence[Cell]) -> GateVerdict:
    """Judge every cell by every rule, choose what each target ships, and conclude.

    A target fails when it ran and none of its artifacts passes and none is undecided, or when it is required and did not run; it is inconclusive
    when nothing passes but something is undecided. The run fails with any target, else is inconclusive with any, else passes. Where there
    are rules and no cell ran at all, nothing is proven: inconclusive.
    """
    judged = tuple(_judge_cell(policy, cell) for cell in cells)
    names = list(dict.fromkeys(cell.artifact.target for cell in cells))
    names += [name for name in (() if policy.require == "all" else policy.require) if name not in names]
    targets = tuple(_judge_target(policy, name, [one for one in judged if one.cell.artifact.target == name]) for name in names)
    outcomes = {target.verdict for target in targets}
    nothing_ran = outcomes <= {"not-run"}
    verdict: Outcome = "pass"
    if "fail" in outcomes:
        verdict = "fail"
    elif "inconclusive" in outcomes or (policy.rules and nothing_ran):
        verdict = "inconclusive"
    reasons = [f"{target.target}: {target.reason}" for target in targets]
    if policy.rules and nothing_ran:
        reasons.append("no artifact ran on any device, so no rule could be checked")
    if not policy.rules:
        reasons.append("the gate has no rules: whatever ran without a failure passes")
    invalid = verdict != "fail" and any(_is_invalid(cell) for cell in cells)
    return GateVerdict(verdict, INVALID_EXIT_CODE if invalid else EXIT_CODES[verdict], judged, targets, tuple(reasons))


def _is_invalid(cell: Cell) -> bool:
    """Whether something that would count could not be measured: the device was lost, or throttled during every launch."""
    return cell.fidelity.lost or (cell.latency.is_invalid and not cell.proxy)


def _judge_cell(policy: Policy, cell: Cell) -> CellVerdict:
    if cell.status == "not-run":
        return CellVerdict(cell, "not-run", reason=cell.reason)
    if cell.fidelity.lost:
        return CellVerdict(cell, "not-run", reason=f"the device could not be measured on: {cell.reason}")
    # A device that throttled, or was lost later, is no fault of the artifact: its fidelity counts, and its latency was not measured.
    if cell.status == "failed" and not cell.latency.is_invalid:
        return CellVerdict(cell, "fail", reason=f"failed: {cell.reason}")
    rules = tuple(_judge_rule(rule, policy.figure(rule.key), cell) for rule in policy.rules)
    return CellVerdict(cell, _worst([rule.verdict for rule in rules]), rules)


def _judge_rule(rule: Rule, figure: Figure, cell: Cell) -> RuleVerdict:
    if figure.of_device and cell.proxy:
        evidence = f"{rule.key} is not counted: `{cell.device}` is a proxy, it stands outside the machines that `{cell.artifact.target}` is for"
        return RuleVerdict(rule, "not-counted", evidence)
    found = figure.read(cell)
    if found is None:
        why = cell.latency.reason or "; ".join(cell.latency.notes) if figure.of_device else cell.fidelity.reason
        return RuleVerdict(rule, "inconclusive", f"{rule.key} was not measured{f' ({why})' if why else ''}, so `{rule.text}` cannot be checked")
    if isinstance(found, Estimate):
        shown, limits = str(found), found.interval
        if limits is None:
            return RuleVerdict(rule, "inconclusive", f"{rule.key} {shown}: without an interval `{rule.text}` can be neither confirmed nor refuted")
    else:
        shown, limits = _plain(found, figure.unit), (found, found)
    right = [COMPARISONS[rule.operator](end, rule.limit) for end in limits]
    if all(right):
        passed = RuleVerdict(rule, "pass", f"{rule.key} {shown} meets `{rule.text}`")
        return _over_all_launches(passed, cell) if rule.key == _P90 else passed
    if not any(right):
        # Which metrics are shares shows only now: the task names its metric and not its unit.
        scale = " (a share: write 0.9 or 90 %)" if isinstance(found, Estimate) and found.unit == FRACTION and abs(rule.limit) > 1 else ""
        return RuleVerdict(rule, "fail", f"{rule.key} {shown} breaks `{rule.text}`{scale}")
    return RuleVerdict(rule, "inconclusive", f"{rule.key} {shown}: the limit of `{rule.text}` lies within the interval")


def _over_all_launches(passed: RuleVerdict, cell: Cell) -> RuleVerdict:
    """A p90 that passed, once more over the iterations of all launches together, from their raw samples.

    The figure is that of the median launch, and so is its interval: two slow launches of twelve move neither, though more than a tenth of all
    iterations is slow then. A budget is for iterations. A cell without raw samples, of fewer than three launches, is judged by its figure alone.
    """
    latency, rule = cell.latency, passed.rule
    valid = [path for path, reason in zip(latency.samples, latency.invalid or ("",) * len(latency.samples), strict=True) if not reason]
    if len(valid) < _FEWEST_LAUNCHES:
        return passed
    import numpy as np

    from kdedge.latency.budgets import percentile_bounds

    try:
        bounds = percentile_bounds([np.load(path, allow_pickle=False) / 1e6 for path in valid], 0.90, _EACH_BOUND)
    except (OSError, ValueError) as error:
        return RuleVerdict(rule, "inconclusive", f"{rule.key}: the raw samples that `{rule.text}` is checked on cannot be read: {error}")
    # A bound that so few iterations cannot give lies anywhere.
    low, high = bounds.low or 0.0, math.inf if bounds.high is None else bounds.high
    shown = f"over all {len(valid)} launches together {bounds.value:.4g} ms [{low:.4g}, {high:.4g}]"
    right = [COMPARISONS[rule.operator](end, rule.limit) for end in (low, high)]
    if all(right):
        return RuleVerdict(rule, "pass", f"{passed.evidence}; {shown}")
    if not any(right):
        return RuleVerdict(rule, "fail", f"{rule.key} {shown} breaks `{rule.text}`: some launches are slower than the median one")
    return RuleVerdict(rule, "inconclusive", f"{rule.key} {shown}: `{rule.text}` is met by the median launch, which does not prove it for all")


def _plain(value: float, unit: str) -> str:
    """A figure that is measured once, for people."""
    if unit != "B":
        return f"{value:.4g}"
    scale, name = next(((scale, name) for scale, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "KB")) if value >= scale), (1.0, "B"))
    return f"{value / scale:.4g} {name}"


def _worst(outcomes: Sequence[str]) -> Outcome:
    return "fail" if "fail" in outcomes else "inconclusive" if "inconclusive" in outcomes else "pass"


# ---- artifacts and targets -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Candidate:
    """One artifact with its cells, judged over all devices that ran it."""

    cells: tuple[CellVerdict, ...]
    verdict: Outcome
    reason: str

    @property
    def name(self) -> str:
        return self.cells[0].cell.artifact.precision

    @property
    def shipped_cell(self) -> Cell:
        """A cell that ran, on a device of the target if there is one."""
        ran = [one.cell for one in self.cells if one.verdict != "not-run"]
        return next((cell for cell in ran if not cell.proxy), ran[0])

    @property
    def latency(self) -> Estimate | None:
        """The median on the slowest device of the target that ran it."""
        found = [one.cell.latency.figures.get("latency_median") for one in self.cells if not one.cell.proxy]
        return max((estimate for estimate in found if estimate), key=lambda estimate: estimate.value, default=None)

    @property
    def rank(self) -> tuple[float, int]:
        """Fastest first, then smallest; what was timed nowhere comes after what was."""
        return self.latency.value if self.latency else math.inf, self.cells[0].cell.artifact.size_bytes


def _judge_target(policy: Policy, target: str, judged: Sequence[CellVerdict]) -> TargetVerdict:
    groups: dict[tuple[str, str], list[CellVerdict]] = {}
    for one in judged:
        groups.setdefault((one.cell.artifact.precision, one.cell.artifact.sha256), []).append(one)
    candidates = [_judge_artifact(policy, cells) for cells in groups.values()]
    ran = [candidate for candidate in candidates if candidate.verdict != "not-run"]
    if not ran:
        why = "; ".join(dict.fromkeys(candidate.reason for candidate in candidates)) or "the recipe exports nothing for it"
        return TargetVerdict(target, "fail" if policy.requires(target) else "not-run", f"{'required, but ' * policy.requires(target)}not run: {why}")
    passing = sorted((candidate for candidate in ran if candidate.verdict == "pass"), key=lambda candidate: candidate.rank)
    others = [f"{candidate.name} {_WORDS[candidate.verdict]}: {candidate.reason}" for candidate in candidates if candidate.verdict != "pass"]
    if not passing:
        return TargetVerdict(target, "inconclusive" if any(one.verdict == "inconclusive" for one in ran) else "fail", "; ".join(others))
    best = passing[0]
    timed = f"median {best.latency}, " if best.latency else ""
    size = _plain(float(best.cells[0].cell.artifact.size_bytes), "B")
    return TargetVerdict(target, "pass", "; ".join([f"ships {best.name} ({timed}{size})", *others]), best.shipped_cell)


_WORDS: dict[Outcome, str] = {"fail": "fails", "inconclusive": "is inconclusive", "not-run": "was not run"}


def _judge_artifact(policy: Policy, cells: Sequence[CellVerdict]) -> _Candidate:
    """An artifact passes where all its cells that ran do, and every rule was decided by at least one of them."""
    ran = [one for one in cells if one.verdict != "not-run"]
    if not ran:
        return _Candidate(tuple(cells), "not-run", "; ".join(dict.fromkeys(f"{one.reason} ({one.cell.device})" for one in cells)))
    verdict = _worst([one.verdict for one in ran])
    reasons = [f"{text} ({one.cell.device})" for one in ran for text in _reasons(one, verdict)]
    if verdict == "pass":
        counted = {rule.rule.key for one in ran for rule in one.rules if rule.verdict != "not-counted"}
        missing = [rule for rule in policy.rules if rule.key not in counted]
        if missing:
            verdict = "inconclusive"
            reasons = [f"`{rule.key} {rule.text}` was measured on proxies only, which never count" for rule in missing]
    return _Candidate(tuple(cells), verdict, "; ".join(reasons))


def _reasons(one: CellVerdict, verdict: Outcome) -> list[str]:
    return [one.reason] if one.reason else [rule.evidence for rule in one.rules if rule.verdict == verdict]
