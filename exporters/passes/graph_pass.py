"""What a graph pass is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True)
class GraphPass:
    """A named rewrite. `function` changes the model in place and returns how many places it changed; it may count on every node, value and
    initializer having a name, on constants being initializers, and on shapes and dtypes being inferred. `opsets`: smallest and largest opset
    of the default domain that it was written for."""

    name: str
    opsets: tuple[int, int]
    function: Callable[[ir.Model], int]
