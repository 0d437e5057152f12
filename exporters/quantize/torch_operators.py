"""ONNX operators in torch, by name: arithmetic, activations, norms, reductions and products here, the rest beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdedge.exporters.quantize.torch_call import Call, Operator
from kdedge.exporters.quantize.torch_movement import MOVEMENT
from kdedge.exporters.quantize.torch_rounding import dequantize_linear, quantize_linear
from kdedge.exporters.quantize.torch_windows import WINDOWS

# ---- arithmetic ------------------------------------------------------------------------------------------------------------


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda call, x: function(x)


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda call, first, second: function(first, second)


def _many(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    def folded(call: Call, first: Tensor, *others: Tensor) -> Tensor:
        for other in others:
            first = function(first, other)
        return first

    return folded


def divide(call: Call, first: Tensor, second: Tensor) -> Tensor:
    """Div: integers are cut towards zero."""
    return first / second if first.is_floating_point() else torch.div(first, second, rounding_mode="trunc")


def power(call: Call, first: Tensor, second: Tensor) -> Tensor:
    """Pow has the type of its base."""
    return first.pow(second).to(first.dtype)


def remainder(call: Call, first: Tensor, second: Tensor) -> Tensor:
    """Mod: the sign of the divisor, or with `fmod` that of the dividend."""
    return first.fmod(second) if call.get("fmod", 0) else first.remainder(second)


def mean(call: Call, first: Tensor, *others: Tensor) -> Tensor:
    """Mean of tensors."""
    return torch.stack(torch.broadcast_tensors(first, *others)).mean(0)  # type: ignore[no-untyped-call]


def clip(call: Call, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Clip, with its limits as attributes (to opset 10) or as inputs."""
    lowest = call.get("min", None) if low is None else low.to(x)
    highest = call.get("max", None) if high is None else high.to(x)
    if lowest is None and highest is None:
        return x
    if isinstance(lowest, Tensor) or isinstance(highest, Tensor):
        # torch takes two tensors or two numbers.
        lowest = None if lowest is None else torch.as_tensor(lowest, dtype=x.dtype, device=x.device)
        highest = None if highest is None else torch.as_tensor(highest, dtype=x.dtype, device=x.device)
    return x.clamp(lowest, highest)


# ---- activations -----------------------------------------------------------------------------------------------------------


def leaky_relu(call: Call, x: Tensor) -> Tensor:
    """LeakyRelu."""
    return F.leaky_relu(x, call.get("alpha", 0.01))


def prelu(call: Call, x: Tensor, slope: Tensor) -> Tensor:
    """PRelu: the slope is broadcast to the input."""
    return torch.where(x < 0, x * slope, x)


def elu(call: Call, x: Tensor) -> Tensor:
    """Elu."""
    return F.elu(x, call.get("alpha", 1.0))


def hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    """HardSigmoid: max(0, min(1, alpha x + beta))."""
    return torch.clamp(call.get("alpha", 0.2) * x + call.get("beta", 0.5), 0, 1)


def gelu(call: Call, x: Tensor) -> Tensor:
    """Gelu, exact or by tanh."""
    return F.gelu(x, approximate=call.get("approximate", "none"))


def _softmax(function: Callable[[Tensor, int], Tensor]) -> Operator:
    def along(call: Call, x: Tensor) -> Tensor:
        if call.opset >= 13:
            return function(x, int(call.get("axis", -1)))
        # Before opset 13: over all axes from `axis` on.
        axis = int(call.get("axis", 1)) % x.ndim
        return function(x.flatten(axis), -1).reshape(x.shape)

    return along


# ---- norms -----------------------------------------------------------------------------------------------------------------


def batch_normalization(call: Call, x: Tensor, scale: Tensor, offset: Tensor, average: Tensor, variance: Tensor) -> Tensor:
    """BatchNormalization as it is at inference."""
    return F.batch_norm(x, average, variance, scale, offset, eps=call.get("epsilon", 1e-5))


def layer_normalization(call: Call, x: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """LayerNormalization over all axes from `axis` on."""
    axes = tuple(range(int(call.get("axis", -1)) % x.ndim, x.ndim))
    centred = x - x.mean(axes, keepdim=True)
    normal = centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + call.get("epsilon", 1e-5)) * scale
    return normal if offset is None else normal + offset


def instance_normalization(call: Call, x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """InstanceNormalization."""
    return F.instance_norm(x, weight=scale, bias=offset, eps=call.get("epsilon", 1e-5))


# ---- products --------------------------------------------------------------------------------------------------------------


def gemm(call: Call, first: Tensor, second: Tensor, offset: Tensor | None = None) -> Tensor:
    """Gemm: alpha A B + beta C, each factor transposed where asked."""
    first = first.T if call.get("transA", 0) else first
    second = second.T if call.get("transB", 0) else second
    alpha, beta = call.get("alpha", 1.0), call.get("beta", 1.0)
    product = first @ second
    product = product if alpha == 1.0 else alpha * product
    return product if offset is None else product + (offset if beta == 1.0 else beta * offset)


def einsum(call: Call, *operands: Tensor) -> Tensor:
    """Einsum."""
    return torch.einsum(call.get("equation", ""), *operands)


# ---- reductions ------------------------------------------------------------------------------------------------------------


def _reduction(function: Callable[[Tensor, tuple[int, ...], bool], Tensor]) -> Operator:
    def over(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen = call.integers("axes", axes)
        if not chosen:
            if call.get("noop_with_empty_axes", 0):
                return x
            chosen = list(range(x.ndim))
        return function(x, tuple(chosen), bool(call.get("keepdims", 1)))

    return over


def _product(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _extreme_place(function: Callable[..., Tensor]) -> Operator:
    def found(call: Call, x: Tensor) -> Tensor:
        axis = int(call.get("axis", 0))
        if call.get("select_last_index", 0):
            return x.shape[axis] - 1 - function(x.flip(axis), dim=axis, keepdim=bool(call.get("keepdims", 1)))
        return function(x, dim=axis, keepdim=bool(call.get("keepdims", 1)))

    return found


OPERATORS: dict[str, Operator] = {
    **WINDOWS,
    **MOVEMENT,
    "QuantizeLinear": quantize_linear,
    "DequantizeLinear": dequantize_linear,
    "Abs": _unary(torch.abs),
    "Add": _binary(torch.add),
    "And": _binary(torch.logical_and),
    "ArgMax": _extreme_place(torch.argmax),
    "ArgMin": _extreme_place(torch.argmin),
    "BatchNormalization": batch_normalization,
    "Ceil": _unary(torch.ceil),
    "Clip": clip,
    "Cos": _unary(torch.cos),
    "Div": divide,
    "Einsum": einsum,
    "Elu": elu,
    "Equal": _binary(torch.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Floor": _unary(torch.floor),
    "Gelu": gelu,
    "Gemm": gemm,
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "HardSigmoid": hard_sigmoid,
    "HardSwish": _unary(F.hardswish),
    "InstanceNormalization": instance_normalization,
    "LayerNormalization": layer_normalization,
    "LeakyRelu": leaky_relu,
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Log": _unary(torch.log),
    "LogSoftmax": _softmax(torch.log_softmax),
    "MatMul": _binary(torch.matmul),
    "Max": _many(torch.maximum),
    "Mean": mean,
    "Min": _many(torch.minimum),
    "Mish": _unary(F.mish),
    "Mod": remainder,
    "Mul": _binary(torch.mul),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Or": _binary(torch.logical_or),
    "PRelu": prelu,
    "Pow": power,
    "Reciprocal": _unary(torch.reciprocal),
    "ReduceL2": _reduction(lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt()),
    "ReduceMax": _reduction(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    "ReduceMean": _reduction(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "ReduceMin": _reduction(lambda x, axes, keep: x.amin(axes, keepdim=keep)),
    "ReduceProd": _reduction(_product),
    "ReduceSum": _reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep)),
    "ReduceSumSquare": _reduction(lambda x, axes, keep: x.square().sum(axes, keepdim=keep)),
    "Relu": _unary(torch.relu),
    "Round": _unary(torch.round),
    "Sigmoid": _unary(torch.sigmoid),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Softmax": _softmax(torch.softmax),
    "Softplus": _unary(F.softplus),
    "Softsign": _unary(F.softsign),
    "Sqrt": _unary(torch.sqrt),
    "Sub": _binary(torch.sub),
    "Sum": _many(torch.add),
    "Tanh": _unary(torch.tanh),
}


def _not_nearest_or_linear(attributes: dict[str, Any], outputs: int) -> str:
    mode, how = attributes.get("mode", "nearest"), attributes.get("coordinate_transformation_mode", "half_pixel")
    if mode not in ("nearest", "linear"):
        return f"mode {mode}"
    if how == "tf_crop_and_resize" or attributes.get("antialias", 0) or attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return "crops, anti-aliasing or kept proportions"
    return ""


def _same_with_dilations(attributes: dict[str, Any]) -> str:
    """ONNX Runtime makes another size of it than ONNX says."""
    same = attributes.get("auto_pad", "NOTSET").startswith("SAME")
    return "padded to the same size with dilations" if same and max(attributes.get("dilations", [1])) > 1 else ""


# Forms of known operators that are not known: why, "" for the others. Called with the attributes and the number of outputs that are read.
_LIMITS: dict[str, Callable[[dict[str, Any], int], str]] = {
    "Resize": _not_nearest_or_linear,
    "MaxPool": lambda attributes, outputs: "with indices" if outputs > 1 else _same_with_dilations(attributes),
    "AveragePool": lambda attributes, outputs: "with dilations" if max(attributes.get("dilations", [1])) > 1 else "",
    "BatchNormalization": lambda attributes, outputs: "in training" if attributes.get("training_mode", 0) or outputs > 1 else "",
    "Dropout": lambda attributes, outputs: "with its mask" if outputs > 1 else "",
    "LayerNormalization": lambda attributes, outputs: "with its statistics" if outputs > 1 else "",
    "QuantizeLinear": lambda attributes, outputs: "in blocks" if attributes.get("block_size", 0) else "",
    "DequantizeLinear": lambda attributes, outputs: "in blocks" if attributes.get("block_size", 0) else "",
}


def unknown(node: Any) -> str:
    """What of a node of an `onnx_ir` graph is not known here: its operator, or the form that it has. "" where it can be run."""
    if node.domain not in ("", "ai.onnx"):
        return f"{node.domain}.{node.op_type}"
    if node.op_type not in OPERATORS:
        return str(node.op_type)
    attributes = {name: found.value for name, found in node.attributes.items()}
    used = sum(1 for place, value in enumerate(node.outputs) if place == 0 or value.uses() or value.is_graph_output())
    reason = _LIMITS[node.op_type](attributes, used) if node.op_type in _LIMITS else ""
    return f"{node.op_type} {reason}" if reason else ""
