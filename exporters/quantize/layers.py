"""A float graph and its lowered form side by side, layer by layer: what a layer reads and makes, and its integers and bias, to be exchanged."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes import common

from kdedge.errors import ExportError
from kdedge.exporters.equivalence import GraphRunError, open_graph
from kdedge.exporters.quantize import encoding
from kdedge.exporters.quantize.ranges import RangeTable, Weight
from kdedge.exporters.quantize.wiring import bias_place, constant
from kdedge.runtimes.onnxruntime import said_by

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]
Batch = Mapping[str, Array]

_SUBGRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
BYTES_AT_ONCE = 64 << 20  # of values that are fetched together
VALUES_AT_ONCE = 8  # of which samples are kept


@dataclass(frozen=True)
class Layer:
    """A weighted node that runs on integers. `steps`: the scale of its weights, one a channel along `axis` (or one for all).

    `bias`: whether it has a bias of its own; `alone`: whether its weights are not read by another node.
    """

    row: Weight
    axis: int
    steps: Float32
    bias: bool
    alone: bool


class Lowered:
    """A lowered graph (`onnx_ir.Model`) whose integers and biases are exchanged in place."""

    def __init__(self, model: Any, table: RangeTable) -> None:
        self.model = model
        self.nodes = {str(node.name): node for node in model.graph}
        self.used = Counter(row.name for row in table.structure.weights)
        self.used.update({row.bias for row in table.structure.weights if row.bias is not None})
        biases = Counter(row.bias for row in table.structure.weights)
        self.own_bias = {row.node for row in table.structure.weights if row.bias is not None and biases[row.bias] == 1}
        self.rows = table.structure.weights

    def layers(self) -> Iterator[Layer]:
        """The layers on integers, in graph order."""
        for row in self.rows:
            node = self.nodes.get(row.node)
            producer = None if node is None else node.inputs[1].producer()
            if node is None or producer is None or producer.op_type != "DequantizeLinear":
                continue
            steps = constant(producer.inputs[1])
            assert steps is not None
            has_bias = row.node in self.own_bias and bias_place(node) is not None
            yield Layer(row, row.axis, np.atleast_1d(np.asarray(steps, np.float32)), has_bias, self.used[row.name] == 1)

    def input_of(self, layer: Layer) -> str:
        """The name of the activation that it reads, as the integers say it."""
        return str(self.nodes[layer.row.node].inputs[0].name)

    def output_of(self, layer: Layer) -> str:
        """The name of what it makes, before it is quantized."""
        return str(self.nodes[layer.row.node].outputs[0].name)

    def weight(self, layer: Layer) -> Float32:
        """Its weights as the integers say them."""
        held, scales = self._stored(layer)
        whole = np.asarray(held, np.float32)
        return whole * scales if held.dtype.kind in "iu" else np.rint(whole / scales) * scales

    def replace_weight(self, layer: Layer, weight: Float32) -> None:
        """Exchange its weights by others that lie on the grid."""
        producer = self.nodes[layer.row.node].inputs[1].producer()
        held, scales = self._stored(layer)
        if held.dtype.kind in "iu":
            _set(producer.inputs[0], np.rint(weight / scales).astype(held.dtype))
        else:
            _set(producer.inputs[0].producer().inputs[0], np.asarray(weight, np.float32))

    def bias(self, layer: Layer) -> Float32:
        """Its bias [channels] as the integers say it."""
        value = self._bias_value(layer)
        producer = value.producer()
        if producer is None or producer.op_type != "DequantizeLinear":
            return np.asarray(constant(value), np.float32).reshape(-1)
        integers, steps = constant(producer.inputs[0]), constant(producer.inputs[1])
        return np.asarray(np.asarray(integers, np.float64) * np.asarray(steps, np.float64), np.float32).reshape(-1)

    def replace_bias(self, layer: Layer, bias: Float32) -> None:
        """Exchange its bias, rounded as the dialect stores it."""
        value = self._bias_value(layer)
        producer = value.producer()
        if producer is None or producer.op_type != "DequantizeLinear":
            held = constant(value)
            assert held is not None
            _set(value, np.asarray(bias, np.float32).reshape(held.shape))
            return
        held, steps = constant(producer.inputs[0]), constant(producer.inputs[1])
        assert held is not None
        assert steps is not None
        limits = np.iinfo(held.dtype)
        integers = np.rint(np.asarray(bias, np.float64) / np.asarray(steps, np.float64).reshape(-1))
        _set(producer.inputs[0], np.clip(integers, limits.min, limits.max).astype(held.dtype).reshape(held.shape))

    def _stored(self, layer: Layer) -> tuple[Array, Float32]:
        producer = self.nodes[layer.row.node].inputs[1].producer()
        source = producer.inputs[0]
        if source.producer() is not None and source.producer().op_type == "QuantizeLinear":
            source = source.producer().inputs[0]
        held = constant(source)
        assert held is not None
        return held, encoding.along(layer.steps, layer.axis, held.ndim)

    def _bias_value(self, layer: Layer) -> Any:
        place = bias_place(self.nodes[layer.row.node])
        assert place is not None
        return place[0].inputs[place[1]]


def _set(value: Any, array: Array) -> None:
    value.const_value = ir.tensor(array, name=value.name)


# ---- running a part of a graph ---------------------------------------------------------------------------------------------


def stream(model: Any, names: Sequence[str], batches: Iterable[Batch]) -> Iterator[tuple[Array, ...]]:
    """Values between of an `onnx_ir.Model`, batch by batch; nothing behind them is computed.

    Raises:
        ExportError: the graph cannot be opened or fails on a batch.
    """
    part = model.clone()
    known = {value.name: value for value in (*part.graph.inputs, *(value for node in part.graph for value in node.outputs))}
    inputs = {str(value.name) for value in part.graph.inputs}
    computed = [name for name in dict.fromkeys(names) if name not in inputs]
    part.graph.outputs.clear()
    part.graph.outputs.extend(known[name] for name in computed)
    common.RemoveUnusedNodesPass()(part)
    session = _opened(part) if computed else None
    for batch in batches:
        found = {name: batch[name] for name in names if name in inputs}
        if session is not None:
            try:
                found.update(zip(computed, session.run(computed, dict(batch)), strict=True))
            except Exception as error:  # ONNX Runtime's classes all come straight from Exception
                raise ExportError(f"the graph fails on a calibration example: {said_by(error)}") from error
        yield tuple(found[name] for name in names)


class Onward:
    """Values of one graph in its order, each computed from what the one before it left instead of from the inputs, to the bit as `stream` has them.

    The graph may be changed in between, but not where a value that was given hangs on it. What is read again later is kept on disk, a batch in memory
    at a time, as the integers that it is made of where it has them.
    """

    def __init__(self, model: Any, names: Sequence[str], batches: Sequence[Batch]) -> None:
        self.model, self.batches = model, batches
        self.inputs = {str(value.name) for value in model.graph.inputs}
        self.values = {str(value.name): value for node in model.graph for value in node.outputs}
        # What a subgraph reads from outside does not show in its node's inputs.
        self.whole = any(attribute.type in _SUBGRAPHS for node in model.graph for attribute in node.attributes.values())
        # With the readers of the values themselves: two layers may read one.
        readers = {node for name in names if name in self.values for node, _ in self.values[name].uses()}
        self.useful = set() if self.whole else self._behind(names, ()) | readers
        self.done: set[Any] = set()
        self.kept: tuple[str, ...] = ()
        self.held: Batch = {}
        self.file: Any = None

    def to(self, name: str) -> Iterator[Array]:
        """The value batch by batch; all of them have to be taken before the next value is asked for.

        Raises:
            ExportError: as `stream`.
        """
        if self.whole or name in self.inputs:
            yield from (found for (found,) in stream(self.model, [name], self.batches))
            return
        fresh = {node for node in self._behind([name], self.kept) if node.op_type != "DequantizeLinear"}
        self.done |= fresh
        kept = tuple(value for value in self.values if self._is_read_again(self.values[value]))
        computed = [value for value in kept if value not in self.kept]
        part = _cut(self.model, self.kept)
        with ExitStack() as stack:  # a reader that stops early leaves no file behind
            after = stack.enter_context(tempfile.TemporaryFile())
            for feed in stream(part, [name, *computed], self._feeds()):
                found = dict(zip([name, *computed], feed, strict=True))
                for value in kept:
                    np.save(after, found[value] if value in found else self.held[value], allow_pickle=False)
                yield found[name]
            stack.pop_all()
        self.close()
        self.kept, self.file = kept, after

    def close(self) -> None:
        """Let go of what is kept."""
        if self.file is not None:
            self.file.close()
            self.file = None

    def _feeds(self) -> Iterator[Batch]:
        if self.file is not None:
            self.file.seek(0)
        for batch in self.batches:
            self.held = {name: np.load(self.file, allow_pickle=False) for name in self.kept}
            yield {**batch, **self.held}

    def _behind(self, names: Iterable[str], known: Collection[str]) -> set[Any]:
        """The nodes that some values hang on, back to what is known."""
        nodes: set[Any] = set()
        todo = [self.values[name] for name in names if name in self.values and name not in known]
        while todo:
            node = todo.pop().producer()
            if node is None or node in nodes:
                continue
            nodes.add(node)
            todo += [value for value in node.inputs if value is not None and value.name not in known]
        return nodes

    def _is_read_again(self, value: Any) -> bool:
        return value.producer() in self.done and any(self._is_ahead(node) for node, _ in value.uses())

    def _is_ahead(self, node: Any) -> bool:
        """Whether a later value hangs on it. What makes floats of integers is computed again for each that reads them."""
        if node.op_type == "DequantizeLinear":
            return any(self._is_ahead(after) for value in node.outputs for after, _ in value.uses())
        return node in self.useful and node not in self.done


def _cut(model: Any, names: Collection[str]) -> Any:
    """A copy of the graph that takes some of its values as inputs."""
    part = model.clone()
    part.graph.outputs.clear()  # one of them may be such a value
    for value in [value for node in part.graph for value in node.outputs if value.name in names]:
        given = ir.Value(name=value.name, type=value.type, shape=value.shape)
        value.replace_all_uses_with(given)
        value.name = f"{value.name}/computed"
        part.graph.inputs.append(given)
    return part


def together(model: Any, names: Sequence[str], batches: Sequence[Batch]) -> Iterator[list[str]]:
    """Names in order, cut where the values of a batch would be too many to fetch at once; a value of unknown size is fetched alone."""
    values = {value.name: value for node in model.graph for value in node.outputs}
    rows = max((len(next(iter(batch.values()))) for batch in batches), default=1)
    part: list[str] = []
    held = 0
    for name in names:
        shape = None if values[name].shape is None else list(values[name].shape)
        known = shape is not None and all(isinstance(size, int) and size > 0 for size in shape[1:])
        size = rows * 4 * int(np.prod([int(size) for size in (shape or [])[1:]])) if known else BYTES_AT_ONCE
        if part and (held + size > BYTES_AT_ONCE or len(part) == VALUES_AT_ONCE):
            yield part
            part, held = [], 0
        part.append(name)
        held += size
    if part:
        yield part


def _opened(model: Any) -> Any:
    try:
        return open_graph(model, as_written=True)
    except GraphRunError as error:
        raise ExportError(f"the graph cannot be opened: {error}") from error
