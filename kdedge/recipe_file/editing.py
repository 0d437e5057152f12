"""A recipe with other losses, in its author's own words: everything else, comments too, stays as it was written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from kdedge.errors import RecipeError
from kdedge.recipe import Recipe
from kdedge.recipe_file.reading import read_recipe
from kdedge.recipe_file.yaml_tree import parse

_Edit = tuple[int, int, str]  # from, to, and what stands there afterwards


def with_losses(recipe: Recipe, source: Path | None, entries: Sequence[str], comment: Sequence[str], target: Path) -> str:
    """The text of a recipe whose `distill.losses` are `entries` (each as a recipe writes it), to stand in the file `target`.

    `source` is the recipe's file; its text is kept but for the losses and for relative paths, which would lead elsewhere from `target`. Without
    a file, or where the text cannot be edited safely (losses that share an anchor with another section), all keys are written anew.
    `comment`: lines that say where the losses come from; they come first.

    Raises:
        RecipeError: the file is no recipe any more.
    """
    head = "".join(f"# {line}\n" for line in comment)
    if source is None:
        return head + _anew(recipe.model_dump(mode="json", exclude_defaults=True), entries)
    before = read_recipe(source)[0].model_dump(mode="json")
    text = source.read_text(encoding="utf-8")
    edited = _edited(text, before, entries)
    losses = parse("[" + ", ".join(entries) + "]", "losses").value
    if edited is not None and _says(head + edited, {**before, "distill": {**before["distill"], "losses": losses}}, target):
        return head + edited
    return head + _anew(read_recipe(source)[0].model_dump(mode="json", exclude_defaults=True), entries)


def _anew(content: dict[str, Any], entries: Sequence[str]) -> str:
    content = {**content, "distill": {**content.get("distill", {}), "losses": parse("[" + ", ".join(entries) + "]", "losses").value}}
    # JSON is YAML; a key a line keeps it readable.
    return "".join(f"{name}: {json.dumps(value, ensure_ascii=False)}\n" for name, value in content.items())


def _says(text: str, expected: dict[str, Any], target: Path) -> bool:
    """Whether the edited text, read from where it will stand, is the recipe that was meant."""
    try:
        tree = parse(text, str(target)).value
        for name in ("student", "teacher"):
            if isinstance(tree.get(name), str):
                tree[name] = {"model": tree[name]}
        if isinstance(tree.get("teacher"), list):
            tree["teacher"] = [{"model": member} if isinstance(member, str) else member for member in tree["teacher"]]
        found = Recipe.model_validate_json(json.dumps(tree), strict=True, context={"base": target.parent.resolve()})
    except (RecipeError, ValueError, AttributeError):
        return False
    # As JSON, where a tuple is a list, and 4 is 4.0.
    return bool(json.loads(found.model_dump_json()) == json.loads(json.dumps(expected)))


def _edited(text: str, dump: dict[str, Any], entries: Sequence[str]) -> str | None:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        return None
    edits = [*_paths(root, dump), *_losses(root, text, entries)]
    if len({start for start, _, _ in edits}) < len(edits):
        return None
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _losses(root: yaml.MappingNode, text: str, entries: Sequence[str]) -> Iterator[_Edit]:
    section = next((value for key, value in root.value if key.value == "distill"), None)
    if not isinstance(section, yaml.MappingNode):
        return
    flow = "[" + ", ".join(entries) + "]"
    for key, value in section.value:
        if key.value != "losses":
            continue
        if value.start_mark.index < key.end_mark.index:  # an alias: the node stands where its anchor does
            alias = re.compile(r"\s*:\s*\*[^\s,\]}]+").match(text, key.end_mark.index)
            if alias:
                yield key.end_mark.index, alias.end(), f": {flow}"
        elif isinstance(value, yaml.SequenceNode) and not value.flow_style and value.value:
            indent = "\n" + " " * value.start_mark.column
            yield value.start_mark.index, _end(value), indent.join(f"- {entry}" for entry in entries)
        else:
            yield value.start_mark.index, _end(value), flow
        return
    if section.flow_style:
        after = section.start_mark.index + text[section.start_mark.index :].index("{") + 1
        yield after, after, f"losses: {flow}" + (", " if section.value else "")
    elif section.value:
        first = section.value[0][0].start_mark
        yield first.index, first.index, f"losses: {flow}\n{' ' * first.column}"


def _end(node: yaml.Node) -> int:
    """Where a node's own text ends: a block's mark stands behind the comments that follow it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _paths(node: yaml.Node, dump: Any) -> Iterator[_Edit]:
    """Every text that reading turned into another: paths, which it made absolute."""
    if isinstance(node, yaml.MappingNode) and isinstance(dump, dict):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and value.start_mark.index > key.start_mark.index:
                yield from _paths(value, dump.get(key.value))
    elif isinstance(node, yaml.SequenceNode) and isinstance(dump, list):
        for value, part in zip(node.value, dump, strict=False):
            yield from _paths(value, part)
    elif isinstance(node, yaml.ScalarNode):
        # The short form of a model: its name alone.
        became = dump.get("model") if isinstance(dump, dict) else dump
        if isinstance(became, str) and became != node.value and "/" in became:
            yield node.start_mark.index, node.end_mark.index, json.dumps(became, ensure_ascii=False)
