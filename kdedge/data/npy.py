"""Writing `.npy` files block by block and mapping them, for arrays that need not fit in memory."""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kdedge.errors import DataError

Array = npt.NDArray[Any]

#: What reading an array out of an `.npz` archive raises where the file is damaged, encrypted, packed by a method that Python does not know, too large
#: for the memory, or holds Python objects (which are refused). `zipfile` tells of such a method, and of encryption, by kinds of RuntimeError.
UNREADABLE = (OSError, ValueError, EOFError, KeyError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)


class NpyWriter:
    """A `.npy` file of a dtype and shape that are known before its content; used as `with NpyWriter(...) as writer: writer.write(block)`.

    Plain writes, not a memory map: on a full disk a write raises OSError, where a page of a map would end the process with SIGBUS.

    Raises:
        OSError: the disk is full or the file cannot be written (`filename` names it).
        ValueError: the blocks do not make up that shape.
    """

    def __init__(self, path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> None:
        self.path = path
        self.dtype = np.dtype(dtype)
        self.shape = shape
        self.rows = 0
        self._handle = path.open("wb")
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._handle, header)

    def write(self, block: Array) -> None:
        """Append rows."""
        if block.shape[1:] != self.shape[1:]:
            raise ValueError(f"{self.path.name}: a block of shape {block.shape} does not fit into {self.shape}")
        self.rows += len(block)
        try:
            self._handle.write(np.ascontiguousarray(block, dtype=self.dtype).data)
        except OSError as error:
            raise _named(error, self.path) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._handle.close()  # writes what is still buffered
        except OSError as late:
            raise _named(late, self.path) from late
        if error is None and self.rows != self.shape[0]:
            raise ValueError(f"{self.path.name}: {self.rows} rows were written where {self.shape[0]} were announced")


def write_npy(path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...], blocks: Iterable[Array]) -> None:
    """Write blocks that together make up an array of this dtype and shape. Raises as `NpyWriter` does."""
    with NpyWriter(path, dtype, shape) as writer:
        for block in blocks:
            writer.write(block)


def save_npy(path: Path, array: Array) -> None:
    """Write a whole array. Raises as `NpyWriter` does."""
    write_npy(path, array.dtype, array.shape, [array])


def check_members(path: Path, names: Iterable[str]) -> None:
    """See that no two arrays of the archive `path` have one name (`names`, as numpy gives them): all but the last would be overlooked.

    Raises:
        DataError: names the file and the array.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{path} holds `{twice[0]}` more than once, and it is not known which is meant: write the file anew with numpy.savez")


def map_npy(path: Path) -> Array:
    """The array of a `.npy` file, memory-mapped and read-only; a plain array, whose slices cost less than those of `numpy.memmap`."""
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def _named(error: OSError, path: Path) -> OSError:
    return OSError(error.errno, error.strerror, str(path))
