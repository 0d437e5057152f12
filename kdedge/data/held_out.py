"""A part of a split held out of training, for choosing between students without looking at test data."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from kdedge.artifact import ImportPath, SplitSource
from kdedge.data import open_examples
from kdedge.data.draws import Stream, draws
from kdedge.data.examples import Examples
from kdedge.errors import DataError

Int64 = npt.NDArray[np.int64]


def hold_out(split: SplitSource, share: float, seed: int) -> tuple[SplitSource, SplitSource]:
    """Two sources over one split: what is left to learn from, and about `share` of the examples, held out of it.

    Every class gives nearly the same share, as many as make up the whole; of each class at least one example is left to learn from. Which
    ones is a pure function of (labels, share, seed). Nothing is copied: both parts open the split and keep to their places.

    Raises:
        DataError: the split is too small to hold out any example.
    """
    labels = open_examples(split).labels
    held = held_places(labels, share, seed)
    if held.size == 0:
        raise DataError(f"of {split.size} training examples none can be held out ({share:.0%}, and one of each class is left): give more examples")
    sizes = {"rest": len(labels) - held.size, "held": held.size}
    rest, out = (_source(split, share, seed, part, size) for part, size in sizes.items())
    return rest, out


def held_places(labels: Int64, share: float, seed: int) -> Int64:
    """The places of the examples that are held out, ascending: about `share` of each class, `share` of all together."""
    order = draws(seed, 0, np.arange(len(labels), dtype=np.int64), Stream.HELD_OUT)
    classes, counts = np.unique(labels, return_counts=True)
    exact = counts * share
    wanted = np.minimum(np.floor(exact).astype(np.int64), counts - 1)
    # What rounding down left over goes to the classes that lost most by it, as long as they have an example to spare.
    left = round(share * len(labels)) - int(wanted.sum())
    for place in np.argsort(wanted - exact, kind="stable"):
        if left > 0 and wanted[place] < counts[place] - 1:
            wanted[place] += 1
            left -= 1
    chosen = [np.flatnonzero(labels == name) for name in classes]
    chosen = [places[np.argsort(order[places], kind="stable")[:count]] for places, count in zip(chosen, wanted, strict=True)]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def open_part(source: SplitSource, share: float, seed: int, part: Literal["rest", "held"]) -> PartOfExamples:
    """Open one of the two parts that `hold_out` made."""
    examples = open_examples(source)
    held = held_places(examples.labels, share, seed)
    rest = np.setdiff1d(np.arange(len(examples), dtype=np.int64), held)
    return PartOfExamples(examples, held if part == "held" else rest)


class PartOfExamples:
    """Some examples of a split, in its order: `places` are theirs in it."""

    def __init__(self, whole: Examples, places: Int64) -> None:
        self.labels: Int64 = whole.labels[places]
        self.sizes: Int64 | None = None if whole.sizes is None else whole.sizes[places]
        self.ids: Sequence[str] = _Ids(whole.ids, places)
        self._whole, self.places = whole, places

    def __len__(self) -> int:
        return len(self.places)

    def raw(self, indices: Int64) -> Any:
        """The raw examples, as the whole split gives them."""
        return self._whole.raw(self.places[indices])


class _Ids(Sequence[str]):
    def __init__(self, ids: Sequence[str], places: Int64) -> None:
        self._ids, self._places = ids, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self._ids[int(place)] for place in self._places[index]]
        return self._ids[int(self._places[index])]


def _source(split: SplitSource, share: float, seed: int, part: str, size: int) -> SplitSource:
    digest = hashlib.sha256(f"{split.fingerprint} {share} {seed} {part}".encode()).hexdigest()
    arguments = {"source": split, "share": share, "seed": seed, "part": part}
    return SplitSource(ImportPath("kdedge.data.held_out:open_part"), arguments, size, digest)
