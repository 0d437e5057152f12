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
from kdedge.errors import TrainingError


class TermLog:
    """Collects each step's terms without waiting for the device, and looks at them when `check` is called.

    Sums are taken step by step in float64, so that a line does not depend on when `check` was called. A line holds no time of day and no
    duration: a repeated or resumed run writes the same bytes.
    """

    def __init__(self, terms: Sequence[TermSpec], steps_per_epoch: int, epochs: int) -> None:
        self.lines: list[str] = []
        self._terms = tuple(terms)
        self._steps_per_epoch, self._epochs = steps_per_epoch, epochs
        self._waiting: list[Tensor] = []
        self._next = 0
        self._sums, self._count = [0.0] * len(terms), 0
        self._last = [0.0] * len(terms)

    def add(self, values: Tensor) -> None:
        """The unweighted terms of the next step, [terms], on any device."""
        self._waiting.append(values)

    def check(self) -> float:
        """Take in the steps that wait; the weighted loss of the last one.

        Raises:
            TrainingError: a term became infinite or no number; names the first one, its step and its epoch (both from 1).
        """
        rows: list[list[float]] = torch.stack(self._waiting).double().tolist() if self._waiting else []
        self._waiting.clear()
        for row in rows:
            for term, value in zip(self._terms, row, strict=True):
                if not math.isfinite(value):
                    raise TrainingError(
                        f"the loss term `{term.name}` became {value} in step {self._next + 1} (epoch {self._next // self._steps_per_epoch + 1} of "
                        f"{self._epochs}): lower optimizer.lr, set clip_norm or warmup_epochs, or look at the data; the last good checkpoint is kept"
                    )
            self._sums = [total + value for total, value in zip(self._sums, row, strict=True)]
            self._count += 1
            self._next += 1
            self._last = row
        return sum(term.weight * value for term, value in zip(self._terms, self._last, strict=True))

    def line(self, learning_rate: float, mean_over_processes: Callable[[list[float]], list[float]]) -> None:
        """End a line: means since the line before, each term as the loss gave it and times its weight. All steps must have been checked."""
        means = mean_over_processes([total / self._count for total in self._sums])
        terms = {term.name: {"raw": mean, "weighted": term.weight * mean} for term, mean in zip(self._terms, means, strict=True)}
        record = {
            "step": self._next,
            "epoch": self._next / self._steps_per_epoch,
            "lr": learning_rate,
            "loss": sum(entry["weighted"] for entry in terms.values()),
            "terms": terms,
        }
        self.lines.append(json.dumps(record))
        self._sums, self._count = [0.0] * len(self._terms), 0

    def write(self, path: Path) -> None:
        """Write all lines so far."""
        path.write_text("".join(line + "\n" for line in self.lines))

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps. All steps must have been checked."""
        return {"lines": list(self.lines), "next": self._next, "sums": list(self._sums), "count": self._count}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.lines, self._next, self._sums, self._count = list(state["lines"]), state["next"], list(state["sums"]), state["count"]
