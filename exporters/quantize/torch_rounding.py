"""QuantizeLinear and DequantizeLinear in torch, with gradients.

Rounding has the gradient of the identity (the straight-through estimator; Bengio, Leonard, Courville 2013), saturation has none. Where scale
and zero point are tensors that want a gradient, DQ(Q(x)) then has the one of LSQ (Esser et al. 2020, eq. 3): for v = x / s inside the type's
limits d/ds = round(v) - v, outside it is the limit itself; and that of LSQ+ (Bhalgat et al. 2020, eq. 5) for the zero point: 0 inside, -s outside.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdedge.exporters.quantize.torch_call import Call, integer_limits

_LIMITS = {torch.int8: (-128, 127), torch.uint8: (0, 255), torch.int16: (-32768, 32767)}


def quantize_linear(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """QuantizeLinear: round half to even, then saturate. The integers come as float32, which holds them exactly and lets gradients through."""
    held = torch.zeros((), device=x.device) if zero is None else zero
    integers: Tensor = Quantize.apply(x, *_along(call, x, scale, held), *_limits(call, zero))  # type: ignore[no-untyped-call]
    return integers


def dequantize_linear(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """DequantizeLinear: scale * (x - zero point), in float32."""
    scale, held = _along(call, x, scale, torch.zeros((), device=x.device) if zero is None else zero)
    values = x if x.is_floating_point() else x.to(torch.float64) if x.dtype == torch.int32 else x.float()
    return ((values if zero is None else values - held.to(values)).to(scale.dtype)) * scale


def _limits(call: Call, zero: Tensor | None) -> tuple[int, int]:
    """Of the integers that a Q makes: as its output is declared, else of its zero point's type, else of ONNX's default."""
    limits = integer_limits(call.outputs[0]) or ((0, 255) if zero is None else _LIMITS.get(zero.dtype))
    if limits is None:
        raise call.error("it makes numbers that are no integers of up to 16 bits")
    return limits


def _along(call: Call, x: Tensor, scale: Tensor, zero: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point so that they broadcast along the node's axis."""
    if scale.ndim == 0 or scale.numel() == 1:
        return scale.reshape(()), zero.reshape(())
    axis = int(call.get("axis", 1)) % x.ndim
    shape = [-1 if place == axis else 1 for place in range(x.ndim)]
    return scale.reshape(shape), zero.reshape(shape) if zero.numel() > 1 else zero


def rounded(call: Call, x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """DQ(Q(x)) of a Q with one scale and zero point whose DQ has the same ones: in half the time, with the same values and gradients.

    `call` is the Q's.
    """
    values: Tensor = Rounded.apply(x, scale.reshape(()), zero.reshape(()), *_limits(call, zero))  # type: ignore[no-untyped-call]
    return values


class Rounded(torch.autograd.Function):
    """scale * (saturate(round(x / scale) + zero) - zero), one scale and zero point for all values."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, lowest: int, highest: int) -> Tensor:
        """Values on the grid. Adding the zero point and taking it off again are left out: both are exact."""
        place = int(zero)
        made = (x / scale).round_().clamp_(lowest - place, highest - place).mul_(scale)
        ctx.save_for_backward(x, scale, made)
        ctx.ends = (lowest - place - 0.5) * float(scale), (highest - place + 0.5) * float(scale)
        return made

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        """A value was saturated where it is more than half a step outside."""
        x, scale, made = ctx.saved_tensors
        # torch's own kernel for: the gradient between two ends, 0 elsewhere. Masks of booleans take three times as long.
        passed = torch.ops.aten.hardtanh_backward(gradient, x, *ctx.ends)
        to_scale = to_zero = None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            lost = gradient - passed
            if ctx.needs_input_grad[1]:
                to_scale = (_dot(passed, made - x) + _dot(lost, made)) / scale
            if ctx.needs_input_grad[2]:
                to_zero = -scale * lost.sum()
        return passed, to_scale, to_zero, None, None


def _dot(first: Tensor, second: Tensor) -> Tensor:
    return torch.dot(first.reshape(-1), second.reshape(-1))


class Quantize(torch.autograd.Function):
    """saturate(round(x / scale) + zero), as float32. Broadcasts scale and zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, lowest: int, highest: int) -> Tensor:
        """Integers in the limits."""
        ctx.save_for_backward(x, scale, zero)
        ctx.limits = lowest, highest
        return (x / scale).round_().add_(zero).clamp_(lowest, highest)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        """What reaches a value that was saturated is lost."""
        x, scale, zero = ctx.saved_tensors
        lowest, highest = ctx.limits
        steps = x / scale
        rounded = steps.round().add_(zero)
        inside = (rounded >= lowest) & (rounded <= highest)
        passed = gradient * inside
        to_scale = to_zero = None
        if ctx.needs_input_grad[1]:
            to_scale = -((passed * steps).sum_to_size(scale.shape) / scale)
        if ctx.needs_input_grad[2]:
            to_zero = passed.sum_to_size(zero.shape)
        return (passed / scale if ctx.needs_input_grad[0] else None), to_scale, to_zero, None, None
