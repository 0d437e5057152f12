"""How far a lowered graph is from its float graph, on calibration examples that were set aside for it.

Two figures an example. The squared error of the outputs over the mean squared size of the float outputs decides: it is about as large on every
example, so that a hundred or two of them tell two graphs apart. The KL divergence is what a person wants to know of a classifier, and is told beside
it; but it hangs on the few examples between two classes, of which calibration examples of a trained network have hardly any. On a ResNet-20 it rose
from 0.08 to 0.22 millinats on 256 of them, by more than its interval, with a step that took a fifth off both figures on 7,979 test images.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.errors import ExportError
from kdedge.exporters.equivalence import GraphRunError, run_each
from kdedge.exporters.model_file import to_bytes
from kdedge.fidelity.divergence import kl_divergence
from kdedge.intervals import paired_difference

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]
Batch = dict[str, Array]

JUDGES = 2  # one example in two is set aside: differences of a tenth have to be told from noise
ROWS = 8  # examples that a graph is given at once: of 224 x 224 images a wide layer has 5 MB each
WORST = 1e6  # the relative error of an output that is not finite, or of another shape
SUM_OF_PROBABILITIES = 1e-3  # rows whose sums are this near to 1 hold them


@dataclass(frozen=True)
class Gaps:
    """One number an example: `error`, and `kl` in nats (None where the output is not one of logits)."""

    error: Float64
    kl: Float64 | None

    def text(self) -> str:
        """The mean KL for a note, "" where there is none."""
        return "" if self.kl is None else f"{self.kl.mean():.3g}"


class Distance:
    """From the float graph (an `onnx_ir.Model`), on these examples. Its outputs are computed once and kept on disk: of no graph are those of more
    than one batch in memory.

    Raises:
        ExportError: the graph cannot be run on them, or there are none; or it has no output of numbers.
    """

    def __init__(self, reference: Any, batches: Sequence[Batch]) -> None:
        if not batches:
            raise ExportError("there are too few calibration examples: some are set aside to measure on, and none is left for that")
        self.batches = batches
        made = _run(to_bytes(reference), batches, "the float graph fails on the calibration examples")
        self.wanted = _Kept()
        for outputs in made:
            self.wanted.add({name: want for name, want in outputs.items() if _holds_numbers(want)})
        self.logits = all(_is_row_an_example(batch, wanted) for batch, wanted in zip(batches, self.wanted, strict=True))
        self.probabilities = self.logits and all(_are_probabilities(next(iter(wanted.values()))) for wanted in self.wanted)
        self.sizes = self._sizes()

    def of(self, quantized: Path) -> Gaps:
        """How far the lowered graph in this file is from it.

        Raises:
            ExportError: it cannot be opened or run.
        """
        errors, divergences = [], []
        made = _run(quantized.read_bytes(), self.batches, "the quantized graph cannot be measured on the calibration examples")
        for found, wanted, batch in zip(made, self.wanted, self.batches, strict=True):
            rows = _rows(batch, wanted)
            parts = [_squares(found[name], want, rows, self.logits) / self.sizes[name] for name, want in wanted.items()]
            errors.append(np.nan_to_num(np.mean(parts, axis=0), nan=WORST, posinf=WORST))
            if self.logits:
                name, want = next(iter(wanted.items()))
                rows_of = _logarithms if self.probabilities else np.asarray
                divergence = kl_divergence(rows_of(want), rows_of(np.nan_to_num(found[name])))
                divergences.append(np.nan_to_num(divergence, nan=WORST, posinf=WORST))
        return Gaps(np.concatenate(errors), np.concatenate(divergences) if divergences else None)

    def _sizes(self) -> dict[str, float]:
        sizes: dict[str, list[Float64]] = {}
        for batch, wanted in zip(self.batches, self.wanted, strict=True):
            for name, want in wanted.items():
                sizes.setdefault(name, []).append(_squares(np.zeros_like(want), want, _rows(batch, wanted), self.logits))
        return {name: max(float(np.concatenate(parts).mean()), float(np.finfo(np.float32).tiny)) for name, parts in sizes.items()}


class _Kept:
    """Outputs of batch after batch in a temporary file that has no name, from which they are read in turn, any number of times."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as this is
        weakref.finalize(self, self.file.close)
        self.names: list[tuple[str, ...]] = []

    def add(self, outputs: Mapping[str, Array]) -> None:
        """Append those of one batch.

        Raises:
            ExportError: there is none.
        """
        if not outputs:
            raise ExportError("the graph cannot be compared with its quantized form: none of its outputs is a tensor of numbers")
        self.names.append(tuple(outputs))
        for array in outputs.values():
            np.save(self.file, array, allow_pickle=False)

    def __iter__(self) -> Iterator[dict[str, Array]]:
        """One batch after the other; only one reader at a time."""
        self.file.seek(0)
        for names in self.names:
            yield {name: np.load(self.file, allow_pickle=False) for name in names}


def _run(model: bytes, batches: Sequence[Batch], what: str) -> Iterator[dict[str, Array]]:
    try:
        yield from run_each(model, batches, as_written=True)
    except GraphRunError as error:
        raise ExportError(f"{what}: {error}") from error


def _is_row_an_example(batch: Batch, wanted: Mapping[str, Array]) -> bool:
    """Whether the only output has a row of at least two numbers for each example."""
    first, *others = wanted.values()
    return not others and first.ndim == 2 and first.shape[1] > 1 and first.dtype.kind == "f" and uniform(batch) and len(first) == _rows(batch, wanted)


def _holds_numbers(output: Any) -> bool:
    """Not a sequence, a map, or text."""
    return isinstance(output, np.ndarray) and output.dtype.kind in "fiub"


def _are_probabilities(rows: Array) -> bool:
    return bool((rows >= 0).all() and np.allclose(rows.sum(axis=1), 1.0, rtol=0, atol=SUM_OF_PROBABILITIES))


def _logarithms(rows: Array) -> Array:
    """Logits whose softmax these probabilities are."""
    return np.log(np.maximum(rows, np.finfo(np.float32).tiny))


def _rows(batch: Batch, wanted: Mapping[str, Array]) -> int:
    """How many examples a batch has that can be told apart in the outputs; 1 where they cannot."""
    rows = len(next(iter(batch.values()))) if uniform(batch) else 1
    return rows if all(want.ndim and len(want) == rows for want in wanted.values()) else 1


def _squares(found: Array, want: Array, rows: int, centred: bool) -> Float64:
    """Squared difference an example, over what is finite in the float output. Of logits, what is common to all classes does not count.

    Infinite where the shapes differ: of an output whose size depends on its values (the boxes that were found) there is nothing to compare.
    """
    if found.shape != want.shape:
        return np.full(rows, np.inf)
    gap = np.where(np.isfinite(want), found.astype(np.float64) - np.where(np.isfinite(want), want, 0).astype(np.float64), 0.0).reshape(rows, -1)
    if centred:
        gap = gap - gap.mean(axis=1, keepdims=True)
    return np.asarray(np.square(gap).sum(axis=1))


# ---- is it better? ---------------------------------------------------------------------------------------------------------


def is_closer(after: Gaps, before: Gaps) -> bool:
    """Whether the error falls by more than its noise: the paired 95 % interval of the mean difference lies below 0."""
    gap = paired_difference("error", after.error, before.error, "relative").estimate
    return gap.high is not None and gap.high < 0


# ---- who learns and who judges ---------------------------------------------------------------------------------------------


def split(batches: Iterable[Mapping[str, Array]], fixed: int = 0, seed: int = 0) -> tuple[list[Batch], list[Batch]]:
    """One half of the examples to learn from, and the other to measure on; drawn by `seed`, the same ones each time.

    All are held in memory. `fixed`: the only batch size that the graph takes (0: any); examples are gathered to it, and a remainder is left out.
    Where the arrays of a batch differ in their first axis, the batch is one example.
    """
    given = (dict(batch) for batch in batches)
    units = [unit for batch in (_gathered(given, fixed) if fixed else given) for unit in _units(batch, fixed)]
    generator = np.random.default_rng(seed)
    order = generator.permutation(sum(count for _, count in units))
    judges = set(order[: len(order) // JUDGES].tolist())
    learning: list[Batch] = []
    judging: list[Batch] = []
    place = 0
    for batch, count in units:
        chosen = np.array([place + row in judges for row in range(count)])
        place += count
        for mask, into in ((~chosen, learning), (chosen, judging)):
            if mask.all():
                into.append(batch)
            elif mask.any():
                into.append({name: array[mask] for name, array in batch.items()})
    return learning, judging


def uniform(batch: Mapping[str, Array]) -> bool:
    """Whether axis 0 counts the same examples in every array."""
    return all(array.ndim for array in batch.values()) and len({len(array) for array in batch.values()}) == 1


def _gathered(batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """Batches of `size` examples, filled across the batches that are given; a batch that cannot be divided comes as it is."""
    left: Batch = {}
    for batch in batches:
        if not uniform(batch):
            yield batch
            continue
        left = {name: np.concatenate([left[name], array]) if left else array for name, array in batch.items()}
        full = len(next(iter(left.values()))) // size * size
        for start in range(0, full, size):
            yield {name: array[start : start + size] for name, array in left.items()}
        left = {name: array[full:] for name, array in left.items()}


def _units(batch: Batch, fixed: int) -> Iterator[tuple[Batch, int]]:
    """Pieces of a batch, each with the number of examples that can be told apart and divided."""
    if fixed or not uniform(batch):
        yield batch, 1
        return
    size = len(next(iter(batch.values())))
    for start in range(0, size, ROWS):
        piece = {name: array[start : start + ROWS] for name, array in batch.items()}
        yield piece, len(next(iter(piece.values())))
