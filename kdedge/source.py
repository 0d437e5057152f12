"""What code a stage depends on, found by reading the source and never by importing it.

A cached run must not import torch just to learn that nothing changed, so the closure of a module is followed through its import
statements: every kdedge module that it names, and theirs, wherever in the file the statement stands.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from kdedge.errors import WorkspaceError

PACKAGE = "kdedge"
_ROOT = Path(__file__).resolve().parent


@dataclass(frozen=True)
class ModuleSource:
    """One file: the hash of its bytes, the kdedge modules that it imports, and what it declares in `TOOLS` and `RESUMABLE`."""

    sha256: str
    imports: tuple[str, ...]
    tools: tuple[str, ...] = ()
    resumable: bool = False


@dataclass(frozen=True)
class Closure:
    """A module with everything of kdedge that it can reach. `digest` covers all their sources; `tools` are distributions whose versions count."""

    digest: str
    tools: tuple[str, ...]
    resumable: bool


def file_of(module: str) -> Path | None:
    """The file of a module, without importing it; None where there is none (a builtin, a namespace, a name that is no module)."""
    if module == PACKAGE or module.startswith(PACKAGE + "."):
        base = _ROOT.joinpath(*module.split(".")[1:])
        package = base / "__init__.py"
        if package.is_file():
            return package
        single = base.with_suffix(".py")
        return single if single.is_file() else None
    # Not `importlib.util.find_spec`: it imports the parent packages, and a user's package may import torch.
    search: Sequence[str] | None = None
    found = None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        found = PathFinder.find_spec(".".join(parts[:depth]), search)
        if found is None:
            return None
        search = found.submodule_search_locations
        if search is None and depth < len(parts):
            return None
    return Path(found.origin) if found is not None and found.origin and found.origin.endswith(".py") else None


def read_module(module: str, path: Path) -> ModuleSource:
    """Read one file.

    Raises:
        WorkspaceError: it cannot be read, or is not Python.
    """
    try:
        content = path.read_bytes()
        tree = ast.parse(content)
    except (OSError, SyntaxError, ValueError) as error:
        raise WorkspaceError(f"the source of `{module}` cannot be read: {path.name}: {error}") from error
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return ModuleSource(
        hashlib.sha256(content).hexdigest(),
        tuple(sorted(set(_imports(tree, package)))),
        _literal(tree, "TOOLS", ()),
        bool(_literal(tree, "RESUMABLE", False)),
    )


def closure_of(module: str, read: Callable[[str, Path], ModuleSource] = read_module) -> Closure:
    """Follow a module's imports within kdedge (a user's module counts with its own file).

    Raises:
        WorkspaceError: the module has no source file.
    """
    start = file_of(module)
    if start is None:
        raise WorkspaceError(f"`{module}` has no source file that could be followed; is its folder on PYTHONPATH?")
    seen: dict[str, ModuleSource] = {module: read(module, start)}
    queue = list(seen[module].imports)
    while queue:
        name = queue.pop()
        if name in seen:
            continue
        path = file_of(name)
        if path is None:
            continue
        seen[name] = read(name, path)
        queue.extend(seen[name].imports)
    digest = hashlib.sha256()
    for name in sorted(seen):
        digest.update(f"{name}\0{seen[name].sha256}\n".encode())
    tools = sorted({tool for source in seen.values() for tool in source.tools})
    return Closure(digest.hexdigest(), tuple(tools), seen[module].resumable)


def version_of(distribution: str) -> str:
    """The installed version of a distribution, or "absent"."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "absent"


def _imports(tree: ast.Module, package: str) -> list[str]:
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, base] if base else parent)
            found.append(base)
            # `from package import name` may name a module; a name that is none has no file and is dropped later.
            found += [f"{base}.{alias.name}" for alias in node.names]
    return [name for name in found if name == PACKAGE or name.startswith(PACKAGE + ".")]


def _literal(tree: ast.Module, name: str, default: Any) -> Any:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        if value is not None and any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return type(default)(ast.literal_eval(value))
    return default
