"""Channels of an activation made alike before one scale has to serve them all (SmoothQuant: Xiao, Lin, Seznec, Wu, Demouth, Han 2023, section 4).

A linear layer takes x W = (x / s)(s W). Where a few channels of x are many times larger than the rest (behind LayerNorm and GELU of a transformer),
one step for all of x is coarse for most of it; a factor s a channel moves that into the weights, which have a scale an output column. The published

    s_k = max|x_k| ^ strength / max_j|W_kj| ^ (1 - strength)

has one strength for a whole model. Here each activation takes the one of `STRENGTHS` with the smallest predicted error: both roundings are taken as
uniform noise of their step,

    (range of x / s)^2 / (12 * 255^2) * sum_kj (s_k W_kj)^2  +  sum_k E[(x_k / s_k)^2] * sum_j (max_k|s_k W_kj| / 127)^2 / 12

Nothing is done where that gains less than a quarter: it costs a multiplication of x.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from kdedge.artifact import ChannelSizes, FloatGraph, PreparedData
from kdedge.data import open_examples
from kdedge.errors import ExportError
from kdedge.exporters.equivalence import GraphRunError, open_graph
from kdedge.exporters.examples import encoded
from kdedge.exporters.integer_weights import LARGEST_INTEGER, add_constant
from kdedge.exporters.model_file import constant, infer_shapes, load_model, tidy
from kdedge.runtimes.onnxruntime import said_by

TOOLS = ("onnx", "onnx-ir", "onnxruntime", "numpy")

STRENGTHS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
#: A smaller gain in predicted error is not worth a multiplication at each inference.
WORTH = 0.75
#: Exponents of two between which a factor lies: channels that are practically zero ask for more.
FURTHEST = (-20.0, 20.0)
BATCH = 8

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Channels:
    """The channels (last axis) of one activation, each [n]: mean over the calls of their lowest and highest value, and the mean of their squares."""

    low: Float64
    high: Float64
    square: Float64


# ---- observing -------------------------------------------------------------------------------------------------------------


def observe_channels(model: FloatGraph, data: PreparedData, *, folder: Path) -> ChannelSizes:
    """Stage: run the float graph on the calibration examples, and keep the sizes of the channels that linear layers multiply.

    Raises:
        ExportError: there are no calibration examples, or the graph cannot be run.
        DataError: an example cannot be read.
    """
    sizes = channel_sizes(load_model(model.path), _batches(model, data))
    arrays = {f"{name}/{what}": getattr(held, what) for name, held in sorted(sizes.items()) for what in ("low", "high", "square")}
    path = folder / "channels.npz"
    np.savez(path, **arrays)
    return ChannelSizes(path, model.sha256, len(data.calibration))


def read_sizes(path: Path) -> dict[str, Channels]:
    """What `observe_channels` wrote, by the name of the activation."""
    with np.load(path, allow_pickle=False) as arrays:
        names = sorted({key.rpartition("/")[0] for key in arrays.files})
        return {name: Channels(*(arrays[f"{name}/{what}"] for what in ("low", "high", "square"))) for name in names}


def channel_sizes(model: ir.Model, batches: Iterable[Mapping[str, Array]]) -> dict[str, Channels]:
    """Sizes of the channels of each activation that a linear layer with constant weights multiplies; memory does not grow with the batches.

    Raises:
        ExportError: there is no batch, the graph cannot be run, or an activation is not finite.
    """
    copy = tidy(model.clone())
    names = tuple(dict.fromkeys(str(node.inputs[0].name) for node in linear_layers(copy.graph) if node.inputs[0] is not None))
    fetched = [name for name in names if name not in {value.name for value in copy.graph.inputs}]
    held = {value.name for value in copy.graph.outputs}
    copy.graph.outputs.extend(value for node in copy.graph for value in node.outputs if value.name in fetched and value.name not in held)
    session = _open(infer_shapes(copy))
    sums: dict[str, tuple[Any, ...]] = {}
    calls = 0
    for batch in batches:
        # Asked for nothing, ONNX Runtime gives everything.
        found = {**batch, **(_run(session, fetched, batch) if fetched else {})}
        for name in names:
            if not np.isfinite(found[name]).all():
                raise ExportError(f"`{name}` is not finite on a calibration example: its channels cannot be measured")
            before = sums.get(name, (np.float64(0),) * 3)
            sums[name] = tuple(total + value for total, value in zip(before, _sizes(found[name]), strict=True))
        calls += 1
    if not calls:
        raise ExportError("channels cannot be measured: there are no calibration examples")
    return {name: Channels(*(total / calls for total in sums[name])) for name in names}


def _sizes(array: Array) -> tuple[Float64, Float64, Float64]:
    rows = array.reshape(-1, array.shape[-1]).astype(np.float64)
    return rows.min(axis=0), rows.max(axis=0), np.square(rows).mean(axis=0)


def _open(model: ir.Model) -> Any:
    try:
        return open_graph(model)
    except GraphRunError as error:
        raise ExportError(f"the float graph cannot be opened to measure its channels: {error}") from error


def _run(session: Any, names: Sequence[str], batch: Mapping[str, Array]) -> dict[str, Array]:
    try:
        return dict(zip(names, session.run(names, dict(batch)), strict=True))
    except Exception as error:  # as above
        raise ExportError(f"the float graph fails on a calibration example, and its channels cannot be measured: {said_by(error)}") from error


def _batches(model: FloatGraph, data: PreparedData) -> Iterator[dict[str, Array]]:
    places, first = np.asarray(data.calibration, np.int64), model.inputs[0].shape[0]
    if isinstance(first, int) and len(places):
        # A graph of one batch size gets its last example again until the batch is full.
        places = np.pad(places, (0, -len(places) % first), mode="edge")
    return encoded(model.encoder, open_examples(data.splits["train"]), places, first if isinstance(first, int) else BATCH)


# ---- smoothing -------------------------------------------------------------------------------------------------------------


def linear_layers(graph: ir.Graph) -> Iterator[ir.Node]:
    """MatMul and Gemm with a constant float matrix that the input's last axis is multiplied by: those that int8-dynamic takes."""
    for node in graph:
        if node.domain or node.op_type not in ("MatMul", "Gemm"):
            continue
        weight = constant(node.inputs[1])
        plain = all(node.attributes[name].as_float() == 1 for name in ("alpha", "beta") if name in node.attributes) and not _flag(node, "transA")
        if plain and weight is not None and weight.ndim == 2 and weight.dtype == np.float32:
            yield node


def matrix_of(node: ir.Node) -> Array:
    """The matrix [channels, outputs] of a linear layer, the right way around."""
    weight: Array = constant(node.inputs[1])
    return weight.T if _flag(node, "transB") else weight


def smooth(model: ir.Model, sizes: Mapping[str, Channels], keep_float: Collection[str] = ()) -> tuple[ir.Model, tuple[str, ...]]:
    """A copy of `model`, the same function but for float32's rounding, and the activations whose channels were made alike.

    `keep_float`: names of layers that stay float, so that nothing is done for them.
    """
    copy = tidy(model.clone())
    groups: dict[ir.Value, list[ir.Node]] = {}
    for node in linear_layers(copy.graph):
        if node.inputs[0] is not None and node.name not in keep_float:
            groups.setdefault(node.inputs[0], []).append(node)
    done = []
    for value, layers in groups.items():
        channels = sizes.get(str(value.name))
        factors = None if channels is None else factors_of(channels, [matrix_of(node) for node in layers])
        if factors is not None:
            _scale(copy.graph, value, layers, factors)
            done.append(str(value.name))
    return copy, tuple(done)


def factors_of(channels: Channels, matrices: Sequence[Array]) -> Float64 | None:
    """The factors [channels] by which an activation is divided, None where nothing is worth it. `matrices` multiply it, [channels, outputs]."""
    weights = np.concatenate([np.asarray(matrix, np.float64) for matrix in matrices], axis=1)
    amplitudes, largest = np.maximum(-channels.low, channels.high), np.abs(weights).max(axis=1)
    used = (amplitudes > 0) & (largest > 0)
    if not used.any():
        return None
    amplitudes, largest = np.where(used, amplitudes, 1), np.where(used, largest, 1)
    best, smallest = None, WORTH * predicted_error(channels, weights, np.ones(len(weights)))
    for strength in STRENGTHS:
        wanted = strength * np.log2(amplitudes) - (1 - strength) * np.log2(largest)
        factors = np.where(used, np.exp2(np.clip(wanted - wanted[used].mean(), *FURTHEST)), 1.0)
        if (error := predicted_error(channels, weights, factors)) < smallest:
            best, smallest = factors, error
    return best


def predicted_error(channels: Channels, weights: Float64, factors: Float64) -> float:
    """The mean squared error of a row of x W that both roundings give, summed over the outputs; the module's docstring has the formula."""
    scaled = weights * factors[:, None]
    span = max((channels.high / factors).max(), 0) - min((channels.low / factors).min(), 0)
    activation = span**2 / (12 * 255**2) * np.square(scaled).sum()
    weight = (channels.square / factors**2).sum() * np.square(np.abs(scaled).max(axis=0) / LARGEST_INTEGER).sum() / 12
    return float(activation + weight)


def _scale(graph: ir.Graph, value: ir.Value, layers: list[ir.Node], factors: Float64) -> None:
    inverse = add_constant(graph, f"{value.name}/smooth_factor", (1 / factors).astype(np.float32))
    divide = ir.node("Mul", [value, inverse], num_outputs=1, name=f"{value.name}/smooth")
    smoothed = divide.outputs[0]
    smoothed.name, smoothed.shape, smoothed.type = f"{value.name}/smoothed", value.shape, value.type
    graph.insert_before(layers[0], divide)
    for node in layers:
        matrix = (matrix_of(node) * factors[:, None]).astype(np.float32)
        node.replace_input_with(0, smoothed)
        node.replace_input_with(1, add_constant(graph, f"{node.name}/smooth_weight", matrix.T if _flag(node, "transB") else matrix))


def _flag(node: ir.Node, name: str) -> bool:
    return name in node.attributes and node.attributes[name].as_int() == 1
