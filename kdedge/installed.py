"""Whether an optional package is there, asked before it is needed: a missing one is told before hours are spent, and not after."""

from __future__ import annotations

import importlib.util

from kdedge.errors import MissingExtra


def require(module: str, extra: str, purpose: str) -> None:
    """See that `module` can be found; it is not imported.

    Raises:
        MissingExtra: it is not installed.
    """
    if importlib.util.find_spec(module) is None:
        raise MissingExtra(module, extra, purpose)
