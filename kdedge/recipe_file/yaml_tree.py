"""YAML as a recipe uses it: plain values, and where each of them stands in the file.

The safe loader's parser makes the nodes; they are turned into values here, because a plain load forgets the lines, keeps the last of two
equal keys in silence, and follows YAML 1.1, where `1e-3` is a text and `no` is false. Scalars are read as YAML 1.2 reads them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import yaml

from kdedge.errors import DataError, ModelError, RecipeError

Key = tuple[str | int, ...]

# Aliases can name a section twice; a few lines of them can also grow to more values than memory holds.
MOST_VALUES = 20_000
# The deepest place of a recipe is about six keys away from its top.
DEEPEST = 50
# Python itself refuses to read, and to write as JSON, whole numbers of thousands of digits.
MOST_DIGITS = 100


@dataclass
class Tree:
    """Plain values (dicts, lists, scalars), and by the path of each the place where it was written: `FILE:LINE`, or the `--set` that made it."""

    value: Any
    source: str
    places: dict[Key, str] = field(default_factory=dict)

    def place(self, key: Key) -> str:
        """Where a value stands; where it does not exist, the nearest section around it."""
        while key and key not in self.places:
            key = key[:-1]
        return self.places.get(key, self.source)

    @contextmanager
    def placing(self) -> Iterator[None]:
        """What is found wrong only after the recipe was read (a loss, a figure of the gate) names its key first; say where that stands.

        Raises:
            RecipeError, ModelError, DataError: the one that was raised inside the block, with the place before it where it begins with a key of
                this tree.
        """
        try:
            yield
        except (RecipeError, ModelError, DataError) as error:
            key = _key_before(str(error))
            if not (key and isinstance(self.value, dict) and key[0] in self.value):
                raise
            raise type(error)(f"{self.place(key)}: {error}") from error


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own name and type; replaced to leave YAML 1.1's behind


_FORMS: dict[str, re.Pattern[str]] = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _FORMS[f"tag:yaml.org,2002:{_tag}"] = re.compile(rf"(?:{_pattern})\Z")
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _FORMS[f"tag:yaml.org,2002:{_tag}"], list(_first))


def parse(text: str, source: str, lines: bool = True) -> Tree:
    """Read one YAML document; `source` is what the places call it, with the line behind it unless the text is no file (`lines`).

    Raises:
        RecipeError: it is not YAML (names line and column), holds a key twice, or a value that has no place in a recipe.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark and lines else source
        # PyYAML's second half may need its first: "expected a single document in the stream" "but found another document".
        problem = f"{error.context}, {error.problem}" if str(error.problem).startswith("but ") else error.problem or error.context
        raise RecipeError(f"{where}: not valid YAML: {problem}{_hint(text, mark)}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{source}: not valid YAML: {str(error).partition(chr(10))[0]}") from error
    except RecursionError as error:
        raise RecipeError(f"{source}: its lists and sections stand inside one another too deeply for a recipe") from error
    reader = _Reader(source, lines)
    tree = Tree(reader.value(node, ()) if node is not None else None, source, reader.places)
    if reader.problems:
        raise RecipeError("\n".join(reader.problems))
    return tree


def _hint(text: str, mark: yaml.Mark | None) -> str:
    lines = text.splitlines()
    line = lines[mark.line] if mark is not None and mark.line < len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())] or (mark is not None and line[mark.column : mark.column + 1] == "\t"):
        return "; indent with spaces, not with tabs"
    if re.search(r":\s*>=?", line):
        return '; a value that begins with > must stand in quotes, such as ">= 0.98"'
    return ""


class _Reader:
    """Turns nodes into values; collects the places, and what is wrong."""

    def __init__(self, source: str, lines: bool) -> None:
        self.source = source
        self.lines = lines
        self.places: dict[Key, str] = {}
        self.problems: list[str] = []
        self.open: list[int] = []
        self.count = 0

    def value(self, node: yaml.Node, key: Key) -> Any:
        self.count += 1
        if self.count > MOST_VALUES:
            raise RecipeError(f"{self.line(node)}: the recipe grows to more than {MOST_VALUES} values; its aliases (*name) repeat too much")
        if id(node) in self.open:
            raise RecipeError(f"{self.line(node)}: an alias (*name) stands inside what it names")
        if len(key) > DEEPEST:
            raise RecipeError(f"{self.line(node)}: lists and sections stand more than {DEEPEST} deep inside one another")
        self.places.setdefault(key, self.line(node))
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node)
        self.open.append(id(node))
        try:
            if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
                return [self.value(item, (*key, index)) for index, item in enumerate(node.value)]
            if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
                return self.mapping(node, key)
        finally:
            self.open.pop()
        return self.wrong(node, f"the tag {node.tag} has no place in a recipe")

    def mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, Any]:
        found: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for name_node, value_node in node.value:
            if name_node.tag == "tag:yaml.org,2002:merge":
                continue
            if not isinstance(name_node, yaml.ScalarNode) or name_node.tag != "tag:yaml.org,2002:str":
                self.wrong(name_node, "a key must be a text: put it in quotes")
                continue
            name = self.scalar(name_node)
            if name is None:
                continue  # no text that a file could hold; that was told
            if name in lines:
                self.wrong(name_node, f"{dotted((*key, name))}: the key is there already, in line {lines[name]}")
                continue
            lines[name] = name_node.start_mark.line + 1
            self.places[(*key, name)] = self.line(name_node)
            found[name] = self.value(value_node, (*key, name))
        for merged in self.merged(node):
            for name, value in self.value_of_merged(merged, key).items():
                found.setdefault(name, value)
        return found

    def merged(self, node: yaml.MappingNode) -> Iterator[yaml.Node]:
        for name_node, value_node in node.value:
            if name_node.tag == "tag:yaml.org,2002:merge":
                yield from value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]

    def value_of_merged(self, node: yaml.Node, key: Key) -> dict[str, Any]:
        before = dict(self.places)
        value = self.value(node, key)
        self.places.update(before)  # what the section says itself wins, and so does the line where it says it
        if isinstance(value, dict):
            return value
        self.wrong(node, f"{dotted(key) or 'the recipe'}: << takes a section or a list of sections")
        return {}

    def scalar(self, node: yaml.ScalarNode) -> Any:
        text = str(node.value)
        if node.tag in _FORMS and not _FORMS[node.tag].match(text):  # the tag was written, such as `!!int many`
            return self.wrong(node, f"`{text}` is not what its tag !!{node.tag.rpartition(':')[2]} says")
        match node.tag.rpartition(":")[2]:
            case "str":
                # YAML's \u can write one half of a surrogate pair, which no file and no JSON can hold.
                return text if _is_unicode(text) else self.wrong(node, "the text holds half a character (\\ud800-\\udfff)")
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                if len(text) > MOST_DIGITS:
                    return self.wrong(node, f"`{text[:20]}...` is a number of {len(text)} digits, at most {MOST_DIGITS} are allowed")
                return int(text, 0 if text[:2] in ("0x", "0o") else 10)
            case "float":
                number = math.nan if text.lower().endswith((".inf", ".nan")) else float(text)
                return number if math.isfinite(number) else self.wrong(node, f"`{text}` is not a finite number")
        return self.wrong(node, f"the tag {node.tag} has no place in a recipe")

    def wrong(self, node: yaml.Node, what: str) -> None:
        self.problems.append(f"{self.line(node)}: {what}")

    def line(self, node: yaml.Node) -> str:
        return f"{self.source}:{node.start_mark.line + 1}" if self.lines else self.source


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _key_before(sentence: str) -> Key:
    """The key that a sentence begins with, such as `distill.losses[1].kd: ...`; () where it begins with none."""
    written = re.match(r"\w+(?:(?:\.\w+|\[\d+\])+(?=[: ])|(?=: ))", sentence)
    parts = re.findall(r"\w+|\[\d+\]", written.group()) if written else []
    return tuple(int(part[1:-1]) if part.startswith("[") else part for part in parts)


def dotted(key: Key) -> str:
    """A path as people write it: `distill.losses[1].temperature`."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
