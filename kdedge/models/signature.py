"""What a factory takes, read from its source: a wrong argument is refused before torch or the user's module is imported."""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from kdedge.artifact import ImportPath
from kdedge.errors import KdedgeError, ModelError
from kdedge.source import file_of

# Annotations whose values a recipe can hold, and what it may hold for them. A bool is an int to Python and none to a person.
_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}
_WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}


@dataclass(frozen=True)
class Parameter:
    """One argument that can be given by name: whether it must be, its annotation as text ("" where there is none), and its default where that
    is a plain value."""

    name: str
    required: bool
    annotation: str = ""
    default: Any = None


@dataclass(frozen=True)
class Signature:
    """A factory's arguments by name. `open`: it takes any other as well (`**kwargs`)."""

    parameters: dict[str, Parameter]
    open: bool = False

    def takes(self, name: str) -> bool:
        """Whether the argument is declared by name; what `**kwargs` would swallow is not."""
        return name in self.parameters


def signature_of(factory: ImportPath) -> Signature:
    """Read a function's arguments, or those of a class's `__init__`, following imports from one module to the next.

    Where the source does not show a definition (a name that is assigned, a compiled module) the module is imported and asked.

    Raises:
        ModelError: there is no such module or name, or the file is not Python.
    """
    module, _, name = factory.value.partition(":")
    for _ in range(10):
        found = _definition(factory, module, name)
        if isinstance(found, Signature):
            return found
        if found is None:
            break
        module, name = found
    return _by_import(factory)


def check_arguments(label: str, factory: ImportPath, signature: Signature, arguments: dict[str, Any], offered: dict[str, Any]) -> None:
    """Refuse arguments of a recipe that a factory does not take, or not in this type, and a factory that asks for more than is given.

    Raises:
        ModelError: names the argument, the nearest known one, and what is allowed.
    """
    for name, value in arguments.items():
        parameter = signature.parameters.get(name)
        if parameter is None and not signature.open:
            raise ModelError(
                f"{label}: arguments.{name}: unknown argument{nearest(name, signature.parameters)} (allowed: {listed(signature.parameters)})"
            )
        if parameter is not None and not _fits(value, parameter.annotation):
            raise ModelError(f"{label}: arguments.{name}: must be {_WORDS[parameter.annotation]}, not {value!r}")
    missing = [name for name, parameter in signature.parameters.items() if parameter.required and name not in arguments and name not in offered]
    if missing:
        raise ModelError(f"{label}: `{factory.value}` needs {listed(missing)}, which nothing gives: add it to `arguments`")


def nearest(name: str, allowed: Iterable[str]) -> str:
    """`; did you mean ...?` if an allowed name is near, else nothing."""
    close = difflib.get_close_matches(name, list(allowed), n=1)
    return f"; did you mean `{close[0]}`?" if close else ""


def listed(names: Iterable[str]) -> str:
    """Names for a sentence."""
    return ", ".join(names) or "none"


def _fits(value: Any, annotation: str) -> bool:
    allowed = _TYPES.get(annotation)
    return allowed is None or (isinstance(value, allowed) and (annotation == "bool" or not isinstance(value, bool)))


def _definition(factory: ImportPath, module: str, name: str) -> Signature | tuple[str, str] | None:
    path = file_of(module)
    if path is None:
        return None
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError) as error:
        raise ModelError(f"`{factory.value}`: {path.name} cannot be read as Python: {error}") from error
    defined: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            if node.name == name:
                return _read(node.args)
            defined.append(node.name)
        elif isinstance(node, ast.ClassDef):
            if node.name == name:
                return _initialiser(node)
            defined.append(node.name)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _imported(node, module, path.name == "__init__.py"), alias.name
    if any(isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store) for node in ast.walk(tree)) or "." in name:
        return None
    if any(isinstance(node, ast.ImportFrom) and node.names[0].name == "*" for node in tree.body) or "__getattr__" in defined:
        return None
    public = [each for each in defined if not each.startswith("_")]
    raise ModelError(f"`{factory.value}`: {path.name} defines no `{name}`{nearest(name, public)} (it defines: {listed(public)})")


def _imported(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    if not node.level:
        return node.module or ""
    parts = module.split(".") if is_package else module.split(".")[:-1]
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _initialiser(node: ast.ClassDef) -> Signature | None:
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and member.name == "__init__":
            return _read(member.args, bound=True)
    return None


def _read(arguments: ast.arguments, bound: bool = False) -> Signature:
    positional = [*arguments.posonlyargs, *arguments.args]
    last = positional[len(positional) - len(arguments.defaults) :] if arguments.defaults else []
    defaults: dict[str, ast.expr] = {argument.arg: default for argument, default in zip(last, arguments.defaults, strict=True)}
    defaults |= {argument.arg: default for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if default is not None}
    named = [*arguments.args, *arguments.kwonlyargs]
    if bound:
        named = [argument for argument in named if argument is not positional[0]]
    parameters = {
        argument.arg: Parameter(
            argument.arg,
            argument.arg not in defaults,
            argument.annotation.id if isinstance(argument.annotation, ast.Name) else "",
            _plain(defaults.get(argument.arg)),
        )
        for argument in named
    }
    return Signature(parameters, arguments.kwarg is not None)


def _plain(default: ast.expr | None) -> Any:
    return default.value if isinstance(default, ast.Constant) else None


def _by_import(factory: ImportPath) -> Signature:
    try:
        found: Callable[..., Any] = factory.load()
    except KdedgeError as error:
        raise ModelError(str(error)) from error
    if not callable(found):
        raise ModelError(f"`{factory.value}` is a {type(found).__name__}, not a function or class that makes a model")
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        return Signature({}, open=True)
    named = {
        each.name: Parameter(each.name, each.default is each.empty)
        for each in parameters
        if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
    }
    return Signature(named, any(each.kind is each.VAR_KEYWORD for each in parameters))
