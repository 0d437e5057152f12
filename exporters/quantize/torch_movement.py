"""ONNX operators that move, pick, cut and describe values, in torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kdedge.exporters.quantize.torch_call import Call, Operator, torch_type


def reshape(call: Call, x: Tensor, shape: Tensor | None = None) -> Tensor:
    """Reshape: 0 keeps a size (unless `allowzero`), -1 is what is left."""
    sizes = call.integers("shape", shape) or []
    if not call.get("allowzero", 0):
        sizes = [x.shape[place] if size == 0 else size for place, size in enumerate(sizes)]
    return x.reshape(sizes)


def flatten(call: Call, x: Tensor) -> Tensor:
    """Flatten to two dimensions."""
    axis = int(call.get("axis", 1))
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def transpose(call: Call, x: Tensor) -> Tensor:
    """Transpose; without `perm` all axes are reversed."""
    return x.permute(call.integers("perm") or list(reversed(range(x.ndim))))


def squeeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Squeeze: these axes, or all of size 1."""
    chosen = call.integers("axes", axes)
    return x.squeeze() if chosen is None else x.squeeze(tuple(chosen))


def unsqueeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Unsqueeze: the axes count in the result."""
    chosen = call.integers("axes", axes) or []
    rank = x.ndim + len(chosen)
    for axis in sorted(axis % rank for axis in chosen):
        x = x.unsqueeze(axis)
    return x


def cut(
    call: Call, x: Tensor, starts: Tensor | None = None, ends: Tensor | None = None, axes: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:
    """Slice, with steps in both directions."""
    begins, stops = call.integers("starts", starts) or [], call.integers("ends", ends) or []
    chosen = call.integers("axes", axes) or list(range(len(begins)))
    strides = call.integers("steps", steps) or [1] * len(begins)
    for begin, stop, axis, stride in zip(begins, stops, chosen, strides, strict=True):
        # Python counts from the end and clamps exactly as ONNX does.
        first, last, step = slice(begin, stop, stride).indices(x.shape[axis])
        if step > 0:
            x = x[(slice(None),) * (axis % x.ndim) + (slice(first, max(first, last), step),)]
        else:
            x = x.index_select(axis, torch.arange(first, last, step, device=x.device))
    return x


def pad(call: Call, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
    """Pad with a constant, by reflection, by repetition of the edge, or by going round."""
    given = call.integers("pads", pads) or []
    chosen = [axis % x.ndim for axis in (call.integers("axes", axes) or range(x.ndim))]
    filling = float(call.get("value", 0.0)) if value is None or value.numel() == 0 else float(value)
    count = len(chosen)
    how = call.get("mode", "constant")
    if how == "constant":
        both = dict.fromkeys(range(x.ndim), (0, 0)) | {axis: (given[place], given[count + place]) for place, axis in enumerate(chosen)}
        return F.pad(x, list(itertools.chain.from_iterable(both[axis] for axis in reversed(range(x.ndim)))), value=filling)
    for place, axis in enumerate(chosen):
        before, after = given[place], given[count + place]
        if before or after:
            x = x.index_select(axis, _outside(how, torch.arange(-before, x.shape[axis] + after), x.shape[axis]).to(x.device))
    return x


def _outside(how: str, places: Tensor, size: int) -> Tensor:
    if how == "edge":
        return places.clamp(0, size - 1)
    if how == "wrap":
        return places % size
    period = max(2 * (size - 1), 1)
    places = places.abs() % period
    return torch.where(places < size, places, period - places)


def concat(call: Call, *parts: Tensor) -> Tensor:
    """Concat."""
    return torch.cat(parts, int(call.get("axis", 0)))


def split(call: Call, x: Tensor, sizes: Tensor | None = None) -> Sequence[Tensor]:
    """Split: by sizes, or in equal parts (the last may be smaller)."""
    axis, given = int(call.get("axis", 0)), call.integers("split", sizes)
    if given is not None:
        return torch.split(x, given, axis)
    return torch.split(x, -(-x.shape[axis] // len(call.outputs)), axis)


def gather(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    """Gather: whole slices of one axis; negative indices count from its end."""
    axis = int(call.get("axis", 0)) % x.ndim
    places = torch.where(indices < 0, indices + x.shape[axis], indices).long()
    found = x.index_select(axis, places.reshape(-1))
    return found.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


def gather_elements(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    """GatherElements."""
    axis = int(call.get("axis", 0)) % x.ndim
    return x.gather(axis, torch.where(indices < 0, indices + x.shape[axis], indices).long())


def expand(call: Call, x: Tensor, shape: Tensor) -> Tensor:
    """Expand: broadcast both ways."""
    sizes: list[int] = list(torch.broadcast_shapes(x.shape, [int(size) for size in shape.tolist()]))  # type: ignore[no-untyped-call]
    return x.expand(sizes)


def tile(call: Call, x: Tensor, repeats: Tensor) -> Tensor:
    """Tile."""
    return x.tile([int(count) for count in repeats.tolist()])


def depth_to_space(call: Call, x: Tensor) -> Tensor:
    """DepthToSpace, in both orders of channels."""
    batch, channels, height, width = x.shape
    size = int(call.get("blocksize", 1))
    left = channels // size**2
    if call.get("mode", "DCR") == "DCR":
        x = x.reshape(batch, size, size, left, height, width).permute(0, 3, 4, 1, 5, 2)
    else:
        x = x.reshape(batch, left, size, size, height, width).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(batch, left, height * size, width * size)


def space_to_depth(call: Call, x: Tensor) -> Tensor:
    """SpaceToDepth."""
    batch, channels, height, width = x.shape
    size = int(call.get("blocksize", 1))
    x = x.reshape(batch, channels, height // size, size, width // size, size).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(batch, channels * size**2, height // size, width // size)


def cast(call: Call, x: Tensor) -> Tensor:
    """Cast."""
    return x.to(torch_type(call.get("to", 1)))


def shape(call: Call, x: Tensor) -> Tensor:
    """Shape, or a part of it."""
    return torch.tensor(list(x.shape)[slice(call.get("start", 0), call.get("end", None))], dtype=torch.int64)


def constant_of_shape(call: Call, sizes: Tensor) -> Tensor:
    """ConstantOfShape: zeros of float32 unless a value says otherwise."""
    held = call.get("value", None)
    filling = torch.zeros(1) if held is None else torch.from_numpy(held.numpy().copy())
    return filling.reshape(()).expand([int(size) for size in sizes.tolist()]).clone()


def numbers(call: Call, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """Range."""
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype, device=start.device)


def identity(call: Call, x: Tensor, *ignored: Tensor | None) -> Tensor:
    """Identity, and Dropout as it is at inference."""
    return x


def where(call: Call, condition: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Where."""
    return torch.where(condition, first, second)


def triangle(call: Call, x: Tensor, diagonal: Tensor | None = None) -> Tensor:
    """Trilu."""
    place = 0 if diagonal is None else int(diagonal)
    return x.triu(place) if call.get("upper", 1) else x.tril(place)


MOVEMENT: dict[str, Operator] = {
    "Cast": cast,
    "Concat": concat,
    "ConstantOfShape": constant_of_shape,
    "DepthToSpace": depth_to_space,
    "Dropout": identity,
    "Expand": expand,
    "Flatten": flatten,
    "Gather": gather,
    "GatherElements": gather_elements,
    "Identity": identity,
    "Pad": pad,
    "Range": numbers,
    "Reshape": reshape,
    "Shape": shape,
    "Slice": cut,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Trilu": triangle,
    "Unsqueeze": unsqueeze,
    "Where": where,
}
