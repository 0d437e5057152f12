"""Which nodes stay float because the recipe says so."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

from kdedge.errors import ExportError


def kept_float(model: Any, patterns: Iterable[str]) -> tuple[str, ...]:
    """The names of the nodes of an `onnx_ir.Model` that `quantize.keep_float` means: names, or patterns with `*`.

    Raises:
        ExportError: a pattern fits no node; the message has the nearest names.
    """
    names = [str(node.name) for node in model.graph]
    kept: list[str] = []
    for pattern in patterns:
        meant = re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)
        found = [name for name in names if meant.fullmatch(name)]
        if not found:
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3)
            hint = f"; did you mean {' or '.join(f'`{name}`' for name in near)}?" if near else ""
            raise ExportError(f"quantize.keep_float: no node is called `{pattern}`{hint}")
        kept += found
    return tuple(dict.fromkeys(kept))
