from __future__ import annotations

import gc
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import kdedge
from kdedge.data import READERS
from kdedge.distill.losses import LOSSES
from kdedge.errors import WorkspaceError
from kdedge.exporters.dialects import DIALECTS
from kdedge.models import MODELS
from kdedge.source import ModuleSource, closure_of, file_of, read_module
from kdedge.tasks import TASKS


def test_a_module_is_found_without_being_imported() -> None:
    assert file_of("kdedge.no_such_module") is None
    # In a process of its own: other tests of this one import the exporter.
    program = """
import sys
from kdedge.source import file_of
print(file_of("kdedge.exporters.onnx").name, "kdedge.exporters.onnx" in sys.modules, "kdedge.exporters" in sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["onnx.py", "False", "False"]


def test_imports_are_found_wherever_they_stand_and_resolved_when_relative(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "import os\nTOOLS = ('torch', 'onnx')\nRESUMABLE: bool = True\ndef f():\n    from kdedge.estimate import Estimate\n    from . import job\n"
    )
    found = read_module("kdedge.runtimes.module", path)
    assert set(found.imports) == {"kdedge.estimate", "kdedge.estimate.Estimate", "kdedge.runtimes", "kdedge.runtimes.job"}
    assert found.tools == ("torch", "onnx")
    assert found.resumable


def test_the_closure_of_a_module_changes_with_what_it_reaches_and_with_nothing_else() -> None:
    touched: set[str] = set()

    def reading(changed: str | None):  # type: ignore[no-untyped-def]
        def read(module: str, path: Path):  # type: ignore[no-untyped-def]
            touched.add(module)
            source = read_module(module, path)
            return type(source)("changed", source.imports, source.tools, source.resumable) if module == changed else source

        return read

    plain = closure_of("kdedge.measured", reading(None)).digest
    assert "kdedge.estimate" in touched
    assert "kdedge.workspace" not in touched
    assert closure_of("kdedge.measured", reading("kdedge.estimate")).digest != plain
    assert closure_of("kdedge.measured", reading("kdedge.workspace")).digest == plain


def test_a_module_without_source_is_named() -> None:
    with pytest.raises(WorkspaceError, match="no_such_module_anywhere"):
        closure_of("no_such_module_anywhere")


def test_a_users_package_is_read_without_running_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package_that_explodes"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('was run')\n")
    (package / "losses.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert file_of("package_that_explodes.losses") == package / "losses.py"
    assert closure_of("package_that_explodes.losses").digest
    assert file_of("package_that_explodes.nothing") is None


def reached(module: str) -> set[str]:
    found: set[str] = set()

    def read(name: str, path: Path) -> ModuleSource:
        found.add(name)
        return read_module(name, path)

    closure_of(module, read)
    return found


FLOW = [Path(kdedge.__file__).parent / f"{name}.py" for name in ("pipeline", "training", "tuning", "examining")]
STAGES = sorted({module for path in FLOW for module in re.findall(r'"(kdedge\.[a-z_.]+):[a-z_]+"', path.read_text())})
CODE = [path.partition(":")[0] for table in (TASKS, LOSSES, READERS, MODELS, DIALECTS) for path in table.values()]


@pytest.mark.parametrize("module", sorted({*STAGES, *CODE}))
def test_a_stage_depends_on_nothing_above_it(module: str) -> None:
    """A change of the report, the gate or the pipeline must not train a teacher again."""
    above = {
        "kdedge.api",
        "kdedge.pipeline",
        "kdedge.training",
        "kdedge.tuning",
        "kdedge.examining",
        "kdedge.checks",
        "kdedge.gate",
        "kdedge.report",
        "kdedge.bundle",
        "kdedge.cli",
    }
    if module.startswith("kdedge.bundle."):
        above.remove("kdedge.bundle")
    if module.startswith("kdedge.report."):
        above -= {"kdedge.report", "kdedge.bundle", "kdedge.gate"}
    assert not {name for name in reached(module) if name in above or any(name.startswith(f"{part}.") for part in above)}


def test_the_stages_of_the_pipeline_are_all_looked_at() -> None:
    assert {"kdedge.tasks.prepare", "kdedge.distill.teacher", "kdedge.distill.trainer", "kdedge.report.page"} <= set(STAGES)


def test_an_import_for_type_checking_alone_is_no_dependency(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from kdedge.api import run\nelse:\n    import kdedge.estimate\n"
        "if 1:\n    import kdedge.errors\n"
    )
    assert set(read_module("kdedge.module", path).imports) == {"kdedge.estimate", "kdedge.errors"}


def test_a_users_module_counts_with_the_modules_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "users_package_for_source_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "model.py").write_text("import json, users_large_library\nfrom .blocks import Block\nimport users_layers_for_source_test\n")
    (package / "blocks.py").write_text("Block = 1\n")
    beside = tmp_path / "users_layers_for_source_test.py"
    beside.write_text("x = 1\n")
    installed = tmp_path / ".venv" / "lib" / "site-packages"
    installed.mkdir(parents=True)
    (installed / "users_large_library.py").write_text("")
    monkeypatch.syspath_prepend(str(installed))
    name = f"{package.name}.model"
    assert reached(name) == {name, package.name, f"{package.name}.blocks", beside.stem}
    before = closure_of(name).digest
    (package / "blocks.py").write_text("Block = 2\n")
    changed = closure_of(name).digest
    beside.write_text("x = 2\n")
    assert len({before, changed, closure_of(name).digest}) == 3


def test_an_installed_module_counts_with_its_own_file_alone() -> None:
    """Its package can hold thousands of files, and is changed by an upgrade only."""
    assert reached("hypothesis.strategies") == {"hypothesis.strategies"}


def test_sources_are_read_by_several_threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices work side by side, and each asks for keys; Python's own parser does not bear that."""
    files = sorted(Path(kdedge.__file__).parent.glob("*.py"))[:6]
    wrong: list[BaseException] = []

    def read() -> None:
        try:
            for file in files:
                read_module("kdedge.any", file)
        except BaseException as error:
            wrong.append(error)

    def yield_to_others(phase: str, facts: dict[str, int]) -> None:
        time.sleep(0.0001)

    threads = [threading.Thread(target=read) for _ in range(6)]
    before = gc.get_threshold()
    gc.callbacks.append(yield_to_others)
    gc.set_threshold(50)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(yield_to_others)
    assert wrong == []
