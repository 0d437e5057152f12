"""What a loss function takes, read from its source: a wrong recipe is refused before torch or the user's module is imported."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdedge.artifact import ImportPath
from kdedge.errors import RecipeError
from kdedge.source import file_of


@dataclass(frozen=True)
class Signature:
    """A loss function's arguments: those without a default are `tensors` that the step hands in, the others are `parameters` with their
    defaults (a default that is no literal is there as Ellipsis)."""

    tensors: tuple[str, ...]
    parameters: dict[str, Any]


def signature_of(function: ImportPath) -> Signature:
    """Read the arguments of `module:function` from the module's file.

    Raises:
        RecipeError: there is no such module, file or function, or the function takes a variable number of arguments.
    """
    name, path, tree = _tree_of(function)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return _read(node.args, function)
    defined = sorted(node.name for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"))
    raise RecipeError(f"`{function.value}`: {path.name} defines no function `{name}` (it defines: {', '.join(defined) or 'none'})")


def signature_of_class(made: ImportPath) -> Signature:
    """Of the learned part of a loss, `module:Class`: the tensors that its `forward` takes, and the settings of its `__init__`.

    Raises:
        RecipeError: there is no such module, file or class, or it has no `forward`.
    """
    name, path, tree = _tree_of(made)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            methods = {each.name: each.args for each in node.body if isinstance(each, ast.FunctionDef)}
            if "forward" not in methods:
                raise RecipeError(f"`{made.value}`: the class defines no `forward`")
            settings = _read(methods["__init__"], made).parameters if "__init__" in methods else {}
            return Signature(_read(methods["forward"], made).tensors[1:], settings)
    raise RecipeError(f"`{made.value}`: {path.name} defines no class `{name}`")


def _tree_of(code: ImportPath) -> tuple[str, Path, ast.Module]:
    module, _, name = code.value.partition(":")
    path = file_of(module)
    if path is None:
        raise RecipeError(f"`{code.value}`: there is no module `{module}` with a source file (is its folder on PYTHONPATH?)")
    try:
        return name, path, ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError) as error:
        raise RecipeError(f"`{code.value}`: {path.name} cannot be read as Python: {error}") from error


def _read(arguments: ast.arguments, function: ImportPath) -> Signature:
    if arguments.vararg or arguments.kwarg or arguments.posonlyargs:
        raise RecipeError(f"`{function.value}`: a loss takes named arguments only, without *, ** and /: the recipe's keys are checked against them")
    given: dict[str, ast.expr | None] = {argument.arg: None for argument in arguments.args}
    if arguments.defaults:
        given.update(zip(list(given)[-len(arguments.defaults) :], arguments.defaults, strict=True))
    given.update(zip((argument.arg for argument in arguments.kwonlyargs), arguments.kw_defaults, strict=True))
    return Signature(
        tensors=tuple(name for name, default in given.items() if default is None),
        parameters={name: _literal(default) for name, default in given.items() if default is not None},
    )


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ...
