"""The sentence for a name that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown(where: str, what: str, name: str, allowed: Iterable[str]) -> str:
    """Says where an unknown name stands, the nearest known one if any is near, and all that are allowed."""
    names = list(allowed)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean `{near[0]}`?" if near else ""
    return f"{where}: unknown {what} `{name}`{hint} (allowed: {', '.join(names)})"
