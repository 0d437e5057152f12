"""Reading a recipe: YAML and `--set` in, a validated `Recipe` out, or every error at once with its file, line and key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kdedge.errors import RecipeError
from kdedge.recipe import Recipe
from kdedge.recipe_file.sentences import nearest, sentences, shown
from kdedge.recipe_file.yaml_tree import DEEPEST, Key, Tree, dotted, parse
from kdedge.targets import TARGETS

LARGEST = 1 << 20
_EXAMPLE = "--set distill.epochs=2 or --set export.0.batch=4"
_PLACE = re.compile(r"\[(\d+)\]")  # as `dotted` writes a place in a list, so that a key can be taken out of an error


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file; `overrides` are `key=value` as for `--set`: dots between keys, numbers for places in a list, the value as YAML.

    `losses.1` and `losses[1]`, as errors write it, are the same place.
    Paths in the recipe are made absolute against its folder, also those given by `--set`.

    Raises:
        RecipeError: the file cannot be read, is not YAML, or is no recipe: one line for each key that is wrong.
    """
    return read_recipe(path, overrides)[0]


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> tuple[Recipe, Tree]:
    """The same, with the tree that knows where each key was written, for what is found wrong later (`Tree.placing`)."""
    tree = parse(text_of(path, "; `kdedge init NAME` writes a recipe to start from"), str(path))
    if tree.value is None:
        raise RecipeError(f"{path}: is empty; `kdedge init NAME` writes a recipe to start from")
    if not isinstance(tree.value, dict):
        raise RecipeError(f"{path}: a recipe is a section of keys (name, task, data, student, ...), not {shown(tree.value)}")
    _expand_short_forms(tree.value)
    for override in overrides:
        _override(tree, override)
        _expand_short_forms(tree.value)
    try:
        # JSON, because strict validation takes lists for tuples and texts for paths from JSON alone; strict, so that true is no 1.
        recipe = Recipe.model_validate_json(json.dumps(tree.value), strict=True, context={"base": path.parent.resolve()})
    except ValidationError as error:
        raise RecipeError("\n".join(sentences(error, tree))) from error
    problems = [f"{tree.place(key)}: {dotted(key)}: {what}" for key, what in _misfits(recipe)]
    if problems:
        raise RecipeError("\n".join(problems))
    return recipe, tree


def recipe_schema(tasks: Sequence[str] = ()) -> dict[str, Any]:
    """The JSON schema of a recipe, for editors: with the names of targets (and of `tasks`), and the short forms of teacher and student."""
    schema = Recipe.model_json_schema()
    short = {"type": "string", "description": "The model alone, such as kdedge:cnn or onnx:teacher.onnx"}
    properties = schema["properties"]
    properties["student"] = {"anyOf": [short, properties["student"]]}
    # {one, many} | null: the discriminated pair stands in the first branch.
    properties["teacher"] = {**properties["teacher"], "anyOf": [short, *properties["teacher"]["anyOf"]]}
    for branch in _branches(properties["teacher"]):
        if branch.get("type") == "array":
            branch["items"] = {"anyOf": [short, branch["items"]]}
    schema["$defs"]["ExportSection"]["properties"]["target"]["enum"] = sorted(TARGETS)
    if tasks:
        properties["task"]["enum"] = sorted(tasks)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _branches(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for branch in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield branch
        yield from _branches(branch)


def text_of(path: Path, instead: str = "") -> str:
    """The text of a small file that a person wrote; `instead` is what to do where there is none.

    Raises:
        RecipeError: it is not there, cannot be read, is too large, or is no text.
    """
    try:
        with path.open("rb") as handle:
            content = handle.read(LARGEST + 1)  # not all of it: a device such as /dev/zero has no end
        if len(content) > LARGEST:
            raise RecipeError(f"{path}: is larger than {LARGEST >> 20} MB: is it the right file?")
        return content.decode("utf-8")
    except FileNotFoundError as error:
        raise RecipeError(f"{path}: there is no such file{instead}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: is not a text file in UTF-8 (byte {error.start})") from error
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error


def _expand_short_forms(recipe: dict[str, Any]) -> None:
    """`student: kdedge:cnn` means `student: {model: kdedge:cnn}`; the same for the teacher, and for each of several."""
    for name in ("student", "teacher"):
        if isinstance(recipe.get(name), str):
            recipe[name] = {"model": recipe[name]}
    if isinstance(recipe.get("teacher"), list):
        recipe["teacher"] = [{"model": member} if isinstance(member, str) else member for member in recipe["teacher"]]


def _override(tree: Tree, override: str) -> None:
    """Set one value in the tree, making the sections on the way that are not there yet (their names are checked with the rest)."""
    name, equals, text = override.partition("=")
    label = f"--set {override}"
    parts = [part.strip() for part in _PLACE.sub(r".\1", name).split(".")]
    if not equals or not all(parts):
        raise RecipeError(f"{label}: is not key=value; write it like {_EXAMPLE}")
    if len(parts) > DEEPEST:
        raise RecipeError(f"{label[:60]}...: is more than {DEEPEST} sections deep")
    key: Key = ()
    inside = tree.value
    for part in parts[:-1]:
        step = _step(inside, key, part, label)
        key = (*key, step)
        if isinstance(inside, dict) and inside.get(str(step)) is None:
            inside[str(step)] = {}
            tree.places[key] = label
        inside = inside[step]
    step = _step(inside, key, parts[-1], label)
    key = (*key, step)
    # A gate's rule, such as `>= 0.98`, begins with what YAML takes for a block of text; no such block fits in one argument.
    inside[step] = text.strip() if text.lstrip().startswith(">") else parse(text, label, lines=False).value
    for old in [place for place in tree.places if place[: len(key)] == key]:
        del tree.places[old]
    tree.places[key] = label


def _step(inside: Any, key: Key, part: str, label: str) -> str | int:
    if isinstance(inside, dict):
        return part
    where = dotted(key)
    if not isinstance(inside, list):
        raise RecipeError(f"{label}: `{where}` is {shown(inside)}, which has no `{part}` in it")
    if part.isdecimal() and int(part) < len(inside):
        return int(part)
    allowed = f"a place from 0 to {len(inside) - 1}" if inside else "nothing, for it is empty"
    raise RecipeError(f"{label}: `{where}` is a list: `{part}` is no place in it (allowed: {allowed})")


def _misfits(recipe: Recipe) -> Iterator[tuple[Key, str]]:
    """What needs the table of targets to be checked."""
    made: dict[tuple[str, str], int] = {}
    for index, export in enumerate(recipe.export):
        if export.target not in TARGETS:
            yield (
                ("export", index, "target"),
                f"there is no target `{export.target}`{nearest(export.target, TARGETS)} (allowed: {', '.join(sorted(TARGETS))})",
            )
            continue
        allowed = TARGETS[export.target].precisions
        for place, precision in enumerate(export.precision):
            if precision not in allowed:
                yield ("export", index, "precision", place), f"`{export.target}` is not made in {precision} (allowed: {', '.join(allowed)})"
            earlier = made.setdefault((export.target, precision), index)
            if earlier != index:
                yield ("export", index, "precision", place), f"`{export.target}` in {precision} is made already, by export[{earlier}]"
