"""How a teacher's answers about one view lie on disk: an array of rows by sample for each answer, read by memory mapping."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kdedge.data.npy import NpyWriter, map_npy
from kdedge.errors import TrainingError

Array = npt.NDArray[Any]
Int64 = npt.NDArray[np.int64]

LOGITS = "logits"
# The parts of logits of which only the largest are kept: their values as log-probabilities, their classes, the log of the others' mass.
_VALUES, _PLACES, _TAIL = "values", "places", "tail"


class AnswerWriter:
    """Writes answers in the order of the samples; used as `with AnswerWriter(...) as writer: writer.add(answers)`.

    `dtype`: float16 halves what is kept, with a relative error of at most 2^-11. `top_k`: keep that many of the logits, as log-probabilities.

    Raises:
        OverflowError: an answer does not fit into `dtype`.
        OSError: the disk is full.
    """

    def __init__(self, folder: Path, samples: int, dtype: str, top_k: int | None) -> None:
        self.files: dict[str, Path] = {}
        self._folder, self._samples, self._dtype, self._top_k = folder, samples, dtype, top_k
        self._writers: dict[str, NpyWriter] = {}
        self._open = ExitStack()

    def add(self, answers: Mapping[str, Array]) -> None:
        """The answers about the next samples, float32 [n, ...] each."""
        for name, rows in answers.items():
            if name == LOGITS and self._top_k is not None and self._top_k < rows.shape[1]:
                for part, values in _largest(rows, self._top_k).items():
                    self._write(f"{name}.{part}", values)
            else:
                self._write(name, rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.__exit__(kind, error, trace)

    def _write(self, name: str, rows: Array) -> None:
        dtype = rows.dtype if rows.dtype.kind == "i" else np.dtype(self._dtype)
        if dtype.kind == "f" and float(np.abs(rows).max(initial=0.0)) > float(np.finfo(dtype).max):
            raise OverflowError(name)
        if name not in self._writers:
            # A layer's name may hold what a file's name may not.
            path = self._folder / f"answer{len(self._writers)}.npy"
            self._writers[name] = self._open.enter_context(NpyWriter(path, dtype, (self._samples, *rows.shape[1:])))
            self.files[name] = path
        self._writers[name].write(rows.astype(dtype))


class Answers:
    """Reads what `AnswerWriter` wrote. `files`: paths by the names that it gave; `classes`: how many there are.

    Raises:
        TrainingError: a file is missing, cut off or of another size (names it).
    """

    def __init__(self, files: Mapping[str, Path], samples: int, classes: int) -> None:
        self._classes = classes
        self._arrays = {name: _opened(path, samples) for name, path in files.items()}

    def rows(self, name: str, samples: Int64) -> Array:
        """The answer `name` about some samples, float32 [n, ...]."""
        if name == LOGITS and LOGITS not in self._arrays:
            values, places, tail = (self._arrays[f"{LOGITS}.{part}"][samples] for part in (_VALUES, _PLACES, _TAIL))
            return _spread(values.astype(np.float32), places.astype(np.int64), tail.astype(np.float32), self._classes)
        return self._arrays[name][samples].astype(np.float32)


def _largest(logits: Array, count: int) -> dict[str, Array]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    places = np.argsort(-logs, axis=1, kind="stable")[:, :count]
    rest = np.ones(logs.shape, bool)
    np.put_along_axis(rest, places, False, axis=1)
    # In logarithms, so that the smallest mass is not lost.
    others = np.where(rest, logs, -np.inf)
    highest = others.max(axis=1, keepdims=True)
    tail = highest + np.log(np.exp(others - highest).sum(axis=1, keepdims=True))
    kind = np.int16 if logits.shape[1] <= np.iinfo(np.int16).max else np.int32
    return {_VALUES: np.take_along_axis(logs, places, axis=1), _PLACES: places.astype(kind), _TAIL: tail}


def _spread(values: Array, places: Int64, tail: Array, classes: int) -> Array:
    """Log-probabilities [n, classes]: the kept ones, and the rest of the mass evenly over all other classes."""
    each = tail - np.float32(np.log(classes - values.shape[1]))
    full = np.broadcast_to(each, (len(values), classes)).copy()
    np.put_along_axis(full, places, values, axis=1)
    return full.astype(np.float32)


def _opened(path: Path, samples: int) -> Array:
    try:
        array = map_npy(path)
    except (OSError, ValueError, EOFError) as error:
        raise TrainingError(f"the teacher's cache {path} is cut off or damaged ({error}): delete its folder, and it is made again") from error
    if len(array) != samples:
        raise TrainingError(
            f"the teacher's cache {path} holds {len(array)} samples where the data has {samples}: delete its folder, and it is made again"
        )
    return array
