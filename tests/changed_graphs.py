"""Changes of a written graph, one place each: what a test breaks, or writes as another tool would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

Change = Callable[[onnx.ModelProto], None]


def set_constant(name: str, change: Callable[[Any], Any]) -> Change:
    """An initializer replaced by what `change` makes of a copy of it."""

    def apply(model: onnx.ModelProto) -> None:
        held = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        held.CopyFrom(numpy_helper.from_array(np.asarray(change(numpy_helper.to_array(held).copy())), name))

    return apply


def several(*changes: Change) -> Change:
    """One change after the other."""

    def apply(model: onnx.ModelProto) -> None:
        for change in changes:
            change(model)

    return apply


def rewire(node: str, place: int, source: str) -> Change:
    """An input of a node read from another tensor."""

    def apply(model: onnx.ModelProto) -> None:
        next(one for one in model.graph.node if one.name == node).input[place] = source

    return apply


def move_axis(node: str, axis: int) -> Change:
    """The axis of a Q or DQ node along which its scales lie."""

    def apply(model: onnx.ModelProto) -> None:
        next(one for one in model.graph.node if one.name == node).attribute[0].i = axis

    return apply
