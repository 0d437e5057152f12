"""`docs/hardware.md` says what is so: every adapter function is on it, and none is called run that was not."""

from __future__ import annotations

import difflib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hardware_page", ROOT / "docs" / "hardware_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["hardware_page"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_page_is_what_a_test_run_says(script: ModuleType) -> None:
    for runtime in ("tensorrt_rtx", "onnxruntime", "openvino", "torch"):
        pytest.importorskip(runtime)
    made = script.page(script.entered(script.TESTS), script.recorded())
    committed = script.PAGE.read_text(encoding="utf-8") if script.PAGE.exists() else ""
    changes = "\n".join(difflib.unified_diff(committed.splitlines(), made.splitlines(), "committed", "now", lineterm="", n=0))
    assert committed == made, f"docs/hardware.md is out of date; make it again with: {script.COMMAND}\n{changes}"


def test_options_of_the_tests_that_run_are_not_those_of_the_tests_that_are_watched(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = tmp_path / "test_watched.py"
    watched.write_text("def test_one():\n    from kdedge.runtimes import cuda\n    cuda.library_candidates()\n")
    monkeypatch.setenv("PYTEST_ADDOPTS", "--collect-only")
    assert ("runtimes/cuda.py", "library_candidates") in script.entered(str(watched))


def test_every_function_of_every_adapter_is_counted(script: ModuleType) -> None:
    text = script.PAGE.read_text(encoding="utf-8")
    for module in script.GPU_MODULES:
        for function in script.functions_of(module):
            assert f"| `{Path(module).name}`: `{function.name}` |" in text
    adapters = {path.name for path in (ROOT / "runtimes").glob("*.py") if re.search(r"^def open_session\(", path.read_text(), re.MULTILINE)}
    listed = {Path(module).name for module in script.CPU_MODULES + script.GPU_MODULES}
    assert adapters <= listed, f"an adapter that the page does not know: {sorted(adapters - listed)}"
    gpu_files = {path.name for pattern in ("cuda*.py", "tensorrt*.py") for path in (ROOT / "runtimes").glob(pattern)}
    assert gpu_files <= listed, f"a module that the page does not know: {sorted(gpu_files - listed)}"


def test_functions_are_named_as_python_names_them(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sample.py").write_text(
        "def a():\n    def b():\n        class C:\n            def d(self): ...\n        return C\n    return b\n"
        "class E:\n    def f(self): ...\n    @property\n    def g(self): ...\nif True:\n    def h(): ...\n"
    )
    monkeypatch.setattr(script, "ROOT", tmp_path)
    names = [function.name for function in script.functions_of("sample.py")]
    assert names == ["a", "a.<locals>.b", "a.<locals>.b.<locals>.C.d", "E.f", "E.g", "h"]


def test_a_function_that_changed_counts_as_not_run(script: ModuleType) -> None:
    function = script.functions_of("runtimes/cuda.py")[0]
    key = f"{function.module}:{function.name}"
    run = {"sha256": function.sha256, "device": "Orin", "runtime": "tensorrt 10.3.0"}
    assert script.on_a_gpu(function, {}) == "never"
    assert script.on_a_gpu(function, {key: run}) == "Orin, tensorrt 10.3.0"
    assert script.on_a_gpu(function, {key: {**run, "sha256": "0"}}) == "never since it changed (before: Orin, tensorrt 10.3.0)"


def test_only_what_was_entered_is_called_run(script: ModuleType) -> None:
    text = script.page({("runtimes/cuda.py", "Cuda.malloc")}, {})
    assert "| `cuda.py`: `Cuda.malloc` | yes | never |" in text
    assert "| `cuda.py`: `Cuda.free` | no | never |" in text
    count = sum(len(script.functions_of(module)) for module in script.GPU_MODULES)
    assert f"{count} of {count} functions have **never run on a GPU**" in text
