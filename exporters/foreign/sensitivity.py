"""Which nodes stay float so that outputs stay near: each node with weights is quantized alone, and what noise that makes is counted.

Noise of different layers adds up nearly independently, so the power that all of some nodes make is predicted by the sum of each one's own. The
noisiest are kept float until the prediction meets the wish; the real file is then measured, and the wish made stricter where it fell short.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.errors import ExportError
from kdedge.exporters.dialects.dialect import Dialect
from kdedge.exporters.foreign.distance import Runner
from kdedge.exporters.foreign.inputs import Feed
from kdedge.exporters.quantize.lower import LoweredReport, lower_table
from kdedge.exporters.quantize.ranges import RangeTable
from kdedge.exporters.quantize.tensors import Float32
from kdedge.progress import advance

Float64 = npt.NDArray[np.float64]

#: Examples that sensitivities are measured on.
EXAMPLES = 8
_ROUNDS, _STRICTER_DB = 6, 2.0


@dataclass(frozen=True)
class Lowering:
    """How a graph is lowered: the file, its ranges, float tensors in the place of its own, the dialect. `as_written`: how `Runner` runs it.
    `folder`: where trials go."""

    graph: Path
    table: RangeTable
    tensors: Mapping[str, Float32]
    dialect: Dialect
    as_written: bool
    folder: Path

    def write(self, kept: Sequence[str], out: Path) -> LoweredReport:
        """Lower with further nodes kept float."""
        return lower_table(self.graph, self.table.keeping_float(kept), self.dialect, out, self.tensors)


def keep_enough(lowering: Lowering, report: LoweredReport, feeds: Sequence[Feed], at_least: float) -> tuple[tuple[str, ...], bool]:
    """The nodes that stay float, noisiest first, so that every float output reaches `at_least` dB of SQNR on `feeds`; and whether that is met.

    Raises:
        ExportError: a trial cannot be lowered or run, or the outputs have no SQNR: none is of floats, or one changes its shape when quantized.
    """
    judge = _Judge(lowering, feeds)
    if judge.meets(judge.noise(()), at_least):
        return (), True
    nodes, alone = report.weighted, []
    for place, name in enumerate(nodes):
        alone.append(judge.noise(tuple(other for other in nodes if other != name)))
        advance("find sensitive nodes", place + 1, len(nodes))
    noises, wish = np.stack(alone), at_least
    kept: tuple[str, ...] = ()
    for _ in range(_ROUNDS):
        kept = tuple(nodes[place] for place in _noisiest(noises, judge.allowed(wish)))
        if judge.meets(judge.noise(kept), at_least):
            return kept, True
        if len(kept) == len(nodes):
            break
        wish += _STRICTER_DB
    return kept, False


def _noisiest(noises: Float64, allowed: Float64) -> list[int]:
    """Rows of [nodes, outputs] to take away until the sums of the rest are allowed, the one that takes most of an allowance first."""
    rest, taken = list(range(len(noises))), []
    while rest and (noises[rest].sum(axis=0) > allowed).any():
        worst = max(rest, key=lambda place: float((noises[place] / allowed).max()))
        rest.remove(worst)
        taken.append(worst)
    return taken


class _Judge:
    """Powers of the outputs of the float graph, and of what a lowered one adds to them."""

    def __init__(self, lowering: Lowering, feeds: Sequence[Feed]) -> None:
        self.lowering, self.feeds = lowering, feeds
        original = Runner(lowering.graph)
        self.wanted = [original(feed) for feed in feeds]
        self.names = [name for name, array in self.wanted[0].items() if isinstance(array, np.ndarray) and array.dtype.kind == "f"]
        if not self.names:
            raise ExportError("--at-least asks for an SQNR of outputs, which is one of floats, and this model gives none; leave it out")
        self.signal = np.asarray([max(1e-30, sum(_power(want[name], 0.0) for want in self.wanted)) for name in self.names])

    def noise(self, kept: Sequence[str]) -> Float64:
        """Power of the error of each float output [outputs]."""
        path = self.lowering.folder / "trial.onnx"
        self.lowering.write(kept, path)
        run = Runner(path, self.lowering.as_written)
        total: Float64 = sum((self._powers(want, run(feed)) for want, feed in zip(self.wanted, self.feeds, strict=True)), np.zeros(len(self.names)))
        return total

    def allowed(self, decibels: float) -> Float64:
        """Power of error at which each output has this SQNR."""
        power: Float64 = self.signal / 10 ** (decibels / 10)
        return power

    def meets(self, noise: Float64, decibels: float) -> bool:
        """Whether all outputs have it."""
        return bool((noise <= self.allowed(decibels)).all())

    def _powers(self, want: dict[str, Any], got: dict[str, Any]) -> Float64:
        if changed := [name for name in self.names if got[name].shape != want[name].shape]:
            raise ExportError(f"output `{changed[0]}` has another shape once the model is quantized, and no SQNR: leave --at-least out")
        return np.asarray([_power(want[name], got[name]) for name in self.names])


def _power(want: Any, got: Any) -> float:
    """Power of the gap where `want` is finite; infinite where `got` is not."""
    gap = np.subtract(want, got, dtype=np.float64)[np.isfinite(want)]
    return float((gap**2).sum()) if np.isfinite(gap).all() else float("inf")
