"""From pairs of launches to one of five verdicts: regressed, improved, equivalent, inconclusive, invalid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from kdedge.errors import MeasurementError
from kdedge.estimate import Estimate
from kdedge.latency.effect import percent, shift_interval, slow_down
from kdedge.latency.looks import Looks
from kdedge.latency.pairs import MEDIAN, P90, Metric, Pair, counted
from kdedge.latency.power import detectable_among, noise, pairs_needed, spoken_seconds
from kdedge.latency.signed_rank import signed_rank

Float64 = npt.NDArray[np.float64]
State = Literal["regressed", "improved", "equivalent", "inconclusive", "invalid"]

EXIT_CODES: dict[State, int] = {"improved": 0, "equivalent": 0, "regressed": 1, "inconclusive": 3, "invalid": 4}
SCHEMA = 1
_WORDS: dict[Metric, str] = {MEDIAN: "median", P90: "p90"}


@dataclass(frozen=True)
class CheckRule:
    """What was declared before the first launch. `margin`: a slow-down that is accepted, as a fraction; `looks` hold alpha and when to look.

    `metrics`: what is tested, the first decides whether both are equivalent. Its error rate is shared: give `looks` as many tests as metrics.

    Raises:
        MeasurementError: a margin that is not positive, no metric, or looks with another number of tests.
    """

    looks: Looks
    margin: float = 0.03
    metrics: tuple[Metric, ...] = (MEDIAN, P90)

    def __post_init__(self) -> None:
        if not self.margin > 0 or not self.metrics:
            raise MeasurementError(f"a check needs a positive margin and a metric; got {self.margin:g} and {list(self.metrics)}")
        if len(self.metrics) != self.looks.tests:
            raise MeasurementError(f"{len(self.metrics)} metrics are checked, but the looks share alpha among {self.looks.tests} tests")


@dataclass(frozen=True)
class MetricTest:
    """One metric of the counted pairs.

    `effect`: slow-down in percent with its 95 % interval; `bounds`: the same interval at the level of the test, in percent: `regressed` where it
    lies above the margin, `equivalent` where its high end lies below. `p_*`: of the three one-sided tests. `slower` and `faster`: pairs beyond the
    margin and within it; `sign_p`: the sign test's p value of the direction that the state claims, None where it claims none.
    """

    metric: Metric
    state: State
    effect: Estimate
    bounds: tuple[float, float] | None
    p_regressed: float
    p_improved: float
    p_equivalent: float
    slower: int
    faster: int
    sign_p: float | None
    note: str = ""


@dataclass(frozen=True)
class CheckVerdict:
    """A verdict with everything that a report needs. Fractions: `margin`, `alpha`, `share`, `detectable_before`, `detectable_after`."""

    state: State
    reason: str
    rule: CheckRule
    look: int
    tests: tuple[MetricTest, ...]
    pairs: tuple[Pair, ...]
    counted: tuple[int, ...]
    noise: float | None
    detectable_before: float | None
    detectable_after: float | None
    pairs_needed: int | None
    seconds_needed: float | None
    notes: tuple[str, ...] = field(default=())

    @property
    def exit_code(self) -> int:
        """0 fine, 1 a proven regression, 3 inconclusive, 4 invalid."""
        return EXIT_CODES[self.state]

    @property
    def final(self) -> bool:
        """Whether no declared look is left that could change it: later looks are only for what is undecided."""
        return self.state != "inconclusive" or self.look == len(self.rule.looks.pairs)

    @property
    def p_regressed(self) -> float:
        """For a family of cells: the smallest p value of this cell, by Bonferroni for all the tests that were declared, done or not.

        The look at which it stopped stands for all looks: its p value is no smaller than the smallest of them. A metric of which most pairs are not
        slower counts as 1, since it is never called regressed.
        """
        tests = self.rule.looks.tests * len(self.rule.looks.pairs)
        return min(1.0, tests * min((test.p_regressed for test in self.tests if test.slower > test.faster), default=1.0))

    def as_json(self) -> dict[str, Any]:
        """Plain data, versioned by `schema`; infinite values (a slow-down that no number of pairs finds) are null."""
        rule = self.rule
        return {
            "schema": SCHEMA,
            "state": self.state,
            "exit_code": self.exit_code,
            "reason": self.reason,
            "margin": rule.margin,
            "alpha": rule.looks.alpha,
            "share": rule.looks.share,
            "looks": list(rule.looks.pairs),
            "look": self.look,
            "metrics": [_json_of(test) for test in self.tests],
            "pairs": [pair.as_json() for pair in self.pairs],
            "counted": list(self.counted),
            "noise": self.noise,
            "detectable_before": _finite(self.detectable_before),
            "detectable_after": _finite(self.detectable_after),
            "pairs_needed": self.pairs_needed,
            "seconds_needed": self.seconds_needed,
            "notes": list(self.notes),
        }


def judge(
    pairs: Sequence[Pair],
    rule: CheckRule,
    look_at: int | None = None,
    *,
    mismatches: Sequence[str] = (),
    allow_mismatch: bool = False,
    detectable_before: float | None = None,
    pair_seconds: float | None = None,
) -> CheckVerdict:
    """The verdict of one declared look, after `look_at` counted pairs (by default the last look).

    `mismatches`: how the environments of both differ, one sentence each; they make the check invalid unless allowed, and then are notes.
    `pair_seconds`: what a pair took, to say how long the missing ones would take.

    Raises:
        MeasurementError: the look was not declared.
    """
    wanted = rule.looks.last if look_at is None else look_at
    look = rule.looks.number_of(wanted)
    kept = counted(pairs, wanted)
    notes = [f"environments differ, which was allowed: {mismatch}" for mismatch in mismatches if allow_mismatch]
    dropped = [pair for pair in pairs if not pair.valid]
    if dropped:
        notes.append(f"{len(dropped)} of {len(pairs)} pairs dropped: {_causes(dropped)}")
    tests = tuple(test for metric in rule.metrics if (test := _tested(kept, metric, rule)) is not None) if len(kept) == wanted else ()
    notes += [
        f"no {_WORDS[metric]}: at least one launch is too short for it"
        for metric in rule.metrics
        if tests and metric not in {one.metric for one in tests}
    ]
    state, reason = _state(kept, wanted, dropped, () if allow_mismatch else mismatches, tests, rule)
    if state in ("equivalent", "improved"):
        notes += [f"{_WORDS[test.metric]}: {_untold(test, rule)}" for test in tests[1:] if test.state == "inconclusive" and not test.note]
    differences = [value for pair in kept if (value := pair.log_ratio()) is not None]
    sd = noise(differences)
    after = detectable_among(differences, len(kept), rule.margin, rule.looks.share)
    needed = seconds = None
    if state == "inconclusive" and sd is not None and not tests[0].note:  # more pairs of the same kind would not decide what is skewed
        needed = pairs_needed(sd, rule.margin, rule.looks.share)
        seconds = None if needed is None or pair_seconds is None else needed * pair_seconds
        reason += _what_would_decide(needed, seconds, wanted, rule)
    return CheckVerdict(
        state=state,
        reason=reason,
        rule=rule,
        look=look,
        tests=tests,
        pairs=tuple(pairs),
        counted=tuple(pair.number for pair in kept),
        noise=sd,
        detectable_before=detectable_before,
        detectable_after=after,
        pairs_needed=needed,
        seconds_needed=seconds,
        notes=tuple(notes + [f"{_WORDS[test.metric]}: {test.note}" for test in tests if test.note]),
    )


def metric_test(metric: Metric, log_ratios: Sequence[float] | Float64, margin: float, share: float) -> MetricTest:
    """Test one metric's log ratios against the margin; every test at level `share`.

    `regressed` rejects "slower by the margin at most", `equivalent` rejects "slower by the margin at least", and `improved`, which is shown in its
    place, rejects "faster by the margin at most". The nulls of the first two meet in one point, so they need no correction for one another. Where the
    sign test sees most pairs on the other side than the state claims, the differences are not symmetric and the state is `inconclusive`.
    """
    values = np.asarray(log_ratios, dtype=np.float64)
    delta = float(np.log1p(margin))
    over, under = signed_rank(values - delta), signed_rank(values + delta)
    state: State = "inconclusive"
    sign_p, agrees = None, True
    if over.p_greater <= share:
        state, sign_p, agrees = "regressed", over.sign_greater, over.positive > over.negative
    elif under.p_less <= share:
        state, sign_p, agrees = "improved", under.sign_less, under.negative > under.positive
    elif over.p_less <= share:
        state, sign_p, agrees = "equivalent", over.sign_less, over.negative > over.positive
    note = "" if agrees else f"the signed-rank test says {state}, most pairs say otherwise: the differences are too skewed to decide"
    interval = shift_interval(values, 1 - 2 * share)
    return MetricTest(
        metric=metric,
        state=state if agrees else "inconclusive",
        effect=slow_down(metric, values),
        bounds=None if interval is None else (percent(interval[0]), percent(interval[1])),
        p_regressed=over.p_greater,
        p_improved=under.p_less,
        p_equivalent=over.p_less,
        slower=over.positive,
        faster=over.negative,
        sign_p=sign_p,
        note=note,
    )


def _tested(kept: Sequence[Pair], metric: Metric, rule: CheckRule) -> MetricTest | None:
    values = [pair.log_ratio(metric) for pair in kept]
    known = [value for value in values if value is not None]
    return metric_test(metric, known, rule.margin, rule.looks.share) if known and len(known) == len(values) else None


def _state(
    kept: Sequence[Pair], wanted: int, dropped: Sequence[Pair], mismatches: Sequence[str], tests: Sequence[MetricTest], rule: CheckRule
) -> tuple[State, str]:
    if mismatches:
        return "invalid", f"baseline and candidate did not run in the same environment: {'; '.join(mismatches)}"
    if len(kept) < wanted:
        why = f": {_causes(dropped)}" if dropped else ""
        return "invalid", f"{len(kept)} pairs count of the {wanted} that were declared, half of them in each order{why}"
    if not tests:
        return "invalid", "no declared metric was measured in every pair"
    for test in tests:
        if test.state == "regressed":
            return "regressed", f"{_WORDS[test.metric]} is slower by more than {100 * rule.margin:g} %: {test.effect} (p {_shown(test.p_regressed)})"
    first = tests[0]
    if first.state == "improved":
        return "improved", f"{_WORDS[first.metric]} is faster by more than {100 * rule.margin:g} %: {first.effect} (p {_shown(first.p_improved)})"
    if first.state == "equivalent":
        return "equivalent", f"{_WORDS[first.metric]} is not slower by {100 * rule.margin:g} %: {first.effect} (p {_shown(first.p_equivalent)})"
    return "inconclusive", f"{_WORDS[first.metric]} {_untold(first, rule)}" + (f"; {first.note}" if first.note else "")


def _untold(test: MetricTest, rule: CheckRule) -> str:
    return f"cannot be told from {100 * rule.margin:g} %: {test.effect}"


def _what_would_decide(needed: int | None, seconds: float | None, had: int, rule: CheckRule) -> str:
    if needed is None:
        return "; no number of pairs decides at this noise: make the device quieter or the margin wider"
    if needed <= had:
        return f"; the noise is low enough for {had} pairs, so the true change is close to the margin of {100 * rule.margin:g} %"
    about = "" if seconds is None else f", about {spoken_seconds(seconds)}"
    return f"; cannot decide at this noise, needs {needed} pairs{about}"


def _causes(dropped: Sequence[Pair]) -> str:
    """What dropped pairs, each cause with how many launches it touched."""
    counts = Counter(problem for pair in dropped for problem in (*pair.baseline.problems, *pair.candidate.problems))
    return "; ".join(f"{problem} ({count} launches)" if count > 1 else problem for problem, count in counts.most_common()) or "not measured"


def _shown(p: float) -> str:
    return f"{p:.2g}"


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def _json_of(test: MetricTest) -> dict[str, Any]:
    return {
        "metric": test.metric,
        "state": test.state,
        "effect": test.effect.as_json(),
        "bounds": None if test.bounds is None else list(test.bounds),
        "p_regressed": test.p_regressed,
        "p_improved": test.p_improved,
        "p_equivalent": test.p_equivalent,
        "slower": test.slower,
        "faster": test.faster,
        "sign_p": test.sign_p,
        "note": test.note,
    }
