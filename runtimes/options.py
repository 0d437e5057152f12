"""Session options of an adapter as a table: what is allowed, checked in one place, so that a misspelt option is an error and never ignored."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, Dict, Mapping, Optional, Tuple

from .errors import RuntimeFailure


@dataclass(frozen=True)
class Option:
    """One session option: the type of its value, what it is when absent, the values allowed (empty: any), and the smallest number."""

    kind: Any
    meaning: str
    default: Any = None
    allowed: Tuple[Any, ...] = ()
    minimum: Optional[int] = None


def read_options(runtime: str, options: Mapping[str, Any], table: Mapping[str, Option]) -> Dict[str, Any]:
    """Every option of the table with its effective value; None means that the runtime decides.

    Raises:
        RuntimeFailure: an unknown option, a value of another type, or one that is not allowed.
    """
    for name in options:
        if name not in table:
            near = difflib.get_close_matches(str(name), list(table), n=1)
            hint = "; did you mean `%s`?" % near[0] if near else ""
            raise RuntimeFailure("%s: unknown session option `%s`%s (allowed: %s)" % (runtime, name, hint, ", ".join(sorted(table))))
    return {name: _checked(runtime, name, options.get(name), option) for name, option in table.items()}


def _checked(runtime: str, name: str, value: Any, option: Option) -> Any:
    if value is None:
        return option.default
    # A bool is an int for Python, but `threads: true` is a mistake.
    if not isinstance(value, option.kind) or (isinstance(value, bool) and option.kind is not bool):
        raise RuntimeFailure("%s: session option `%s` must be %s, not %r (%s)" % (runtime, name, option.kind.__name__, value, option.meaning))
    if option.allowed and value not in option.allowed:
        raise RuntimeFailure("%s: session option `%s` is %r; allowed: %s" % (runtime, name, value, ", ".join(map(str, option.allowed))))
    if option.minimum is not None and value < option.minimum:
        raise RuntimeFailure("%s: session option `%s` is %r; it must be at least %d" % (runtime, name, value, option.minimum))
    return value
