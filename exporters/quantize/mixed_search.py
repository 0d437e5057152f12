"""Which layers stay float: a greedy search by how much each brings the integers closer to the float graph for a millisecond that it costs.

Nothing here runs a graph: what a choice of layers is worth comes from three callables. So the order of the search can be checked on paper, and a
search that was killed goes on where it was, when the callables remember what they answered.

The gain of a layer changes with the layers that are float already, so it is measured again before the layer is taken; since it rarely grows, only
the layer on top of the list has to be measured again, until the top stays the top (lazy greedy; Minoux 1978).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from kdedge.artifact import MixedTrial
from kdedge.exporters.quantize.budget import Budget

#: A layer that costs nothing measurable still has to be worth something: the smallest cost, as a share of the mean.
_CHEAPEST = 0.01


@dataclass(frozen=True)
class Layer:
    """A layer that may stay float. `cost`: what that costs alone, in ms (or in multiply-accumulates, where nothing can be timed)."""

    name: str
    cost: float


class Measure(Protocol):
    """Measures a choice for real: the artifact in which the `kept` layers are float."""

    def __call__(self, kept: tuple[str, ...]) -> MixedTrial:
        """Fidelity on held-out examples, and latency where it can be timed."""


Distance = Callable[[tuple[str, ...]], float]
"""How far the graph in which these layers are float is from the float graph, on the examples that the search learns from."""


@dataclass(frozen=True)
class Outcome:
    """All trials in order, of which one is chosen, and what a person should know."""

    trials: tuple[MixedTrial, ...]
    chosen: MixedTrial
    note: str


def search(layers: Sequence[Layer], distance: Distance, measure: Measure, budget: Budget, limit: int, *, other: str = "float32") -> Outcome:
    """Find the fewest and cheapest float layers that meet `budget`, in at most `limit` trials; the best that was seen where none does.

    `other`: the type in which layers stay, for the note.
    """
    return _Search(layers, distance, measure, budget, limit, other).run()


class _Search:
    def __init__(self, layers: Sequence[Layer], distance: Distance, measure: Measure, budget: Budget, limit: int, other: str) -> None:
        mean = sum(max(layer.cost, 0.0) for layer in layers) / max(len(layers), 1)
        self.cost = {layer.name: max(layer.cost, _CHEAPEST * mean, 1e-12) for layer in layers}
        self.order = {layer.name: place for place, layer in enumerate(layers)}
        self.distance, self.measure, self.budget, self.limit, self.other = distance, measure, budget, limit, other
        self.trials: list[MixedTrial] = []
        self.kept: tuple[str, ...] = ()
        self.queue: list[tuple[float, int, str, tuple[str, ...]]] = []
        self.why_stopped = ""

    def run(self) -> Outcome:
        current = self._try(())
        if not self._met(current):
            self._fill()
            current = self._leap(self._grow(current))
        if self._met(current):
            self._shrink(current)
        return self._outcome()

    # ---- adding layers ---------------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        for name in self.order:
            heapq.heappush(self.queue, (-self._worth((), name), self.order[name], name, ()))

    def _worth(self, kept: tuple[str, ...], name: str) -> float:
        """How much the distance falls when this layer is float beside `kept`, for a unit of what that costs."""
        return (self.distance(kept) - self.distance(self._sorted((*kept, name)))) / self.cost[name]

    def _grow(self, current: MixedTrial) -> MixedTrial:
        most = math.inf
        while not self._met(current):
            left = self.limit - len(self.trials)
            if left <= 0:
                self.why_stopped = f"the limit of {self.limit} trials was reached"
                break
            # As many at once as the trials that are left make necessary.
            group = self._next(min(max(1, math.ceil(len(self.queue) / left)), most))
            if not group:
                self.why_stopped = "no other layer brings it closer"
                break
            trial = self._try(self._sorted((*self.kept, *group)))
            if self.budget.fast_enough(trial.latency_ms) and self._better(trial, current):
                self.kept, current, most = trial.kept, trial, math.inf
            elif len(group) > 1:  # one of them may still fit
                for name in group:
                    heapq.heappush(self.queue, (-self._worth(self.kept, name), self.order[name], name, self.kept))
                most = len(group) // 2
        return current

    def _next(self, count: float) -> tuple[str, ...]:
        """The layers that are worth most beside those that are float already."""
        group: list[str] = []
        while self.queue and len(group) < count:
            beside = self._sorted((*self.kept, *group))
            worth, place, name, measured_beside = heapq.heappop(self.queue)
            if measured_beside != beside:
                worth = -self._worth(beside, name)
                if self.queue and (worth, place) > self.queue[0][:2]:
                    heapq.heappush(self.queue, (worth, place, name, beside))
                    continue
            if worth >= 0:
                heapq.heappush(self.queue, (worth, place, name, beside))
                if self._refreshed(beside):
                    continue  # another one may be worth more than when it was measured
                break
            group.append(name)
        return tuple(group)

    def _refreshed(self, beside: tuple[str, ...]) -> bool:
        """Measure the worth of all waiting layers again; False where nothing was left to measure."""
        stale = any(entry[3] != beside for entry in self.queue)
        if stale:
            self.queue = [(-self._worth(beside, name), place, name, beside) for _, place, name, _ in self.queue]
            heapq.heapify(self.queue)
        return stale

    def _leap(self, current: MixedTrial) -> MixedTrial:
        """Where no layer helps alone, all together may: their errors can cancel each other. What was not needed is taken back afterwards."""
        everything = tuple(self.order)
        if self._met(current) or len(self.trials) >= self.limit or any(trial.kept == everything for trial in self.trials):
            return current
        return self._try(everything)

    # ---- taking layers back ----------------------------------------------------------------------------------------------

    def _shrink(self, current: MixedTrial) -> None:
        """What is not needed becomes integer again, while trials are left: half of the layers at first, those whose place among the others is worth
        least for a millisecond; fewer where that was too much."""
        waiting = sorted(current.kept, key=lambda name: (self._worth(_without(current.kept, (name,)), name), self.order[name]))
        size = max(1, len(waiting) // 2)
        while waiting and len(self.trials) < self.limit:
            fewer = _without(current.kept, waiting[:size])
            known = any(trial.kept == fewer for trial in self.trials)
            trial = None if known else self._try(fewer)
            if trial is not None and self._met(trial):
                current, waiting = trial, waiting[size:]
            elif size > 1:
                size //= 2
            else:
                waiting = waiting[1:]

    # ---- judging ---------------------------------------------------------------------------------------------------------

    def _try(self, kept: tuple[str, ...]) -> MixedTrial:
        trial = self.measure(kept)
        self.trials.append(trial)
        return trial

    def _sorted(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(sorted(names, key=self.order.__getitem__))

    def _met(self, trial: MixedTrial) -> bool:
        return self.budget.met(trial.kl, trial.agreement) and self.budget.fast_enough(trial.latency_ms)

    def _better(self, trial: MixedTrial, than: MixedTrial) -> bool:
        """Less short of the budget; where agreement stands still, as it does in small steps, by a smaller KL."""
        return self._rank(trial) < self._rank(than)

    def _rank(self, trial: MixedTrial) -> tuple[float, float]:
        return self.budget.shortfall(trial.kl, trial.agreement), trial.kl

    def _price(self, trial: MixedTrial) -> tuple[bool, float]:
        """What was timed comes first: what layers are thought to cost is no latency, and beside one it says nothing."""
        return trial.latency_ms is None, trial.latency_ms if trial.latency_ms is not None else sum(self.cost[name] for name in trial.kept)

    def _outcome(self) -> Outcome:
        allowed = [trial for trial in self.trials if self.budget.fast_enough(trial.latency_ms)]
        met = [trial for trial in allowed if self._met(trial)]
        if met:
            best = min(met, key=lambda trial: (self._price(trial), len(trial.kept)))
        elif allowed:
            best = min(allowed, key=lambda trial: (*self._rank(trial), len(trial.kept)))
        else:
            best = min(self.trials, key=self._price)
        place = self.trials.index(best)
        chosen = replace(best, chosen=True)
        trials = (*self.trials[:place], chosen, *self.trials[place + 1 :])
        return Outcome(trials, chosen, self._note(best, bool(met), bool(allowed)))

    def _note(self, best: MixedTrial, met: bool, allowed: bool) -> str:
        held = f"{len(best.kept)} of {len(self.order)} layers stay {self.other}, found in {_trials(len(self.trials))}"
        if met:
            unknown = ", as far as it was measured (no latency)" if self.budget.latency is not None and best.latency_ms is None else ""
            return f"`{self.budget}` is met{unknown}: {held}"
        found = f"KL {best.kl:.3g}, agreement {best.agreement:.4f}" + ("" if best.latency_ms is None else f", {best.latency_ms:.3g} ms")
        if not allowed and self.budget.latency is not None and best.latency_ms is not None:
            over = best.latency_ms / self.budget.latency.limit - 1
            return f"`{self.budget}` is not met: the fastest that was seen takes {100 * over:.0f} % longer than allowed ({found}); {held}"
        short = 100 * self.budget.shortfall(best.kl, best.agreement)
        return f"`{self.budget}` is not met: the best loses {short:.0f} % more than allowed ({found}), {self.why_stopped}; {held}"


def _without(kept: tuple[str, ...], names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in kept if name not in names)


def _trials(count: int) -> str:
    return f"{count} trial" + ("s" if count != 1 else "")
