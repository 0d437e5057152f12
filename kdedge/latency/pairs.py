"""Launches in pairs: which runs first, which pairs count, and which are run again in place of those that do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from kdedge.errors import MeasurementError
from kdedge.latency.percentiles import nearest_rank
from kdedge.latency.signed_rank import log_ratios
from kdedge.latency.summary import Launch
from kdedge.latency.validity import CONCERNS, drops_pair

Float64 = npt.NDArray[np.float64]
Order = Literal["AB", "BA"]
"""Which of a pair is launched first: A is the baseline, B the candidate."""
Metric = Literal["latency_median", "latency_p90"]

MEDIAN: Metric = "latency_median"
P90: Metric = "latency_p90"


@dataclass(frozen=True)
class Timed:
    """One launch in a pair, in ms. `p90_ms` is None below its floor of iterations; `problems`: why it must not count (throttled, failed, loaded)."""

    median_ms: float | None
    p90_ms: float | None = None
    iterations: int = 0
    problems: tuple[str, ...] = ()

    def value(self, metric: Metric) -> float | None:
        """The figure that is compared."""
        return self.median_ms if metric == MEDIAN else self.p90_ms


@dataclass(frozen=True)
class Pair:
    """A launch of each, one after the other. `number` counts from 0 in the order in which pairs were run."""

    number: int
    order: Order
    baseline: Timed
    candidate: Timed

    @property
    def problems(self) -> tuple[str, ...]:
        """Why this pair does not count; empty where it does. What touches one launch drops both: the other has no partner."""
        found = [f"baseline: {problem}" for problem in self.baseline.problems] + [f"candidate: {problem}" for problem in self.candidate.problems]
        for name, each in (("baseline", self.baseline), ("candidate", self.candidate)):
            if each.median_ms is None and not each.problems:
                found.append(f"{name}: not measured")
        return tuple(found)

    @property
    def valid(self) -> bool:
        """Whether this pair counts."""
        return not self.problems

    def log_ratio(self, metric: Metric = MEDIAN) -> float | None:
        """ln(candidate / baseline); None where either is not known."""
        before, after = self.baseline.value(metric), self.candidate.value(metric)
        return None if before is None or after is None else float(log_ratios([after], [before])[0])

    def as_json(self) -> dict[str, Any]:
        """Plain data for a record."""
        return {
            "number": self.number,
            "order": self.order,
            "baseline": _json_of(self.baseline),
            "candidate": _json_of(self.candidate),
            "log_ratio": self.log_ratio() if self.valid else None,
            "problems": list(self.problems),
        }


def timed(samples_ms: npt.ArrayLike, problems: Sequence[str] = ()) -> Timed:
    """The figures of a launch's iterations, in ms.

    Raises:
        MeasurementError: no iteration, or a time that is not positive.
    """
    samples = np.asarray(samples_ms, dtype=np.float64)
    if samples.ndim != 1 or samples.size == 0 or not np.all(samples > 0):
        raise MeasurementError(f"a launch needs one positive time an iteration, and at least one; got an array of shape {list(samples.shape)}")
    return Timed(float(np.median(samples)), nearest_rank(samples, 0.90), samples.size, tuple(problems))


def timed_launch(launch: Launch) -> Timed:
    """A launch as one side of a pair. One that failed, was too short for the clock,
    or must not count by its evidence (`kdedge.latency.validity`) has a problem."""
    if launch.result.status != "ok":
        return failed(launch.result.reason or launch.result.status)
    if not np.all(launch.samples_ms > 0):
        return failed("at least one iteration was shorter than the clock of this device can tell")
    # Without the figure in brackets, so that launches of one kind are counted together.
    return timed(launch.samples_ms, [CONCERNS[kind].sentence.partition(" (")[0] for kind in drops_pair(launch.result)])


def failed(problem: str) -> Timed:
    """A launch that gave no samples."""
    return Timed(None, problems=(problem,))


def orders(pairs: int, seed: int) -> tuple[Order, ...]:
    """AB, BA, AB, BA ...: launches run A B B A A B B A, so that any drift that is linear in time cancels over two pairs.

    Which of both begins is drawn from `seed`.

    Raises:
        MeasurementError: not an even number of pairs, at least two.
    """
    if pairs < 2 or pairs % 2:
        raise MeasurementError(f"pairs come in twos, one in each order; {pairs} is not an even number of at least 2")
    both: tuple[Order, Order] = ("AB", "BA") if np.random.default_rng(seed).integers(2) == 0 else ("BA", "AB")
    return both * (pairs // 2)


def replacements(pairs: Sequence[Pair], wanted: int, first: Order) -> tuple[Order, ...]:
    """The orders of the pairs that are missing until `wanted` pairs count, half of them in each order; empty where nothing is missing.

    It looks at which pairs are valid, never at how long they took: what is run again cannot depend on who is winning.
    """
    short: dict[Order, int] = {"AB": wanted // 2, "BA": wanted // 2}
    for pair in pairs:
        if pair.valid:
            short[pair.order] = max(0, short[pair.order] - 1)
    second: Order = "BA" if first == "AB" else "AB"
    missing: list[Order] = []
    while short["AB"] + short["BA"] > 0:
        for order in (first, second):
            if short[order] > 0:
                missing.append(order)
                short[order] -= 1
    return tuple(missing)


def counted(pairs: Sequence[Pair], wanted: int) -> tuple[Pair, ...]:
    """The pairs that are tested: the first `wanted` / 2 valid ones of each order, as they were run."""
    left: dict[Order, int] = {"AB": wanted // 2, "BA": wanted // 2}
    kept = []
    for pair in pairs:
        if pair.valid and left[pair.order] > 0:
            left[pair.order] -= 1
            kept.append(pair)
    return tuple(kept)


def _json_of(one: Timed) -> dict[str, Any]:
    return {"median_ms": one.median_ms, "p90_ms": one.p90_ms, "iterations": one.iterations, "problems": list(one.problems)}
