"""What one call of an artifact has to multiply and to move, counted from its file: what the roofline (`kdedge.latency.roofline`) is computed from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from kdedge.artifact import Artifact, Dimension, TensorSpec
from kdedge.exporters.asked import SECOND, asked_nodes, usual_sizes
from kdedge.exporters.model_file import constant
from kdedge.exporters.quantize.wiring import load
from kdedge.exporters.shapes import fix_shapes
from kdedge.latency.work import Layer, Work

TOOLS = ("onnx", "onnx-ir", "onnxscript")

_CONVOLUTIONS = ("Conv", "ConvInteger", "QLinearConv")


def work_of(artifact: Artifact, *, folder: Path | None = None) -> Work:
    """The work of one call of an artifact, at the batch and the usual sizes that it is measured with. A stage, which writes nothing to `folder`.

    Of ONNX files everything is counted. Of the other formats kernels and weights are not known: the bound is lower then, and holds all the same.
    """
    specs = artifact.main.inputs
    sizes = usual_sizes(specs)
    if artifact.format == "onnx":
        asked = {node.name: node.precision for node in artifact.asked}
        return work_of_graph(load(artifact.main.files[0]), sizes, asked)
    layers = tuple(Layer(node.name, node.operator, node.precision, node.macs, kernel=None) for node in artifact.asked)
    return Work(layers, _bytes(specs), _bytes(artifact.main.outputs))


def work_of_graph(model: ir.Model, sizes: Mapping[str, int], precisions: Mapping[str, str] | None = None) -> Work:
    """The work of one call of a graph whose dimensions that vary have these `sizes`. `precisions`: by node, instead of those of the file."""
    shapes = _shapes(fix_shapes(model, sizes))
    nodes = {str(node.name): node for node in model.graph}
    counted: set[str] = set()
    layers = []
    for asked in asked_nodes(model, sizes):
        node = nodes[asked.name]
        weight = _weight(node)
        first = weight is not None and str(weight.name) not in counted
        counted.update({str(weight.name)} if weight is not None else ())
        values = constant(weight)
        layers.append(
            Layer(
                name=asked.name,
                operator=asked.operator,
                precision=(precisions or {}).get(asked.name, asked.precision),
                macs=asked.macs,
                kernel=_kernel(node, values),
                depthwise=_depthwise(node, values),
                sparse=values is not None and is_sparse(values, 1 if node.op_type in _CONVOLUTIONS else _summed(node, values)),
                weights=values.size if first and values is not None else 0,
                stored_bytes=_stored_bytes(weight) if first and values is not None else 0,
                values=_elements(node.inputs[0], shapes) + _elements(node.outputs[0], shapes),
                unpadded=_unpadded(node, values, shapes),
            )
        )
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    return Work(tuple(layers), _sum_bytes(inputs, shapes), _sum_bytes(model.graph.outputs, shapes))


def is_sparse(weights: npt.NDArray[Any], axis: int) -> bool:
    """Whether of any four neighbours along `axis`, which is summed over, two at most are not zero (2:4 sparsity, which tensor cores skip)."""
    if weights.ndim <= axis or weights.shape[axis] < 4:
        return False
    moved = np.moveaxis(np.asarray(weights), axis, -1)
    whole = moved[..., : moved.shape[-1] // 4 * 4]
    return bool((np.count_nonzero(whole.reshape(-1, 4), axis=1) <= 2).all())


def _summed(node: ir.Node, weights: npt.NDArray[Any]) -> int:
    """The axis of the second operand of a product that is summed over."""
    transposed = node.attributes.get("transB")
    return weights.ndim - 1 if transposed is not None and bool(transposed.value) else max(weights.ndim - 2, 0)


def _weight(node: ir.Node) -> ir.Value | None:
    """The constant that the second operand is made from, as it is stored: of the integers, where they are dequantized in the graph."""
    value = node.inputs[SECOND[node.op_type]] if node.op_type in SECOND else None
    while value is not None and constant(value) is None:
        producer = value.producer()
        if producer is None or producer.op_type not in ("DequantizeLinear", "QuantizeLinear", "Cast", "Transpose"):
            return None
        value = producer.inputs[0]
    return value


def _stored_bytes(weight: ir.Value | None) -> int:
    """As the file packs them: two of 4 bits to a byte."""
    tensor = ir.convenience.get_const_tensor(weight) if weight is not None else None
    return 0 if tensor is None else int(tensor.nbytes)


def _unpadded(node: ir.Node, weights: npt.NDArray[Any] | None, shapes: Mapping[str, tuple[int, ...]]) -> float:
    """Which share of a convolution's pairs of place and weight meet a value and no padding; 1 where a size is not known."""
    transposed = node.op_type == "ConvTranspose"
    if weights is None or not (transposed or node.op_type in _CONVOLUTIONS):
        return 1.0
    # A transposed convolution goes the other way: from a place of its input to one of its output, which may have been cut off.
    ends = (node.inputs[0], node.outputs[0]) if transposed else (node.outputs[0], node.inputs[0])
    places, values = (shapes.get(str(value.name), ())[2:] for value in ends if value is not None)
    kernel = weights.shape[2:]
    if not len(places) == len(values) == len(kernel):
        return 1.0
    strides, dilations = (_numbers(node, name, len(kernel)) for name in ("strides", "dilations"))
    pads = _numbers(node, "pads", len(kernel), 0)
    share = 1.0
    for axis, size in enumerate(values):
        reach = np.arange(places[axis])[:, None] * strides[axis] + np.arange(kernel[axis]) * dilations[axis]
        met = reach - _before(node, pads[axis], int(reach.max()) + 1 - size)
        share *= float(((met >= 0) & (met < size)).mean())
    return share


def _before(node: ir.Node, given: int, missing: int) -> int:
    """Padding before the first value along an axis: as given, or half of what is missing, the odd one on the side that `auto_pad` names."""
    found = node.attributes.get("auto_pad")
    kind = "" if found is None else str(found.value)
    if not kind.startswith("SAME"):
        return given
    half, odd = divmod(max(missing, 0), 2)
    return half + odd if kind == "SAME_LOWER" else half


def _kernel(node: ir.Node, weights: npt.NDArray[Any] | None) -> tuple[int, ...] | None:
    if node.op_type not in (*_CONVOLUTIONS, "ConvTranspose"):
        return ()
    if any(step != 1 for name in ("strides", "dilations") for step in _numbers(node, name)):
        return ()
    return None if weights is None else tuple(int(size) for size in weights.shape[2:])


def _depthwise(node: ir.Node, weights: npt.NDArray[Any] | None) -> bool:
    return node.op_type in _CONVOLUTIONS and weights is not None and weights.ndim > 2 and weights.shape[1] == 1 and _numbers(node, "group") != [1]


def _numbers(node: ir.Node, name: str, count: int = 1, usual: int = 1) -> list[int]:
    found = node.attributes.get(name)
    if found is None:
        return [usual] * count
    return [int(found.value)] if isinstance(found.value, int) else [int(size) for size in found.value]


# ---- sizes -----------------------------------------------------------------------------------------------------------------


def _shapes(model: ir.Model) -> dict[str, tuple[int, ...]]:
    """Shapes of values by name, where all sizes are known."""
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    found = {str(value.name): tuple(value.shape) for value in values if value.shape is not None}
    return {name: shape for name, shape in found.items() if all(isinstance(size, int) for size in shape)}


def _elements(value: ir.Value | None, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """0 where a size is not known: the bound is lower then, and holds."""
    return 0 if value is None or str(value.name) not in shapes else math.prod(shapes[str(value.name)])


def _sum_bytes(values: Iterable[ir.Value], shapes: Mapping[str, tuple[int, ...]]) -> int:
    total = 0.0
    for value in values:
        total += _elements(value, shapes) * (value.dtype.itemsize if value.dtype is not None else 0)
    return int(total)


def _bytes(specs: Iterable[TensorSpec]) -> int:
    total = 0
    for spec in specs:
        sizes = [size.typical if isinstance(size, Dimension) else size for size in spec.shape]
        total += math.prod(sizes) * np.dtype(spec.dtype).itemsize
    return total
