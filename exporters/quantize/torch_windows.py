"""ONNX operators that slide a window over an image, in torch: convolutions, pools, and resizing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kdedge.exporters.quantize.torch_call import Call, Operator

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def convolution(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Conv: groups, dilations, strides, and pads that need not be the same on both sides."""
    window = _Window(call, x, list(weight.shape[2:]))
    x, pads = _padded_before(x, window.pads)
    return _CONVOLUTIONS[window.rank](x, weight, bias, window.strides, pads, window.dilations, call.get("group", 1))


def transposed_convolution(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """ConvTranspose: the whole result is made, grown by `output_padding` at its end, and cut by `pads`."""
    window = _Window(call, x, list(weight.shape[2:]), transposed=True)
    more = call.integers("output_padding") or [0] * window.rank
    whole = _TRANSPOSED[window.rank](x, weight, None, window.strides, 0, 0, call.get("group", 1), window.dilations)
    sizes = [size + extra for size, extra in zip(whole.shape[2:], more, strict=True)]
    pads = _transposed_pads(call, x, sizes, window)
    ends = [extra - cut for extra, cut in zip(more, pads[window.rank :], strict=True)]
    whole = F.pad(whole, _torch_pads([*(-cut for cut in pads[: window.rank]), *ends]))
    return whole if bias is None else whole + bias.reshape(-1, *[1] * window.rank)


def max_pool(call: Call, x: Tensor) -> Tensor:
    """MaxPool without the indices."""
    window = _Window(call, x)
    x = F.pad(x, _torch_pads(window.pads_with_ceiling()), value=-math.inf) if any(window.pads_with_ceiling()) else x
    return _MAX_POOLS[window.rank](x, window.kernel, window.strides, 0, window.dilations)


def average_pool(call: Call, x: Tensor) -> Tensor:
    """AveragePool: padding counts where `count_include_pad` says so; what only `ceil_mode` adds never does."""
    window = _Window(call, x)
    pool = _AVERAGE_POOLS[window.rank]
    pads = window.pads_with_ceiling()
    if not any(pads):
        return pool(x, window.kernel, window.strides)
    counted = torch.ones_like(x[:1, :1])
    if call.get("count_include_pad", 0):
        grown = F.pad(counted, _torch_pads(window.pads), value=1.0)
        counted = F.pad(grown, _torch_pads([whole - own for whole, own in zip(pads, window.pads, strict=True)]))
    else:
        counted = F.pad(counted, _torch_pads(pads))
    return pool(F.pad(x, _torch_pads(pads)), window.kernel, window.strides) / pool(counted, window.kernel, window.strides)


def global_average_pool(call: Call, x: Tensor) -> Tensor:
    """GlobalAveragePool."""
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


def global_max_pool(call: Call, x: Tensor) -> Tensor:
    """GlobalMaxPool."""
    return x.amax(tuple(range(2, x.ndim)), keepdim=True)


# ---- windows ---------------------------------------------------------------------------------------------------------------


class _Window:
    """Kernel, strides, dilations and pads (all begins, then all ends) of a node on an image, with ONNX's defaults."""

    def __init__(self, call: Call, x: Tensor, kernel: list[int] | None = None, transposed: bool = False) -> None:
        self.kernel = kernel or call.integers("kernel_shape") or []
        self.rank = len(self.kernel)
        self.sizes = list(x.shape[2:])
        self.strides = call.integers("strides") or [1] * self.rank
        self.dilations = call.integers("dilations") or [1] * self.rank
        self.ceiling = bool(call.get("ceil_mode", 0))
        self.reach = [(size - 1) * step + 1 for size, step in zip(self.kernel, self.dilations, strict=True)]
        self.pads = call.integers("pads") or [0] * (2 * self.rank)
        automatic = call.get("auto_pad", "NOTSET")
        if automatic == "VALID":
            self.pads = [0] * (2 * self.rank)
        elif automatic != "NOTSET" and not transposed:
            wanted = [math.ceil(size / stride) for size, stride in zip(self.sizes, self.strides, strict=True)]
            needed = [
                max((count - 1) * stride + reach - size, 0)
                for count, stride, reach, size in zip(wanted, self.strides, self.reach, self.sizes, strict=True)
            ]
            self.pads = _spread(needed, at_end=automatic == "SAME_UPPER")

    def pads_with_ceiling(self) -> list[int]:
        """The pads, with what the last windows need where `ceil_mode` keeps those that are cut off. One that begins behind the image is dropped."""
        if not self.ceiling:
            return self.pads
        pads = list(self.pads)
        for axis, (size, stride, reach) in enumerate(zip(self.sizes, self.strides, self.reach, strict=True)):
            whole = size + pads[axis] + pads[self.rank + axis]
            count = math.ceil((whole - reach) / stride) + 1
            if (count - 1) * stride >= size + pads[axis]:
                count -= 1
            pads[self.rank + axis] += max((count - 1) * stride + reach - whole, 0)
        return pads


def _spread(needed: Sequence[int], at_end: bool) -> list[int]:
    """Padding for both sides; an odd one goes to the end, or to the beginning."""
    small, large = [total // 2 for total in needed], [total - total // 2 for total in needed]
    return [*small, *large] if at_end else [*large, *small]


def _torch_pads(pads: Sequence[int]) -> list[int]:
    """ONNX's order (begins, then ends, first axis first) as torch's (begin and end of the last axis first)."""
    rank = len(pads) // 2
    return list(itertools.chain.from_iterable((pads[axis], pads[rank + axis]) for axis in reversed(range(rank))))


def _padded_before(x: Tensor, pads: list[int]) -> tuple[Tensor, list[int]]:
    """torch's convolutions pad both sides alike; anything else is done before."""
    rank = len(pads) // 2
    if pads[:rank] == pads[rank:]:
        return x, pads[:rank]
    return F.pad(x, _torch_pads(pads)), [0] * rank


def _transposed_pads(call: Call, x: Tensor, sizes: list[int], window: _Window) -> list[int]:
    automatic, shape = call.get("auto_pad", "NOTSET"), call.integers("output_shape")
    if shape is None and automatic in ("NOTSET", "VALID"):
        return window.pads
    wanted = shape[-window.rank :] if shape is not None else [size * stride for size, stride in zip(x.shape[2:], window.strides, strict=True)]
    cut = [size - target for size, target in zip(sizes, wanted, strict=True)]
    # Strides that are wider than the kernel leave less than wanted: only a given shape is filled up.
    return _spread(cut if shape is not None else [max(each, 0) for each in cut], at_end=automatic == "SAME_UPPER")


# ---- resizing --------------------------------------------------------------------------------------------------------------


def resize(call: Call, x: Tensor, region: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None) -> Tensor:
    """Resize, nearest or linear: each axis for itself, which is what the linear mode means.

    Sizes and places are computed in float32, as runtimes do: a scale of 0.7 is not quite that, and which neighbour is nearest hangs on it.
    """
    if call.opset < 11:  # Resize-10: (x, scales)
        scales = region
    axes = [axis % x.ndim for axis in call.integers("axes") or range(x.ndim)]
    before = torch.tensor([x.shape[axis] for axis in axes], dtype=torch.float32)
    if sizes is not None and sizes.numel():
        after, factors = sizes, sizes.float() / before
    elif scales is not None and scales.numel():
        after, factors = (scales * before).floor(), scales
    else:
        return x
    for axis, target, factor in zip(axes, after.long().tolist(), factors.tolist(), strict=True):
        if target != x.shape[axis] or factor != 1.0:
            x = _resize_axis(call, x, axis, target, factor)
    return x


def _resize_axis(call: Call, x: Tensor, axis: int, target: int, scale: float) -> Tensor:
    size = x.shape[axis]
    places = _coordinates(call, torch.arange(target, dtype=torch.float32), size, target, scale)
    if call.get("mode", "nearest") == "nearest":
        return x.index_select(axis, _nearest(call, places, scale).clamp(0, size - 1).long().to(x.device))
    places = places.clamp(0, size - 1)
    below = places.floor()
    share = (places - below).to(x).reshape([-1 if place == axis else 1 for place in range(x.ndim)])
    first = below.long().to(x.device)
    return x.index_select(axis, first) * (1 - share) + x.index_select(axis, (first + 1).clamp(max=size - 1)) * share


def _coordinates(call: Call, out: Tensor, size: int, target: int, scale: float) -> Tensor:
    how = "asymmetric" if call.opset < 11 else call.get("coordinate_transformation_mode", "half_pixel")
    if how == "asymmetric":
        return out / scale
    if how == "tf_half_pixel_for_nn":
        return (out + 0.5) / scale
    if how == "align_corners":
        return out * (size - 1) / (target - 1) if target > 1 else out * 0
    if how == "pytorch_half_pixel" and target == 1:
        return out * 0
    if how == "half_pixel_symmetric":
        return size / 2 * (1 - target / (scale * size)) + (out + 0.5) / scale - 0.5
    return (out + 0.5) / scale - 0.5


def _nearest(call: Call, places: Tensor, scale: float) -> Tensor:
    how = call.get("nearest_mode", "round_prefer_floor")
    if call.opset < 11:  # ONNX left it open; this is what ONNX Runtime does
        how = "ceil" if scale < 1.0 else "floor"
    if how == "floor":
        return places.floor()
    if how == "ceil":
        return places.ceil()
    return (places - 0.5).ceil() if how == "round_prefer_floor" else (places + 0.5).floor()


WINDOWS: dict[str, Operator] = {
    "AveragePool": average_pool,
    "Conv": convolution,
    "ConvTranspose": transposed_convolution,
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": global_max_pool,
    "MaxPool": max_pool,
    "Resize": resize,
}
