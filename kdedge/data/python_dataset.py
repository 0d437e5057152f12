"""Any torch-style dataset of the user's: `python:package.module:factory`, called as `factory(split)` or `factory()`.

It returns an object with `__len__` and `__getitem__(i) -> (example, label)`. An example is a `PIL.Image`, a uint8 array [H, W, 3] or [H, W], a
tensor [3, H, W] or [1, H, W] (float in [0, 1], or uint8), or a str. `classes` (names), where the dataset has them, are used. Naming a factory in a
recipe runs its code. For unlabelled data it is called as `factory("unlabelled")` if it takes a split, and may give examples without labels.
"""

from __future__ import annotations

import hashlib
import inspect
import operator
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge import progress
from kdedge.artifact import ImportPath, SplitSource
from kdedge.data import UNLABELLED
from kdedge.data.images import from_pil
from kdedge.data.npy import save_npy
from kdedge.data.reading import NumberedIds, ReadSplit, numbered_classes, same_classes
from kdedge.data.survey import ImageFacts, facts_of
from kdedge.errors import DataError, KdedgeError

Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]

_TRIED_TWICE = 4
_SAMPLED = 16
_LARGEST_LABEL = np.iinfo(np.int64).max


class DatasetExamples:
    """A dataset of the user's; `uniform` says that all its images have one size, `kind` what its examples are."""

    def __init__(self, dataset: Any, labels: Int64, name: str, kind: str, uniform: bool, labelled: bool = True) -> None:
        self.dataset = dataset
        self.labels = labels
        self.sizes: Int64 | None = None
        self.name = name
        self.kind = kind
        self.uniform = uniform
        self.labelled = labelled
        self.ids: Sequence[str] = _ids(name, len(labels))

    def __len__(self) -> int:
        return len(self.labels)

    def raw(self, indices: Int64) -> UInt8 | list[UInt8] | list[str]:
        """uint8 [b, H, W, 3], a list of uint8 [H, W, 3] where sizes differ, or a list of str.

        Raises:
            DataError: the dataset cannot give an example any more, or gives another kind of thing (names the example).
        """
        found: list[Any] = []
        for index in indices.tolist():
            example, _ = _item(self.dataset, index, self.ids[index], self.labelled)
            if isinstance(example, str) != (self.kind == "text"):
                raise DataError(f"{self.ids[index]}: this was {self.kind} data when it was read first")
            found.append(example)
        if self.uniform and len({example.shape for example in found}) > 1:
            raise DataError(f"{self.ids[int(indices[0])]} and those with it have several sizes; all had one when they were read first")
        return np.stack(found) if self.uniform and found else found


def open_dataset(factory: ImportPath, split: str, labels: Path, kind: str, uniform: bool) -> DatasetExamples:
    """Make the dataset again that `read` went through.

    Raises:
        DataError: the factory fails, or gives fewer examples than before.
    """
    numbers = np.load(labels, allow_pickle=False)
    dataset = _make(factory, split)
    size = _size(dataset, _name(factory, split))
    if size < len(numbers):
        raise DataError(f"{factory.value} gives {size} examples of {split}; there were at least {len(numbers)} when it was read first")
    return DatasetExamples(dataset, numbers, _name(factory, split), kind, uniform, split != UNLABELLED)


def read(argument: str, split: str, folder: Path, limit: int | None, classes: tuple[str, ...] | None) -> ReadSplit:
    """Make the dataset and go through its first `limit` examples once: for labels, fingerprint and the channels' statistics.

    Raises:
        DataError: the factory or an example fails, an example has another form, or is another one when it is asked for again.
    """
    factory = ImportPath(argument)
    dataset = _make(factory, split)
    name = _name(factory, split)
    size = _size(dataset, name)
    size = min(size, limit or size)
    if size == 0:
        raise DataError(f"{name} is empty: the {split} split needs at least one example")
    ids = _ids(name, size)
    labels = np.zeros(size, np.int64)
    digest = hashlib.sha256()
    facts: ImageFacts | None = None
    kinds: set[type] = set()
    for index, (example, label) in enumerate(_items(dataset, size, ids, split)):
        labels[index] = label
        kinds.add(type(example))
        if len(kinds) > 1:
            raise DataError(f"{ids[index]} is {_kind(example)} data, unlike the examples before it")
        digest.update(_bytes(example, label))
        if isinstance(example, np.ndarray):
            facts = facts_of(example) if facts is None else facts + facts_of(example)
    kind = "image" if facts is not None else "text"
    names = _classes(dataset, labels, ids, name, classes) if split != UNLABELLED else classes or ()
    file = folder / f"{split}-labels.npy"
    save_npy(file, labels)
    arguments = {"factory": factory, "split": split, "labels": file, "kind": kind, "uniform": facts is not None and facts.size is not None}
    source = SplitSource(ImportPath("kdedge.data.python_dataset:open_dataset"), arguments, size, digest.hexdigest())
    return ReadSplit(source, "image" if facts is not None else "text", labels, names, ids, facts)


def sample(argument: str, split: str, limit: int | None) -> str:
    """A digest of how many examples a dataset has and of a few of them, the first and the last among them.

    Raises:
        DataError: as `read`.
    """
    factory = ImportPath(argument)
    dataset, name = _make(factory, split), _name(factory, split)
    size = _size(dataset, name)
    size = min(size, limit or size)
    digest = hashlib.sha256(f"{size}".encode())
    for index in np.unique(np.linspace(0, size - 1, _SAMPLED).astype(np.int64)).tolist() if size else ():
        digest.update(_bytes(*_item(dataset, index, f"{name}[{index}]", split != UNLABELLED)))
    return digest.hexdigest()


def _items(dataset: Any, size: int, ids: NumberedIds, split: str) -> Iterator[tuple[UInt8 | str, int]]:
    labelled = split != UNLABELLED
    for index in range(size):
        found = _item(dataset, index, ids[index], labelled)
        if index < _TRIED_TWICE and _bytes(*_item(dataset, index, ids[index], labelled)) != _bytes(*found):
            raise DataError(
                f"{ids[index]} is another example each time it is asked for; teacher outputs are cached, so examples must stay the same: "
                "take random augmentation out of the dataset and name it in data.augment"
            )
        if index % 100 == 0:
            progress.advance(f"reading {split} examples", index, size)
        yield found
    progress.advance(f"reading {split} examples", size, size)


def _make(factory: ImportPath, split: str) -> Any:
    try:
        function = factory.load()
        if not callable(function):
            raise DataError(f"{factory.value} is not a function or class; it must make a dataset")
        dataset = function(split) if _takes_split(function) else function()
    except KdedgeError:
        raise
    except (Exception, SystemExit) as error:  # The user's code may raise anything; what the reader needs is which call it was.
        raise DataError(f"{factory.value} failed to make the {split} dataset: {type(error).__name__}: {error}") from error
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise DataError(
            f"{factory.value} returned a {type(dataset).__name__}, which has no __len__ and __getitem__; iterable datasets have no fixed order"
        )
    return dataset


def _size(dataset: Any, name: str) -> int:
    try:
        return len(dataset)
    except (Exception, SystemExit) as error:  # The user's code may raise anything.
        raise DataError(f"{name} does not say how many examples it has: {type(error).__name__}: {error}") from error


def _takes_split(function: Any) -> bool:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return False
    try:
        signature.bind("train")
    except TypeError:
        return False
    return True


def _item(dataset: Any, index: int, name: str, labelled: bool) -> tuple[UInt8 | str, int]:
    """An example and its label; 0 where the split has none."""
    try:
        item = dataset[index]
    except (Exception, SystemExit) as error:  # The user's code may raise anything; what the reader needs is which example it was.
        raise DataError(f"{name} cannot be read: {type(error).__name__}: {error}") from error
    if not labelled:
        return _example(item[0] if isinstance(item, tuple | list) and item else item, name), 0
    if not isinstance(item, tuple | list) or len(item) < 2:
        raise DataError(f"{name} is a {type(item).__name__}; it must be a tuple (example, label)")
    try:
        label = operator.index(item[1])
    except TypeError as error:
        raise DataError(f"{name}: the label is a {type(item[1]).__name__}; it must be a whole number that counts classes from 0") from error
    if abs(label) > _LARGEST_LABEL:
        raise DataError(f"{name}: the label needs {label.bit_length()} bits; it must be the number of a class, counted from 0")
    return _example(item[0], name), label


def _example(example: Any, name: str) -> UInt8 | str:
    if isinstance(example, str):
        return example
    if hasattr(example, "convert") and hasattr(example, "getbands"):
        return from_pil(example)
    if isinstance(example, np.ndarray):
        array = example[..., None] if example.ndim == 2 else example
    elif hasattr(example, "numpy") and hasattr(example, "detach"):
        array = _channels_last(example.detach().cpu().numpy(), name)
    else:
        raise DataError(f"{name} is a {type(example).__name__}; it must be a PIL image, a uint8 array [H, W, 3], a tensor [3, H, W] or a str")
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] not in (1, 3) or array.size == 0:
        raise DataError(
            f"{name} has dtype {example.dtype} and shape {tuple(example.shape)}; an array must be uint8 [H, W, 3] or [H, W], a tensor [3, H, W]"
        )
    return np.ascontiguousarray(np.repeat(array, 3, axis=-1) if array.shape[-1] == 1 else array)


def _channels_last(array: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    if array.dtype.kind == "f":
        if array.size and not (array.min() >= 0 and array.max() <= 1):
            raise DataError(
                f"{name} has values from {array.min():.3g} to {array.max():.3g}; a float tensor must be in [0, 1]: "
                "leave normalisation to the model, which does it inside its graph"
            )
        array = np.rint(array * 255).astype(np.uint8)
    return array.transpose(1, 2, 0) if array.ndim == 3 else array


def _classes(dataset: Any, labels: Int64, ids: NumberedIds, name: str, expected: tuple[str, ...] | None) -> tuple[str, ...]:
    found = getattr(dataset, "classes", None)
    if isinstance(found, list | tuple) and found:
        return same_classes(tuple(str(item) for item in found), expected, name)
    return expected if expected is not None else numbered_classes(labels, ids, name)


def _bytes(example: UInt8 | str, label: int) -> bytes:
    content = example.encode() if isinstance(example, str) else f"{example.shape}".encode() + example.tobytes()
    return f"{label}:{len(content)}:".encode() + content


def _kind(example: UInt8 | str) -> str:
    return "text" if isinstance(example, str) else "image"


def _name(factory: ImportPath, split: str) -> str:
    return f"{factory.value}({split})"


def _ids(name: str, size: int) -> NumberedIds:
    return NumberedIds(f"{name}[{{}}]", size)
