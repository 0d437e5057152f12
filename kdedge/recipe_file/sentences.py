"""From pydantic's errors to sentences: where, which key, what was found, what is allowed, and what was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from kdedge.recipe import Recipe
from kdedge.recipe_file.yaml_tree import Key, Tree, dotted

# What a value of a field must be, by the type of pydantic's error.
_EXPECTED = {
    "string_type": "text (in quotes, if it looks like a number)",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list, such as [a, b]",
    "list_type": "a list, such as [a, b]",
    "dict_type": "a section of keys",
    "model_type": "a section of keys",
    "model_attributes_type": "a section of keys",
    "path_type": "a path",
}


def sentences(error: ValidationError, tree: Tree) -> list[str]:
    """One line for each key that is wrong, in the order of the recipe's schema."""
    found: dict[Key, list[dict[str, Any]]] = {}
    for entry in error.errors(include_url=False):
        key = _key(entry["loc"], entry["type"], tree.value)
        found.setdefault(key, []).append(dict(entry))
    lines = []
    for key, entries in found.items():
        # A list that has a wrong item is reported as too short as well.
        deeper = any(other[: len(key)] == key and len(other) > len(key) for other in found)
        kept = [entry for entry in entries if not (deeper and entry["type"] == "too_short")]
        # A list of fixed length is reported for each value that it lacks; the last one says how many there must be.
        if kept and not (kept[0]["type"] == "missing" and isinstance(key[-1], int) and (*key[:-1], key[-1] + 1) in found):
            place, what = _sentence(key, kept, tree)
            lines.append(f"{tree.place(place)}: {dotted(place) + ': ' if place else ''}{what}")
    return lines


def nearest(name: str, allowed: Iterable[str]) -> str:
    """`; did you mean ...?` if an allowed name is near, else nothing."""
    close = difflib.get_close_matches(name, list(allowed), n=1)
    return f"; did you mean `{close[0]}`?" if close else ""


def shown(value: Any) -> str:
    """A value as the recipe's author knows it."""
    if value is None:
        return "nothing (an empty value)"
    if isinstance(value, dict):
        return "a section of keys"
    if isinstance(value, list | tuple):
        return "a list"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _key(location: tuple[str | int, ...], kind: str, value: Any) -> Key:
    """pydantic's location without the names of union branches: those are neither keys nor indices of what was written."""
    key: list[str | int] = []
    for index, part in enumerate(location):
        written = part in value if isinstance(value, dict) else isinstance(value, list) and isinstance(part, int) and part < len(value)
        if written:
            value = value[part]
        if written or (kind == "missing" and index == len(location) - 1):
            key.append(part)
    return tuple(key)


def _sentence(key: Key, entries: list[dict[str, Any]], tree: Tree) -> tuple[Key, str]:
    first = entries[0]
    kind, context = first["type"], first.get("ctx", {})
    if kind == "value_error":
        text = str(context["error"])
        # An error of the whole recipe begins with the key that it is about.
        return (key, text) if key else ((text.partition(":")[0],), text.partition(":")[2].strip())
    if kind == "extra_forbidden":
        allowed = sorted(_section_of(key[:-1]).model_fields)
        return key, f"unknown key{nearest(str(key[-1]), allowed)} (allowed: {', '.join(allowed)})"
    if kind == "missing":
        if isinstance(key[-1], int):
            return key[:-1], f"must be a list of {key[-1] + 1} values, not of {len(_value(tree.value, key[:-1]))}"
        return key, "is missing and has no default"
    value = _value(tree.value, key)
    expected = [_expected(entry) for entry in entries]
    if all(expected):
        choices = [choice for entry in entries if entry["type"] == "literal_error" for choice in _choices(entry)]
        meant = nearest(value, choices) if isinstance(value, str) else ""
        return key, f"must be {' or '.join(str(text) for text in expected)}, not {shown(value)}{meant}"
    return key, _bound(kind, context, value) or f"{first['msg'][:1].lower()}{first['msg'][1:]}, not {shown(value)}"


def _expected(entry: dict[str, Any]) -> str | None:
    if entry["type"] == "literal_error":
        choices = _choices(entry)
        return f"`{choices[0]}`" if len(choices) == 1 else f"one of {', '.join(choices)}"
    return _EXPECTED.get(entry["type"])


def _choices(entry: dict[str, Any]) -> list[str]:
    return re.findall(r"'([^']*)'", entry["ctx"]["expected"])


def _bound(kind: str, context: dict[str, Any], value: Any) -> str | None:
    match kind:
        case "greater_than":
            return f"must be greater than {context['gt']:g}, not {shown(value)}"
        case "greater_than_equal":
            return f"must be at least {context['ge']:g}, not {shown(value)}"
        case "less_than":
            return f"must be less than {context['lt']:g}, not {shown(value)}"
        case "less_than_equal":
            return f"must be at most {context['le']:g}, not {shown(value)}"
        case "too_short":
            return "is empty: it needs at least one value"
        case "too_long":
            return f"has {context['actual_length']} values, at most {context['max_length']} are allowed"
        case "string_too_long":
            return f"has {len(value)} characters, at most {context['max_length']} are allowed"
        case "string_pattern_mismatch":
            return f"must begin with a letter or digit and hold only letters, digits, `.`, `_` and `-`, not {shown(value)}"
    return None


def _value(value: Any, key: Key) -> Any:
    for part in key:
        value = value[part]
    return value


def _section_of(key: Key) -> type[BaseModel]:
    """The section that a path leads to."""
    section: type[BaseModel] = Recipe
    for part in key:
        if isinstance(part, str):
            sections = list(_sections(section.model_fields[part].annotation))
            section = sections[0] if sections else section
    return section


def _sections(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections(argument)
