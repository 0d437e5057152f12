"""The stages that turn a recipe's data into what training, calibration and measurement open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge import progress
from kdedge.artifact import EncodedInputs, Encoder, ImportPath, InputBucket, PreparedData, TextEncoder
from kdedge.data import open_examples
from kdedge.data.encode import encode, lengths
from kdedge.data.examples import Examples
from kdedge.data.npy import NpyWriter, save_npy
from kdedge.errors import DataError
from kdedge.recipe import DataSection
from kdedge.tasks.contract import Task

Array = npt.NDArray[Any]
Int64 = npt.NDArray[np.int64]

_BATCH = 256
_SHORTEST = 8


def prepare(task: ImportPath, data: DataSection, seed: int, *, folder: Path) -> PreparedData:
    """Read and check the recipe's data as the task says. What it reads besides its arguments is `kdedge.data.sources_of(data)`.

    Raises:
        RecipeError, DataError: as the task's `prepare`.
    """
    found: Task = task.load()
    return found.prepare(data, seed, folder)


def encode_split(data: PreparedData, encoder: Encoder, split: str, *, folder: Path) -> EncodedInputs:
    """Write a split as the graph takes it: images in one bucket, texts grouped by length.

    A bucket of texts reaches to twice the length of the one below and is padded to its longest text, so that less than about half of it is
    padding. The fullest bucket stands first: it is what a text usually costs.

    Raises:
        DataError: an example that cannot be read or does not fit the encoder.
    """
    if split not in data.splits:
        raise DataError(f"there is no split `{split}` (splits: {', '.join(data.splits)})")
    examples = open_examples(data.splits[split])
    buckets: list[InputBucket] = []
    for number, (indices, length) in enumerate(grouped(encoder, examples)):
        done = sum(bucket.size for bucket in buckets)
        files = _write(_encoded(examples, encoder, indices, length, split, done), len(indices), folder, f"bucket{number}")
        places = folder / f"bucket{number}-indices.npy"
        save_npy(places, indices)
        buckets.append(InputBucket(files, places, len(indices)))
    return EncodedInputs(tuple(buckets), len(examples))


def grouped(encoder: Encoder, examples: Examples) -> list[tuple[Int64, int | None]]:
    """Places of the examples that are encoded together, and the length that they are padded to: images are one group, texts as `by_length`.

    Raises:
        DataError: an example that cannot be read.
    """
    everything = np.arange(len(examples), dtype=np.int64)
    if not isinstance(encoder, TextEncoder):
        return [(everything, None)]
    return [*by_length(np.concatenate([lengths(encoder, examples.raw(chosen)) for chosen in _batches(everything)]))]


def by_length(counts: Int64) -> list[tuple[Int64, int]]:
    """Places of the texts of each bucket (in the order of the split) and the length that it is padded to; the fullest bucket first."""
    which = np.searchsorted(_SHORTEST << np.arange(40), counts)
    groups = [np.flatnonzero(which == bucket).astype(np.int64) for bucket in np.unique(which)]
    groups.sort(key=len, reverse=True)
    return [(group, int(counts[group].max())) for group in groups]


def _batches(indices: Int64) -> Iterator[Int64]:
    for start in range(0, len(indices), _BATCH):
        yield indices[start : start + _BATCH]


def _encoded(examples: Examples, encoder: Encoder, indices: Int64, length: int | None, split: str, done: int) -> Iterator[dict[str, Array]]:
    for chosen in _batches(indices):
        yield encode(encoder, examples.raw(chosen), length)
        done += len(chosen)
        progress.advance(f"encoding {split}", done, len(examples))


def _write(batches: Iterator[dict[str, Array]], size: int, folder: Path, name: str) -> dict[str, Path]:
    """One file an input, named by its place among the inputs: an input's name may hold characters that a file name may not."""
    first = next(batches)
    files = {key: folder / f"{name}-input{place}.npy" for place, key in enumerate(first)}
    with ExitStack() as stack:
        writers = {key: stack.enter_context(NpyWriter(files[key], array.dtype, (size, *array.shape[1:]))) for key, array in first.items()}
        for batch in chain([first], batches):
            for key, array in batch.items():
                writers[key].write(array)
    return files
