"""What the terms of a loss did, step by step: the lines of `metrics.jsonl`, and the guard against values that are no numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdedge.distill.spec import TermSpec
from kdedge.errors import Diverged


class TermLog:
    """Collects each step's terms without waiting for the device, and looks at them when `check` is called.

    Sums are taken step by step in float64, so that a line does not depend on when `check` was called. A line holds no time of day and no
    duration: a repeated or resumed run writes the same bytes. `mean` is the mean of a tensor over all processes, in which all of them `check` and
    know the same: the terms of the whole batch, and a value that is no number in any of them.
    """

    def __init__(
        self, terms: Sequence[TermSpec], steps_per_epoch: int, epochs: int, mean: Callable[[Tensor], Tensor] = lambda values: values
    ) -> None:
        self.lines: list[str] = []
        self._terms = tuple(terms)
        self._steps_per_epoch, self._epochs = steps_per_epoch, epochs
        self._mean = mean
        self._waiting: list[tuple[Tensor, tuple[float, ...]]] = []
        self._next = 0
        self._sums = _Sums(len(terms))
        self._last = 0.0

    def add(self, values: Tensor, weights: tuple[float, ...], share: float = 1.0) -> None:
        """The unweighted terms of the next step, [terms], on any device, and their weights in it (0: the term was not computed). `share`: see
        `Batch`."""
        self._waiting.append((values if share == 1.0 else values * share, weights))

    def check(self) -> float:
        """Take in the steps that wait; the weighted loss of the last one.

        Raises:
            Diverged: a term became infinite or no number; names the first one, its step and its epoch (both from 1).
        """
        rows: list[list[float]] = self._mean(torch.stack([values for values, _ in self._waiting])).double().tolist() if self._waiting else []
        weights = [each for _, each in self._waiting]
        self._waiting.clear()
        for row, weighting in zip(rows, weights, strict=True):
            for term, value in zip(self._terms, row, strict=True):
                if not math.isfinite(value):
                    raise Diverged(
                        f"the loss term `{term.name}` became {value} in step {self._next + 1} (epoch {self._next // self._steps_per_epoch + 1} of "
                        f"{self._epochs}): lower optimizer.lr, set clip_norm or warmup_epochs, or look at the data; the last good checkpoint is kept"
                    )
            self._sums.add(row, weighting)
            self._next += 1
            self._last = sum(weight * value for weight, value in zip(weighting, row, strict=True))
        return self._last

    def line(self, learning_rate: float) -> dict[str, Any]:
        """End a line: means since the line before, each term as the loss gave it (over the steps in which it counted) and times its weight.

        All steps must have been checked. Returns the line.
        """
        weighted_means = self._sums.weighted_means()
        terms = {
            term.name: {"raw": raw, "weighted": weighted}
            for term, raw, weighted, steps in zip(self._terms, self._sums.raw_means(), weighted_means, self._sums.counted, strict=True)
            if steps
        }
        record = {
            "step": self._next,
            "epoch": self._next / self._steps_per_epoch,
            "lr": learning_rate,
            "loss": sum(weighted_means),
            "terms": terms,
        }
        self.lines.append(json.dumps(record))
        self._sums = _Sums(len(self._terms))
        return record

    def write(self, path: Path) -> None:
        """Write all lines so far."""
        path.write_text("".join(line + "\n" for line in self.lines))

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps. All steps must have been checked."""
        return {"lines": list(self.lines), "next": self._next, "sums": self._sums.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.lines, self._next = list(state["lines"]), state["next"]
        self._sums = _Sums(len(self._terms))
        self._sums.raw, self._sums.weighted, self._sums.counted, self._sums.steps = state["sums"]


class _Sums:
    """Sums since the last line, a term each: of the values in the steps where the term counted, of the weighted values in all steps."""

    def __init__(self, terms: int) -> None:
        self.raw, self.weighted, self.counted, self.steps = [0.0] * terms, [0.0] * terms, [0] * terms, 0

    def add(self, row: list[float], weights: tuple[float, ...]) -> None:
        for place, (value, weight) in enumerate(zip(row, weights, strict=True)):
            if weight > 0:
                self.raw[place] += value
                self.weighted[place] += weight * value
                self.counted[place] += 1
        self.steps += 1

    def raw_means(self) -> list[float]:
        return [total / max(count, 1) for total, count in zip(self.raw, self.counted, strict=True)]

    def weighted_means(self) -> list[float]:
        return [total / self.steps for total in self.weighted]

    def state(self) -> tuple[list[float], list[float], list[int], int]:
        return list(self.raw), list(self.weighted), list(self.counted), self.steps
