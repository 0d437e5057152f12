"""Imports run downwards only, and nothing heavy is imported before it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "kdedge"

# From the ground floor up. Parts on one level never import each other; a part may import its own files and every level below.
LEVELS: list[set[str]] = [
    {"runtimes"},
    {"estimate", "errors", "progress"},
    {"intervals", "ranks", "conditions", "installed"},
    {"artifact"},
    {"trained", "measured"},
    {"devices", "source", "record", "eviction", "recipe_values"},
    {"recipe", "targets", "workspace", "fleet"},
    {"recipe_file", "starter", "costs"},
    {"data"},
    {"tasks", "models"},
    {"fidelity", "latency"},
    {"distill"},
    {"exporters"},
    {"gate", "bundle"},
    {"checks"},
    {"training", "quantizing"},
    {"report"},
    {"pipeline", "tuning", "examining", "regression"},
    {"api"},
    {"cli"},
    {"__main__", "pytest_plugin"},
]
# `record` names types by ImportPath and `source` is plain text work; both are what `workspace` is made of.
INSIDE_A_LEVEL = {("record", "source")}


def files() -> list[Path]:
    found = []
    for part in sorted(PACKAGE.iterdir()):
        found += [part] if part.suffix == ".py" else sorted(part.resolve().rglob("*.py")) if part.is_dir() else []
    return found


def part_of(path: Path) -> str:
    base = PACKAGE if path.is_relative_to(PACKAGE) else ROOT
    return path.relative_to(base).parts[0].removesuffix(".py")


def imported(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "kdedge" else [node.module]
    return [name.split(".")[1] for name in names if name.startswith("kdedge.")]


def level_of(part: str) -> int:
    for number, level in enumerate(LEVELS):
        if part in level:
            return number
    raise AssertionError(f"`{part}` has no level: list it in LEVELS")


def test_imports_run_downwards_only() -> None:
    wrong = []
    for path in files():
        part = part_of(path)
        if part == "__init__":
            continue
        for name in imported(path):
            if name == "__version__" or name == part or (part, name) in INSIDE_A_LEVEL:
                continue
            if level_of(name) >= level_of(part):
                wrong.append(f"{path.relative_to(ROOT)} ({part}) imports kdedge.{name}")
    assert not wrong, "\n".join(wrong)


def test_the_top_level_folders_are_never_imported_by_their_own_names() -> None:
    wrong = []
    for path in files() + sorted((ROOT / "tests").rglob("*.py")) + sorted((ROOT / "benchmarks").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            wrong += [f"{path}: {name}" for name in names if name.partition(".")[0] in {"exporters", "runtimes", "devices"}]
    assert not wrong, "\n".join(wrong)


HEAVY = ("torch", "onnx", "onnxruntime", "openvino", "transformers", "sklearn", "scipy", "matplotlib", "numpy", "pydantic", "PIL", "accelerate")


@pytest.mark.parametrize("statement", ["import kdedge", "import kdedge.cli"])
def test_importing_kdedge_loads_nothing_heavy(statement: str) -> None:
    program = f"import sys; {statement}; print([name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_cached_run_needs_neither_torch_nor_a_runtime() -> None:
    heavy = tuple(name for name in HEAVY if name not in {"numpy", "pydantic"})
    program = f"import sys; import kdedge.pipeline, kdedge.report.result; print([name for name in {heavy!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
