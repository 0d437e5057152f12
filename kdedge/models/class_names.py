"""Class lists that differ: where a model's own classes hold the data's."""

from __future__ import annotations

from collections.abc import Sequence

from kdedge.errors import ModelError
from kdedge.models.signature import nearest

# Names that a sentence lists; ImageNet has a thousand.
_SHOWN = 20


def class_map(own: Sequence[str], wanted: Sequence[str], label: str) -> tuple[int, ...]:
    """For each class of the data (`wanted`) its place among a model's `own`; empty where both are the same in the same order.

    Raises:
        ModelError: a class of the data is not among the model's; names it, the nearest one, and both lists.
    """
    if tuple(own) == tuple(wanted):
        return ()
    places = {name: place for place, name in enumerate(own)}
    missing = [name for name in wanted if name not in places]
    if missing:
        raise ModelError(
            f"{label}: its classes lack `{missing[0]}`{nearest(missing[0], own)}{f' and {len(missing) - 1} more' if missing[1:] else ''}; "
            f"its own are {named(own)}, the data's are {named(wanted)}: all classes of the data must be among them, by the same names"
        )
    return tuple(places[name] for name in wanted)


def named(classes: Sequence[str]) -> str:
    """A list of classes for a sentence: how many, and the first of them."""
    rest = f", and {len(classes) - _SHOWN} more" if len(classes) > _SHOWN else ""
    return f"{len(classes)} ({', '.join(classes[:_SHOWN])}{rest})"
