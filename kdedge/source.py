"""What code a stage depends on, found by reading the source and never by importing it.

A cached run must not import torch just to learn that nothing changed, so the closure of a module is followed through its import
statements: every kdedge module that it names, and theirs, wherever in the file the statement stands. A user's module is followed to the
modules that lie in the same folder or package. What is imported for type checking alone never runs, and does not count.
"""

from __future__ import annotations

import ast
import hashlib
import sysconfig
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from kdedge.errors import WorkspaceError

PACKAGE = "kdedge"
_ROOT = Path(__file__).resolve().parent
# Where the garbage collector lets another thread in, Python's parser counts the depth of both as one, and fails (seen with 3.11.7).
_parsing = threading.Lock()
READER = Path(__file__)
"""This file: what is remembered of a source holds for one version of it."""


@dataclass(frozen=True)
class ModuleSource:
    """One file: the hash of its bytes, the modules that it imports (of kdedge's files those of kdedge only), and what it declares in `TOOLS`
    and `RESUMABLE`."""

    sha256: str
    imports: tuple[str, ...]
    tools: tuple[str, ...] = ()
    resumable: bool = False


@dataclass(frozen=True)
class Closure:
    """A module with everything of kdedge that it can reach, and of its own folder where it is a user's. `digest` covers all their sources;
    `tools` are distributions whose versions count."""

    digest: str
    tools: tuple[str, ...]
    resumable: bool


def file_of(module: str) -> Path | None:
    """The file of a module, without importing it; None where there is none (a builtin, a namespace, a name that is no module)."""
    if _is_own(module):
        return _own_file(module)
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


@cache  # a run asks for each some thirty times, and its own code does not move
def _own_file(module: str) -> Path | None:
    base = _ROOT.joinpath(*module.split(".")[1:])
    package = base / "__init__.py"
    if package.is_file():
        return package
    single = base.with_suffix(".py")
    return single if single.is_file() else None


def read_module(module: str, path: Path) -> ModuleSource:
    """Read one file.

    Raises:
        WorkspaceError: it cannot be read, or is not Python.
    """
    try:
        content = path.read_bytes()
        with _parsing:
            tree = ast.parse(content)
    except (OSError, SyntaxError, ValueError) as error:
        raise WorkspaceError(f"the source of `{module}` cannot be read: {path.name}: {error}") from error
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    imports = set(_imports(tree, package))
    if _is_own(module):
        imports = {name for name in imports if _is_own(name)}
    return ModuleSource(
        hashlib.sha256(content).hexdigest(),
        tuple(sorted(imports)),
        _literal(tree, "TOOLS", ()),
        bool(_literal(tree, "RESUMABLE", False)),
    )


def closure_of(module: str, read: Callable[[str, Path], ModuleSource] = read_module) -> Closure:
    """Follow a module's imports within kdedge, and those of a user's module to what lies beside it: in the folder that holds its package, or
    the file itself where that is one module. An installed module counts with its own file.

    Raises:
        WorkspaceError: the module has no source file.
    """
    start = file_of(module)
    if start is None:
        raise WorkspaceError(f"`{module}` has no source file that could be followed; is its folder on PYTHONPATH?")
    home = _home(module, start)
    seen: dict[str, ModuleSource] = {module: read(module, start)}
    queue = [*seen[module].imports, *_packages(module)]
    while queue:
        name = queue.pop()
        if name in seen or not (_is_own(name) or home):
            continue
        path = file_of(name)
        if path is None or not (_is_own(name) or (home and path.is_relative_to(home) and not _is_installed(path))):
            continue
        seen[name] = read(name, path)
        queue.extend(seen[name].imports)
        queue.extend(_packages(name))
    digest = hashlib.sha256()
    for name in sorted(seen):
        digest.update(f"{name}\0{seen[name].sha256}\n".encode())
    tools = sorted({tool for source in seen.values() for tool in source.tools})
    return Closure(digest.hexdigest(), tuple(tools), seen[module].resumable)


@cache
def version_of(distribution: str) -> str:
    """The installed version of a distribution, or "absent"."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "absent"


def _is_own(module: str) -> bool:
    return module == PACKAGE or module.startswith(PACKAGE + ".")


def _packages(module: str) -> list[str]:
    """The packages that a user's module lies in: their `__init__` runs before it."""
    parts = module.split(".")
    return [] if _is_own(module) else [".".join(parts[:depth]) for depth in range(1, len(parts))]


def _home(module: str, path: Path) -> Path | None:
    """The folder on the search path that holds a user's module; None for kdedge's own modules and for those that are installed."""
    return None if _is_own(module) or _is_installed(path) else path.parents[module.count(".") + (path.name == "__init__.py")]


def _is_installed(path: Path) -> bool:
    """Whether a file came with Python or a package; a project's folder often holds its virtual environment."""
    return not {"site-packages", "dist-packages"}.isdisjoint(path.parts) or path.is_relative_to(sysconfig.get_path("stdlib"))


def _imports(tree: ast.Module, package: str) -> list[str]:
    found: list[str] = []
    for node in _executed(tree):
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
    # kdedge's own `__init__` runs before every module of it and has nothing for them; it names the whole pipeline, for users.
    return [name for name in found if name != PACKAGE]


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING:`."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        checked = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        waiting += node.orelse if checked and isinstance(node, ast.If) else ast.iter_child_nodes(node)


def _literal(tree: ast.Module, name: str, default: Any) -> Any:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        if value is not None and any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return type(default)(ast.literal_eval(value))
    return default
