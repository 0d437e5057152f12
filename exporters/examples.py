"""Inputs to export, calibrate and check a graph with: real ones where there is data, else random ones of the right dtype and range."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.artifact import Dimension, Encoder, PreparedData, TensorSpec, TextEncoder
from kdedge.data import open_examples
from kdedge.data.encode import encode
from kdedge.data.examples import Examples
from kdedge.exporters.model_file import dimensions_of

Sizes = Mapping[str, int]
Feed = dict[str, npt.NDArray[Any]]


def sizes_to_check(inputs: Sequence[TensorSpec]) -> list[dict[str, int]]:
    """The sizes to export with, and then two others for each varying dimension (its smallest, and one far from the first)."""
    exported: dict[str, int] = {}
    others: dict[str, list[int]] = {}
    for name, size in dimensions_of(inputs).items():
        exported[name] = size.typical if size.typical >= 2 else min(3, size.maximum)
        candidates = (size.minimum, min(size.maximum, 2 * exported[name] + 1), size.maximum, exported[name] - 1, exported[name] + 1)
        distinct = dict.fromkeys(value for value in candidates if size.minimum <= value <= size.maximum and value != exported[name])
        others[name] = [*distinct][:2] or [exported[name]]
    rounds = max((len(values) for values in others.values()), default=0)
    return [exported, *({name: values[turn % len(values)] for name, values in others.items()} for turn in range(rounds))]


def example_feeds(inputs: Sequence[TensorSpec], sizes: Sequence[Sizes], encoder: Encoder, data: PreparedData | None) -> list[Feed]:
    """One feed for each of `sizes`: calibration examples of the training split, encoded as the model's encoder does; random without data."""
    return [random_feed(inputs, size) if data is None else _real_feed(inputs, size, encoder, data) for size in sizes]


def encoded(encoder: Encoder, examples: Examples, places: Sequence[int] | npt.NDArray[np.int64], rows: int) -> Iterator[Feed]:
    """The inputs of the examples at `places`, in this order, `rows` at a time; the last batch may have fewer.

    Raises:
        DataError: an example cannot be read, or is of another kind than the encoder takes.
    """
    chosen = np.asarray(places, np.int64)
    for start in range(0, len(chosen), rows):
        yield encode(encoder, examples.raw(chosen[start : start + rows]))


def random_feed(inputs: Sequence[TensorSpec], sizes: Sizes, seed: int = 0) -> Feed:
    """Floats in [0, 1); integers 0 or 1, which every vocabulary and mask allows, with a first column of 1 so that no row is masked away."""
    generator = np.random.default_rng(seed)
    feed: Feed = {}
    for spec in inputs:
        shape = shape_at(spec, sizes)
        if np.dtype(spec.dtype).kind == "f":
            feed[spec.name] = generator.random(shape).astype(spec.dtype)
        else:
            feed[spec.name] = generator.integers(0, 2, shape).astype(spec.dtype)
            if len(shape) > 1:
                feed[spec.name][:, 0] = 1
    return feed


def shape_at(spec: TensorSpec, sizes: Sizes) -> tuple[int, ...]:
    """The shape of a spec where its varying dimensions have these sizes."""
    return tuple(sizes[size.name] if isinstance(size, Dimension) else size for size in spec.shape)


def _real_feed(inputs: Sequence[TensorSpec], sizes: Sizes, encoder: Encoder, data: PreparedData) -> Feed:
    examples = open_examples(data.splits["train"])
    rows = shape_at(inputs[0], sizes)[0]
    encoded = encode(encoder, examples.raw(np.resize(np.asarray(data.calibration, dtype=np.int64), rows)))
    if isinstance(encoder, TextEncoder):
        fills = {name: encoder.pad_id if place == 0 else 0 for place, name in enumerate(encoder.input_names)}
        encoded = {name: _to_length(array, shape_at(inputs[0], sizes)[-1], fills[name]) for name, array in encoded.items()}
    return {spec.name: np.ascontiguousarray(encoded[spec.name]) for spec in inputs}


def _to_length(array: npt.NDArray[Any], length: int, fill: int) -> npt.NDArray[Any]:
    """Cut or padded on the right to [rows, length]."""
    cut = array[:, :length]
    return np.pad(cut, ((0, 0), (0, length - cut.shape[1])), constant_values=fill)
