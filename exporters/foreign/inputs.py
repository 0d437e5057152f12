"""What a foreign graph is fed with: the inputs that its file declares, and calibration examples for them from files.

CALIB.npz    one array an input, by the input's name. Two layouts, told apart by the number of axes:
                 as many axes as the input   axis 0 counts examples: [N, 3, 224, 224] for an input [batch, 3, 224, 224]
                 one axis more               axis 0 counts calls, the rest is what one call gets: [N] for a scalar, [N, 2, 1, 128] for [2, 1, 128]
             All arrays have the same N. A graph of one input takes a single array of any name.
FOLDER       `.npz` files in the order of their names, one a call, each array exactly as the graph takes it: for sizes that change from call to call
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from kdedge.data.npy import UNREADABLE, check_members, map_npy
from kdedge.errors import DataError

Array = npt.NDArray[Any]
Feed = dict[str, Array]

#: Examples that are kept from calibration, to compare on.
MOST_HELD_BACK = 64

_KINDS = {"f": "floats", "i": "whole numbers", "u": "whole numbers", "b": "booleans"}


@dataclass(frozen=True)
class Input:
    """An input of a graph. `shape` holds numbers and, for sizes that vary, names ("" without one); None: the file does not say the number of axes."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...] | None

    def __str__(self) -> str:
        """For a sentence: `ids` int64 [batch, 128]."""
        sizes = "of any shape" if self.shape is None else f"[{', '.join(str(size) or '?' for size in self.shape)}]"
        return f"`{self.name}` {self.dtype} {sizes}"


class Calls(Protocol):
    """Calls of a graph, one by one. `counted`: axis 0 of every input counts examples; `joined`: and it may have any size, so that several may be
    given in one call, stacked along it."""

    counted: bool
    joined: bool

    def __len__(self) -> int:
        """How many calls there are."""

    def feed(self, place: int) -> Feed:
        """What call number `place` gets."""


def inputs_of(model: ir.Model, title: str) -> tuple[Input, ...]:
    """The inputs of a graph, without weights that are listed among them.

    Raises:
        DataError: there is none, or one is no tensor of numbers (a sequence, a map, strings).
    """
    found = []
    for value in model.graph.inputs:
        if value.is_initializer():
            continue
        dtype = None if value.dtype in (None, ir.DataType.UNDEFINED) else value.dtype.numpy()
        if dtype is None or not isinstance(value.type, ir.TensorType) or dtype.kind not in _KINDS:
            said = value.type or "of no known type"
            raise DataError(f"`{title}`: input `{value.name}` is {said}; calibration examples are tensors of numbers or booleans")
        shape = None if value.shape is None else tuple(size if isinstance(size, int) else str(size.value or "") for size in value.shape)
        found.append(Input(str(value.name), dtype, shape))
    if not found:
        raise DataError(f"`{title}` has no inputs: its outputs never change, and there is nothing to calibrate")
    return tuple(found)


def join(feeds: Sequence[Feed]) -> Feed:
    """One feed of several, stacked along axis 0."""
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


class Examples:
    """Opened calibration examples; used as `with Examples(path, inputs) as calls`.

    Arrays are unpacked to a temporary folder and mapped into memory, so that they need not fit there.

    Raises:
        DataError: a file that cannot be read, wrong names, types or shapes, numbers that are not finite, or nothing at all.
    """

    def __init__(self, path: Path, inputs: Sequence[Input]) -> None:
        self._path, self._inputs = path, tuple(inputs)
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Calls:
        if self._path.is_dir():
            return _Files(self._path, self._inputs)
        self._folder = tempfile.TemporaryDirectory(prefix="kdedge-examples-")
        try:
            return _Stacked(_unpacked(self._path, Path(self._folder.name)), self._inputs, str(self._path))
        except BaseException:
            self._folder.cleanup()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._folder is not None:
            self._folder.cleanup()


# ---- one file --------------------------------------------------------------------------------------------------------------


def _unpacked(path: Path, folder: Path) -> dict[str, Array]:
    """The arrays of an `.npz` file by name, mapped from copies in `folder`."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such file or folder")
    if not zipfile.is_zipfile(path):
        found = "an .npz file of which the end is missing (copied in part?)" if _starts_as_archive(path) else "not an .npz file"
        raise DataError(f"{path} is {found}; make one with numpy.savez(path, INPUT=array, ...)")
    arrays: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            check_members(path, (member.removesuffix(".npy") for member in archive.namelist()))
            for number, member in enumerate(archive.namelist()):
                if not member.endswith(".npy"):
                    raise DataError(f"{path} holds `{member}`, which is no array; make the file with numpy.savez")
                copy = folder / f"{number}.npy"
                with archive.open(member) as source, copy.open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
                arrays[member.removesuffix(".npy")] = map_npy(copy)
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read (arrays of Python objects are refused): {error}") from error
    return arrays


def _starts_as_archive(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


class _Stacked:
    """Arrays whose axis 0 counts examples or calls."""

    def __init__(self, arrays: Mapping[str, Array], inputs: Sequence[Input], where: str) -> None:
        self._arrays = _by_input(arrays, inputs, where)
        self._whole = {each.name: _is_whole(self._arrays[each.name], each, where) for each in inputs}
        for each in inputs:
            array, wanted = self._arrays[each.name], each.shape or ()
            _check_dtype(array, each, where)
            _check_sizes(array.shape[1:], wanted if self._whole[each.name] else wanted[1:], array, each, where)
        self._inputs, self._where = {each.name: each for each in inputs}, where
        self._rows = _rows_of_a_call(inputs, self._whole, where)
        self._calls = self._count()
        self.counted = not any(self._whole.values())
        self.joined = self.counted and self._rows == 1 and all(each.shape is None or not isinstance(each.shape[0], int) for each in inputs)

    def _count(self) -> int:
        calls = {name: len(array) // (1 if self._whole[name] else self._rows) for name, array in self._arrays.items()}
        if len(set(calls.values())) > 1:
            counted = ", ".join(f"`{name}` {len(array)}" for name, array in self._arrays.items())
            raise DataError(f"{self._where}: all arrays must have as many examples, axis 0 counts them; found {counted}")
        count = next(iter(calls.values()))
        if count == 0:
            wanted = f"the graph takes {self._rows} at a time" if self._rows > 1 else "a hundred or more are usual"
            raise DataError(f"{self._where} holds {len(next(iter(self._arrays.values())))} examples: {wanted}")
        return count

    def __len__(self) -> int:
        return self._calls

    def feed(self, place: int) -> Feed:
        found = {}
        for name, array in self._arrays.items():
            each = self._inputs[name]
            part = array[place] if self._whole[name] else array[place * self._rows : (place + 1) * self._rows]
            found[name] = _as_taken(part, each, f"{self._where}: example {place} of `{name}`")
        return found


def _is_whole(array: Array, each: Input, where: str) -> bool:
    """Whether axis 0 counts calls, in front of what one call gets."""
    if array.ndim > 0 and (each.shape is None or array.ndim == len(each.shape) + 1):
        return True
    if array.ndim > 0 and each.shape is not None and array.ndim == len(each.shape):
        return False
    raise DataError(f"{where}: `{each.name}` has the shape {list(array.shape)}; the graph takes {each}: {_layouts(each)}")


def _layouts(each: Input) -> str:
    if each.shape is None:
        return "give [N, ...] for N calls"
    sizes = [str(size) or "?" for size in each.shape]
    whole = f"[N{''.join(f', {size}' for size in sizes)}] for N calls"
    return f"give [N{''.join(f', {size}' for size in sizes[1:])}] for N examples, or {whole}" if sizes else f"give {whole}"


def _rows_of_a_call(inputs: Sequence[Input], whole: Mapping[str, bool], where: str) -> int:
    """How many examples one call takes: the fixed size of axis 0 where the graph has one, else 1."""
    fixed = {each.shape[0] for each in inputs if not whole[each.name] and each.shape and isinstance(each.shape[0], int) and each.shape[0] > 0}
    if len(fixed) > 1:
        listed = " and ".join(str(each) for each in inputs)
        raise DataError(
            f"{where}: axis 0 of the graph's inputs has different sizes ({listed}), so it cannot count examples; give one array a call: [N, ...]"
        )
    return int(next(iter(fixed))) if fixed else 1


# ---- a folder --------------------------------------------------------------------------------------------------------------


class _Files:
    """One file a call."""

    counted = joined = False

    def __init__(self, folder: Path, inputs: Sequence[Input]) -> None:
        self._inputs = inputs
        self._files = sorted(folder.glob("*.npz"))
        if not self._files:
            raise DataError(f"{folder} holds no .npz file: put one there for each call")

    def __len__(self) -> int:
        return len(self._files)

    def feed(self, place: int) -> Feed:
        path = self._files[place]
        try:
            with np.load(path, allow_pickle=False) as archive:
                check_members(path, archive.files)
                arrays = {name: archive[name] for name in archive.files}
        except (*UNREADABLE, AttributeError, TypeError) as error:
            raise DataError(f"{path} is not an .npz file that can be read (arrays of Python objects are refused): {error}") from error
        arrays = _by_input(arrays, self._inputs, str(path))
        for each in self._inputs:
            array = arrays[each.name]
            _check_dtype(array, each, str(path))
            if each.shape is not None and array.ndim != len(each.shape):
                raise DataError(
                    f"{path}: `{each.name}` has the shape {list(array.shape)}; a file of a folder holds exactly what one call takes, {each}"
                )
            _check_sizes(array.shape, each.shape, array, each, str(path))
        return {each.name: _as_taken(arrays[each.name], each, f"{path}: `{each.name}`") for each in self._inputs}


# ---- checks ----------------------------------------------------------------------------------------------------------------


def _by_input(arrays: Mapping[str, Array], inputs: Sequence[Input], where: str) -> dict[str, Array]:
    names = {each.name for each in inputs}
    if len(inputs) == 1 and len(arrays) == 1:
        return {inputs[0].name: next(iter(arrays.values()))}
    if missing := [name for name in names if name not in arrays]:
        wanted = " and ".join(str(each) for each in inputs)
        raise DataError(f"{where} has no array `{sorted(missing)[0]}` (it has: {', '.join(sorted(arrays)) or 'nothing'}); the graph takes {wanted}")
    if extra := sorted(set(arrays) - names):
        raise DataError(f"{where} has an array `{extra[0]}`, which the graph does not take (it takes: {', '.join(sorted(names))})")
    return {each.name: arrays[each.name] for each in inputs}


def _check_dtype(array: Array, each: Input, where: str) -> None:
    found, wanted = array.dtype.kind, each.dtype.kind
    if found == wanted or (found in "iu" and wanted in "iu"):
        return
    advice = "; give the numbers that the graph is fed with, scaled as its own preprocessing does" if found in "iu" and wanted == "f" else ""
    raise DataError(f"{where}: `{each.name}` has dtype {array.dtype}, the graph takes {_KINDS[wanted]} ({each.dtype}){advice}")


def _check_sizes(found: Sequence[int], wanted: Sequence[int | str] | None, array: Array, each: Input, where: str) -> None:
    for have, want in zip(found, wanted or (), strict=False):
        if isinstance(want, int) and want > 0 and have != want:
            raise DataError(f"{where}: `{each.name}` has the shape {list(array.shape)}; the graph takes {each}")


def _as_taken(array: Array, each: Input, where: str) -> Array:
    """The array in the dtype of the input, the same numbers as far as that holds them."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{where} has a value that is not finite")
    with np.errstate(over="ignore", invalid="ignore"):
        taken = np.ascontiguousarray(array).reshape(array.shape).astype(each.dtype, copy=False)
    lost = not np.isfinite(taken).all() if each.dtype.kind == "f" else each.dtype.kind in "iu" and not np.array_equal(taken, array)
    if lost:
        raise DataError(f"{where} has a value that {each.dtype} cannot hold")
    return taken


def batches(calls: Calls, places: Sequence[int], rows: int) -> Iterator[Feed]:
    """The calls at `places`, up to `rows` of them together where they may be joined, else one by one."""
    step = rows if calls.joined else 1
    for start in range(0, len(places), step):
        feeds = [calls.feed(place) for place in places[start : start + step]]
        yield join(feeds) if len(feeds) > 1 else feeds[0]


def held_back(count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Places to calibrate on and places to compare on: every fifth is held back, at most `MOST_HELD_BACK`, evenly spread. Of a single one both."""
    if count == 1:
        return (0,), (0,)
    kept = min(MOST_HELD_BACK, max(1, count // 5))
    apart = {(2 * place + 1) * count // (2 * kept) for place in range(kept)}
    return tuple(place for place in range(count) if place not in apart), tuple(sorted(apart))
