"""Who judges quantization-aware distillation: images that the network has not memorised, made from training images that were held back.

A trained network is sure of its training images, held back from distillation or not: of a ResNet-20, 1.5 % of them have a lead of less than 2 logits
of the first class over the second, of test images 8 %. KL comes from those few, so that a thousand training images do not show a gain that the test
images would show. And the squared error of logits, which tells graphs apart on any example, asks for what the KL does not learn: logits that are far
ahead may be any size.

So each held image gets a patch of another, and the other the same patch of it (CutMix without labels; Yun et al. 2019, arXiv:1905.04899). Nobody has
learned those images; leads are small; and every pixel stays one that a camera gave, on the grid that the integers read, which blends of two images,
noise and contrast leave. Neighbours in a batch are a pair. One pair is one unit of the interval, with all the patches that it was given, and once
without: a patch takes away from what is extreme in an image.

What has no places that could be swapped (token ids, features in a row) is judged as it is, and so are outputs that are learned by their squared
error, which does not hang on leads.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from kdedge.exporters.quantize.distance import Batch, Distance, Gaps, uniform
from kdedge.intervals import FEWEST_FOR_BOOTSTRAP, paired_difference

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]

VIEWS = 8  # how often a pair is shown, once as it is: KL comes from few images, and the standard error falls with the root of their number
SHARES = (0.1, 0.5)  # the part of an image that is a patch: below, the network still knows the image; above, it knows the other
SMALLEST_SIDE = 4  # pixels


@dataclass(frozen=True)
class Verdict:
    """Means before and after in `measure`, whether the second is smaller by more than its noise, and all that in words."""

    kept: bool
    measure: Literal["kl", "relative-error"]
    before: float
    after: float
    note: str


class Judge:
    """How far lowered graphs are from the float graph (an `onnx_ir.Model`) on inputs made from `held`, which nobody has learned from.

    KL decides where the graph's only output is one of `distributions` (names of outputs [N, classes]), which are what was learned by KL; else the
    squared error over the squared size of the float outputs.

    Raises:
        ExportError: as `Distance`.
    """

    def __init__(self, reference: Any, held: Sequence[Mapping[str, Array]], distributions: Collection[str]) -> None:
        outputs = [str(value.name) for value in reference.graph.outputs]
        self.known = len(outputs) == 1 and outputs[0] in distributions
        can_be = self.known and all(map(_can_be_patched, held)) and any(_rows(feed) > 1 for feed in held)
        self.patched = Patched(held) if can_be else None
        self.distance = Distance(reference, [dict(feed) for feed in held] if self.patched is None else self.patched)

    def gaps(self, lowered: Path) -> Gaps:
        """One number an input.

        Raises:
            ExportError: as `Distance.of`.
        """
        return self.distance.of(lowered)

    def verdict(self, before: Gaps, after: Gaps) -> Verdict:
        """Whether `after` is closer: the paired 95 % interval of the mean difference lies below 0. Never with fewer units than a bootstrap needs."""
        measure: Literal["kl", "relative-error"] = "relative-error"
        pair, unit, other = (before.error, after.error), "", "" if before.kl is None else f"; KL {before.text()} -> {after.text()} nats"
        if self.known and before.kl is not None and after.kl is not None:
            measure, pair, unit = "kl", (before.kl, after.kl), " nats"
            other = f"; squared error {before.error.mean():.3g} -> {after.error.mean():.3g}"
        was, now = map(self._units, pair)
        found = paired_difference(measure, now, was, "nats" if unit else "relative").estimate
        if found.low is None or found.high is None:
            told = f"too few to decide: {len(now)}, and {FEWEST_FOR_BOOTSTRAP} are needed"
        else:
            told = f"difference {found.value:.3g} [{found.low:.3g}, {found.high:.3g}]{unit}, n = {len(now)}"
        kept = found.high is not None and found.high < 0
        return Verdict(kept, measure, float(was.mean()), float(now.mean()), f"{self._who(before)}: {told}{other}")

    def _who(self, gaps: Gaps) -> str:
        if self.patched is not None:
            count = self.patched.images // VIEWS
            return f"judged on {count} images that were not learned from, as they are and with {VIEWS - 1} patches of a neighbour each"
        why = " (KL sees more where images can be patched, which come several at a time)" if self.known else ""
        return f"judged on {len(gaps.error)} examples that were not learned from, as they are{why}"

    def _units(self, values: Float64) -> Float64:
        """The mean of each pair over both images and all views; of each batch over its views, where images cannot be told apart in the output."""
        if self.patched is None or len(values) % VIEWS:
            return values
        units: Float64 = values.reshape((VIEWS, -1, 2 if len(values) == self.patched.images else 1)).mean(axis=(0, 2))
        return units


class Patched(Sequence[Batch]):
    """Batches of images [n, channels, height, width]: as they are, then `VIEWS` - 1 times with patches swapped between neighbours, made when asked.

    An odd image at the end of a batch is left out, and with it a batch of one. The same place and size in every input of a pair: drawn for view
    and batch, so that nothing depends on who asks when.
    """

    def __init__(self, held: Sequence[Mapping[str, Array]]) -> None:
        self.held = [feed for feed in held if _rows(feed) > 1]

    def __len__(self) -> int:
        return VIEWS * len(self.held)

    @property
    def images(self) -> int:
        """Those of all batches, which need not be made to be counted."""
        return VIEWS * sum(_rows(feed) // 2 * 2 for feed in self.held)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch | Sequence[Batch]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        view, place = divmod(range(len(self))[index], len(self.held))
        if not view:
            return {name: array[: _rows(self.held[place]) // 2 * 2] for name, array in self.held[place].items()}
        # RandomState's stream is frozen (NEP 19), a Generator's may change with numpy's version.
        return swapped(self.held[place], np.random.RandomState([view, place]))


def swapped(feed: Mapping[str, Array], random: np.random.RandomState) -> Batch:
    """One patch swapped between rows 0 and 1, another between 2 and 3, and so on; a last odd row is left out."""
    pairs = _rows(feed) // 2
    shares, tops, lefts = random.uniform(*SHARES, pairs), random.random_sample(pairs), random.random_sample(pairs)
    made: Batch = {}
    for name, array in feed.items():
        out = array[: 2 * pairs].copy()
        for first, share, top, left in zip(range(0, 2 * pairs, 2), shares, tops, lefts, strict=True):
            box = (slice(None), _span(top, share, array.shape[2]), _span(left, share, array.shape[3]))
            out[first][box], out[first + 1][box] = array[first + 1][box], array[first][box]
        made[name] = out
    return made


def _span(place: float, share: float, size: int) -> slice:
    length = min(size - 1, max(1, round(size * math.sqrt(share))))
    start = int(place * (size - length + 1))
    return slice(start, start + length)


def _can_be_patched(feed: Mapping[str, Array]) -> bool:
    """Whether all of it are images."""
    return uniform(feed) and all(array.ndim == 4 and array.dtype.kind == "f" and min(array.shape[2:]) >= SMALLEST_SIDE for array in feed.values())


def _rows(feed: Mapping[str, Array]) -> int:
    return len(next(iter(feed.values())))
