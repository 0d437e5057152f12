"""What a reader hands over, and the checks on class names that all readers share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

import numpy as np
import numpy.typing as npt

from kdedge.artifact import ImportPath, SplitSource
from kdedge.data import READERS, split_source
from kdedge.data.survey import ImageFacts
from kdedge.errors import DataError, RecipeError

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ReadSplit:
    """One split, read once. `labels` [n] are not yet checked against `classes`, which are those of the whole split whatever the limit.

    `images` holds the facts of an image split and is None for texts.
    """

    source: SplitSource
    kind: Literal["image", "text"]
    labels: Int64
    classes: tuple[str, ...]
    ids: Sequence[str]
    images: ImageFacts | None = None


@dataclass(frozen=True)
class NumberedIds(Sequence[str]):
    """The ids `PREFIX[0]`, `PREFIX[1]`, ... (or another pattern with one `{}`), made when they are asked for. `first` is the number of the first."""

    pattern: str
    size: int
    first: int = 0

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.size))]
        if not -self.size <= index < self.size:
            raise IndexError(index)
        return self.pattern.format(self.first + index % self.size)


def read_split(
    key: str, text: str, split: str, folder: Path, *, limit: int | None, classes: tuple[str, ...] | None, readers: Sequence[str], task: str
) -> ReadSplit:
    """Read what the recipe's key (`data.train` or `data.test`) names; of the reader's order, the first `limit` examples.

    `classes` are the training split's, when it was read before: the split must fit them. `readers` are those that give what the task takes.

    Raises:
        RecipeError: an unknown reader, or one that is of no use to the task.
        DataError: the data cannot be read, or its classes do not agree with `classes`.
    """
    reader, argument = fitting_source(key, text, readers, task)
    found: ReadSplit = ImportPath(READERS[reader]).load()(argument, split, folder, limit, classes)
    return found


def fitting_source(key: str, text: str, readers: Sequence[str], task: str) -> tuple[str, str]:
    """Reader and argument of what the recipe's key names, where the reader gives what the task takes.

    Raises:
        RecipeError: an unknown reader, or one that is of no use to the task.
    """
    reader, argument = split_source(key, text)
    if reader not in readers:
        raise RecipeError(f"{key}: reader `{reader}` does not give what {task} takes (allowed: {', '.join(readers)})")
    return reader, argument


def numbered_classes(labels: Int64, ids: Sequence[str], where: str) -> tuple[str, ...]:
    """Class names "0", "1", ... for labels without names. All numbers from 0 to the largest must occur: a gap is a label that is wrong.

    Raises:
        DataError: a gap (labels that start at 1, a marker such as 255, a slip), with the example that has the largest label.
    """
    present = np.unique(labels[labels >= 0])
    if present.size == 0:
        raise DataError(f"{where} has no label of 0 or more")
    if present.size != present[-1] + 1:
        missing = int(np.argmax(present != np.arange(present.size)))
        largest = int(np.argmax(labels))
        raise DataError(
            f"{where}: no example of class {missing}, but {ids[largest]} has the label {present[-1]}; "
            "number classes from 0 without gaps, or give their names (`classes`)"
        )
    return tuple(str(number) for number in present)


def same_classes(found: tuple[str, ...], expected: tuple[str, ...] | None, where: str) -> tuple[str, ...]:
    """The class names of a split whose labels are numbers: they must be the training split's, in the same order.

    Raises:
        DataError: they differ; names the first that does.
    """
    if expected is None or found == expected:
        return found
    for number, (a, b) in enumerate(zip(found, expected, strict=False)):
        if a != b:
            raise DataError(
                f"{where}: class {number} is `{a}`, but the training split calls it `{b}`: both splits must have the same classes in the same order"
            )
    raise DataError(f"{where} names {len(found)} classes and the training split {len(expected)}: both splits must have the same classes")


def number_of(names: Sequence[str], classes: tuple[str, ...], where: Sequence[str]) -> Int64:
    """Class numbers of labels that are names; `where` says for each name where it stands.

    Raises:
        DataError: a name that is none of the classes.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    for name, place in zip(names, where, strict=True):
        if name not in numbers:
            raise DataError(f"{place}: class `{name}` does not occur in the training split (its classes: {listed(classes)})")
    return np.array([numbers[name] for name in names], dtype=np.int64)


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names for an error, cut where there are many."""
    return ", ".join(names[:most]) + (f", and {len(names) - most} more" if len(names) > most else "")
