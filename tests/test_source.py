from __future__ import annotations

from pathlib import Path

import pytest

from kdedge.errors import WorkspaceError
from kdedge.source import closure_of, file_of, read_module


def test_a_module_is_found_without_being_imported() -> None:
    import sys

    assert file_of("kdedge.exporters.onnx") is not None
    assert file_of("kdedge.no_such_module") is None
    assert "kdedge.exporters.onnx" not in sys.modules


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

    plain = closure_of("kdedge.artifact", reading(None)).digest
    assert "kdedge.estimate" in touched
    assert "kdedge.workspace" not in touched
    assert closure_of("kdedge.artifact", reading("kdedge.estimate")).digest != plain
    assert closure_of("kdedge.artifact", reading("kdedge.workspace")).digest == plain


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
