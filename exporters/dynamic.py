"""int8-dynamic: integer weights now, activation ranges measured at each inference. No calibration, made for transformers on ONNX Runtime.

A linear layer x W + b with constant W becomes

    q, s, z = DynamicQuantizeLinear(x)                 uint8, one scale and zero point for the whole tensor
    y = Cast(MatMulInteger(q, Wq, z)) * (s * Sw) + b   Wq int8, symmetric, one scale Sw an output channel

which ONNX Runtime fuses into one kernel. Large embedding tables become int8 with a scale a column. What multiplies two activations
(attention) stays float. 8 bits can saturate the 16-bit sums of x86 machines older than VNNI. Because ranges are measured over the whole input
tensor, an example's output depends slightly on its batch. Where the sizes of channels are known, those of each activation are made alike first
(`smoothing.py`): its few large ones no longer coarsen the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from kdedge.errors import ExportError
from kdedge.exporters.integer_weights import Quantized, add_constant, quantize_symmetric
from kdedge.exporters.model_file import constant, infer_shapes, tidy
from kdedge.exporters.quantize.keep_float import kept_float
from kdedge.exporters.smoothing import Channels, linear_layers, matrix_of, smooth

#: Smaller tables are not worth an extra node.
SMALLEST_TABLE = 1024

BATCH_NOTE = "activation ranges are measured over each call's whole batch: an example's outputs depend slightly on what it is batched with"


def quantize_dynamically(model: ir.Model, keep_float: Iterable[str] = (), channels: Mapping[str, Channels] | None = None) -> Quantized:
    """A copy of `model` with integer weights in each linear layer and large embedding table, but those that `keep_float` names (`*` fits all).

    `channels`: sizes of the channels of activations by name, as `smoothing.channel_sizes` measures them.

    Raises:
        ExportError: there is no linear layer to quantize, or a pattern of `keep_float` names nothing.
    """
    kept = kept_float(model, keep_float)
    smoothed, alike = smooth(model, channels or {}, kept)
    copy = infer_shapes(smoothed)
    rewriter = _Rewriter(copy.graph)
    linear = {node.name for node in linear_layers(copy.graph)} - set(kept)
    done: list[str] = []
    odd: list[str] = []
    for node in list(copy.graph):
        if node.name in linear:
            rewriter.linear(node)
        elif node.domain or node.name in kept or node.op_type != "Gather" or not rewriter.table(node):
            odd += _odd(node) if node.name not in kept else []
            continue
        done.append(str(node.name))
    if not any(rewriter.quantized.values()):
        left = "`quantize.keep_float` leaves none of this graph's" if kept else "this graph has none"
        raise ExportError(f"int8-dynamic needs linear layers with constant weights, and {left}; convolutions take `int8`")
    convolutions = sum(node.op_type in ("Conv", "ConvTranspose") for node in copy.graph)
    notes = [BATCH_NOTE, *([f"{convolutions} convolutions stay float32: their integer form is slower; use `int8` for them"] if convolutions else [])]
    notes += odd
    notes += [f"the channels of {len(alike)} activations were made alike before they are quantized"] if alike else []
    notes += [f"`{node.name}` ({node.op_type}) stays float: kept float by `keep_float`" for node in copy.graph if _is_kept(node, kept)]
    return Quantized(infer_shapes(tidy(copy)), tuple(done), tuple(notes))


def _odd(node: ir.Node) -> list[str]:
    """Why a layer with constant weights stays float, nothing for any other node."""
    places = {"MatMul": (0, 1), "Gemm": (1,)}.get(node.op_type, ()) if not node.domain else ()
    held = next((weight for place in places if (weight := constant(node.inputs[place])) is not None), None)
    if held is None:
        return []
    if held.ndim != 2 or node.op_type == "MatMul":
        reason = f"its weights have {held.ndim} dimensions" if held.ndim != 2 else "its weights are on the left"
    else:
        reason = "it scales or transposes more than its weights"
    return [f"`{node.name}` ({node.op_type}) stays float: {reason}"]


def _is_kept(node: ir.Node, kept: Collection[str]) -> bool:
    """Whether a node was left float that has weights to quantize."""
    place = {"MatMul": 1, "Gemm": 1, "Gather": 0}.get(node.op_type)
    return node.name in kept and place is not None and constant(node.inputs[place]) is not None


class _Rewriter:
    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.quantized: dict[ir.Value, tuple[ir.Value, ir.Value, ir.Value]] = {}
        self.weights: dict[tuple[ir.Value | None, bool], tuple[ir.Value, ir.Value]] = {}

    def linear(self, node: ir.Node) -> None:
        """Rewrite one MatMul or Gemm with a constant matrix."""
        name = str(node.name)
        activation, scale, zero = self._quantize_activation(node)
        weights, weight_scales = self._quantize_weights(node)
        product = self._node(
            node,
            "MatMulInteger",
            [activation, weights, zero, self._constant(f"{name}/weight_zero", np.zeros((), np.int8))],
            f"{name}/integer",
        )
        real = self._node(node, "Cast", [product], f"{name}/real", {"to": int(ir.DataType.FLOAT)})
        both = self._node(node, "Mul", [scale, weight_scales], f"{name}/scale")
        bias = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
        result = self._node(node, "Mul", [real, both], f"{name}/scaled")
        if bias is not None:
            result = self._node(node, "Add", [result, bias], f"{name}/biased")
        self._replace(node, result)

    def table(self, node: ir.Node) -> bool:
        """Rewrite one embedding: rows of a constant table [n, d] picked by index."""
        held = constant(node.inputs[0])
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
        indices = node.inputs[1]
        if (
            held is None
            or held.dtype != np.float32
            or held.ndim != 2
            or axis != 0
            or held.size < SMALLEST_TABLE
            or indices is None
            or indices.shape is None
        ):
            return False
        integers, scales = quantize_symmetric(held, 1)
        name = str(node.name)
        rows = self._node(node, "Gather", [self._constant(f"{name}/table_int8", integers), indices], f"{name}/rows", {"axis": 0})
        held_scales, zeros = (
            self._constant(f"{name}/table_scale", scales),
            self._constant(f"{name}/table_zero", np.zeros(len(scales), np.int8)),
        )
        result = self._node(node, "DequantizeLinear", [rows, held_scales, zeros], f"{name}/real", {"axis": indices.shape.rank()})
        self._replace(node, result)
        return True

    def _quantize_activation(self, node: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value]:
        """The integers, scale and zero point of a layer's input, measured once however many layers read it."""
        source = node.inputs[0]
        if source is None:
            raise ExportError(f"`{node.name}` has no first input")
        if source not in self.quantized:
            made = ir.node("DynamicQuantizeLinear", [source], num_outputs=3, name=f"{source.name}/quantize")
            for value, what in zip(made.outputs, ("integers", "scale", "zero"), strict=True):
                value.name = f"{source.name}/{what}"
            self.graph.insert_before(node, made)
            self.quantized[source] = (made.outputs[0], made.outputs[1], made.outputs[2])
        return self.quantized[source]

    def _quantize_weights(self, node: ir.Node) -> tuple[ir.Value, ir.Value]:
        """The integers and scales of a layer's weights, stored once however many layers multiply by them the same way around."""
        turned = "transB" in node.attributes and node.attributes["transB"].as_int() == 1
        key = (node.inputs[1], turned)
        if key not in self.weights:
            integers, scales = quantize_symmetric(matrix_of(node), 1)
            self.weights[key] = (
                self._constant(f"{node.name}/weight_int8", integers),
                self._constant(f"{node.name}/weight_scale", scales),
            )
        return self.weights[key]

    def _node(self, before: ir.Node, operator: str, inputs: list[ir.Value], name: str, attributes: dict[str, Any] | None = None) -> ir.Value:
        node = ir.node(operator, inputs, attributes or {}, num_outputs=1, name=name)
        node.outputs[0].name = name
        self.graph.insert_before(before, node)
        output: ir.Value = node.outputs[0]
        return output

    def _constant(self, name: str, array: npt.NDArray[Any]) -> ir.Value:
        return add_constant(self.graph, name, array)

    def _replace(self, node: ir.Node, result: ir.Value) -> None:
        old = node.outputs[0]
        name, is_output = str(old.name), old.is_graph_output()
        old.replace_all_uses_with(result, replace_graph_outputs=is_output)
        self.graph.remove(node, safe=True)
        result.name, result.shape, result.type = name, old.shape, old.type
