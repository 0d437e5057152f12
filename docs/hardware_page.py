"""Writes `docs/hardware.md`: every function of the runtime adapters, and whether it has ever run on the hardware that it is for.

    python docs/hardware_page.py            runs the adapters' tests, watches which functions are entered, writes the page
    python docs/hardware_page.py --check    the same, but says whether the committed page is still right (exit code 1 if not)
    python docs/hardware_page.py --record   on a machine with a GPU: runs the tests that need one and keeps on record what they entered

What ran on a GPU is kept in `docs/hardware_runs.json` with the hash of the function's source, so that a changed function counts as not run.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from kdedge.runtimes import ADAPTERS

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "hardware.md"
RECORD = ROOT / "docs" / "hardware_runs.json"
GPU_TESTS = "tests/runtimes/trt/test_on_a_gpu.py"
TESTS = "tests/runtimes"
COMMAND = "python docs/hardware_page.py"

# Modules whose hardware is an NVIDIA GPU; that of every other adapter is the CPU that the tests run on.
GPU_MODULES = (
    "runtimes/cuda.py",
    "runtimes/tensorrt.py",
    "runtimes/tensorrt_build.py",
    "runtimes/tensorrt_engines.py",
    "runtimes/tensorrt_inspector.py",
    "runtimes/tensorrt_library.py",
)
CPU_MODULES = tuple(module for module in (f"runtimes/{name}.py" for name in sorted(ADAPTERS.values())) if module not in GPU_MODULES)


@dataclass(frozen=True, order=True)
class Function:
    """A function or method: its file, qualified name as Python gives it, and the hash of its source."""

    module: str
    name: str
    sha256: str


def functions_of(module: str) -> list[Function]:
    """Every function of a file, in the order of the file, with those inside classes and functions."""
    source = (ROOT / module).read_text(encoding="utf-8")

    def walk(node: ast.AST, prefix: str) -> Iterator[Function]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                segment = ast.get_source_segment(source, child) or ""
                yield Function(module, prefix + child.name, hashlib.sha256(segment.encode()).hexdigest())
                yield from walk(child, f"{prefix}{child.name}.<locals>.")
            elif isinstance(child, ast.ClassDef):
                yield from walk(child, f"{prefix}{child.name}.")
            else:
                yield from walk(child, prefix)

    return list(walk(ast.parse(source), ""))


class Watch:
    """A pytest plugin that notes each function of the listed files that is entered."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, str]] = set()
        self._files = {str((ROOT / module).resolve()): module for module in CPU_MODULES + GPU_MODULES}
        self._names: dict[str, str | None] = {}

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """A trace function: called once a Python call, since it returns nothing."""
        file = frame.f_code.co_filename
        if file not in self._names:
            self._names[file] = self._files.get(str(Path(file).resolve())) if file.endswith(".py") else None
        module = self._names[file]
        if module is not None:
            self.seen.add((module, frame.f_code.co_qualname))

    def pytest_runtest_protocol(self, item: Any) -> None:
        """Set before each test, since some tests and libraries set tracers of their own."""
        threading.settrace(self)
        sys.settrace(self)


def entered(tests: str) -> set[tuple[str, str]]:
    """(module, function) of all that the tests enter, found in a process of its own.

    Raises:
        SystemExit: the tests do not pass; then nothing can be said.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "seen.json"
        command = [sys.executable, str(Path(__file__).resolve()), "--watch", tests, str(answer)]
        # Not as a part of a run of tests that this may be called from: its options (`-n`, `-k`) are not meant for these tests.
        ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        done = subprocess.run(command, cwd=ROOT, env=ours, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{tests} does not pass, so the page cannot be made:\n{done.stdout[-3000:]}{done.stderr[-2000:]}")
        return {(module, name) for module, name in json.loads(answer.read_text())}


def watch(tests: str, answer: str) -> int:
    """In the child: run the tests and write down what was entered."""
    import pytest

    plugin = Watch()
    code = pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-p", "no:randomly", "-m", "not slow", tests], plugins=[plugin])
    sys.settrace(None)
    Path(answer).write_text(json.dumps(sorted(plugin.seen)))
    return int(code)


def recorded() -> dict[str, dict[str, str]]:
    """What ran on a GPU: "module:function" -> {sha256, device, runtime}."""
    loaded: dict[str, dict[str, str]] = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    return loaded


def record() -> None:
    """Run the tests that need a GPU and keep what they entered.

    Raises:
        SystemExit: there is no GPU here.
    """
    from kdedge.runtimes import cuda, tensorrt

    found = tensorrt.is_available()
    if not found.available:
        raise SystemExit(f"nothing to record: {found.reason}")
    where = {"device": cuda.open_cuda().device_name(), "runtime": f"tensorrt {found.version}"}
    seen = entered(GPU_TESTS)
    runs = recorded()
    for module in GPU_MODULES:
        for function in functions_of(module):
            if (module, function.name) in seen:
                runs[f"{module}:{function.name}"] = {"sha256": function.sha256, **where}
    RECORD.write_text(json.dumps(runs, indent=1, sort_keys=True) + "\n")


def on_a_gpu(function: Function, runs: dict[str, dict[str, str]]) -> str:
    """What the record says about one function."""
    run = runs.get(f"{function.module}:{function.name}")
    if run is None:
        return "never"
    where = f"{run['device']}, {run['runtime']}"
    return where if run["sha256"] == function.sha256 else f"never since it changed (before: {where})"


def page(seen: set[tuple[str, str]], runs: dict[str, dict[str, str]]) -> str:
    """The page's text."""
    gpu = [function for module in GPU_MODULES for function in functions_of(module)]
    cpu = [function for module in CPU_MODULES for function in functions_of(module)]
    never = [function for function in gpu if on_a_gpu(function, runs).startswith("never")]
    silent = [function for function in cpu if (function.module, function.name) not in seen]
    lines = [
        "# What has run on the hardware that it is for",
        "",
        f"Made by `{COMMAND}`, which runs `{TESTS}` and watches which functions are entered; a test fails when this page is out of date.",
        "",
        f"- CPU adapters: {len(cpu) - len(silent)} of {len(cpu)} functions run in these tests, on the CPU that they are for.",
        f"- CUDA and TensorRT: {len(never)} of {len(gpu)} functions have **never run on a GPU**.",
        "",
        "## CPU adapters: functions that these tests do not enter",
        "",
        "Workers that the tests start as processes of their own are not watched.",
        "",
        *([f"- `{function.module}`: `{function.name}`" for function in silent] or ["None."]),
        "",
        "## CUDA and TensorRT",
        "",
        "Without a GPU, parsing and building are TensorRT-RTX's real ones; the CUDA runtime, deserialized engines and their execution are",
        "simulated in host memory (`tests/runtimes/trt/conftest.py`), and the inspector's answers are constructed after NVIDIA's documentation.",
        "A function that runs so is no more than consistent with that documentation.",
        "",
        "On a machine with a GPU, `python docs/hardware_page.py --record` runs `" + GPU_TESTS + "` and fills the last column.",
        "",
        "| function | runs in tests without a GPU | has run on a GPU |",
        "|---|---|---|",
    ]
    for function in gpu:
        simulated = "yes" if (function.module, function.name) in seen else "no"
        lines.append(f"| `{Path(function.module).name}`: `{function.name}` | {simulated} | {on_a_gpu(function, runs)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write, check or record."""
    parser = argparse.ArgumentParser(description="Write docs/hardware.md.")
    parser.add_argument("--check", action="store_true", help="say whether the page is right, and write nothing")
    parser.add_argument("--record", action="store_true", help="on a machine with a GPU: keep on record what runs there")
    parser.add_argument("--watch", nargs=2, metavar=("TESTS", "ANSWER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.watch:
        return watch(*given.watch)
    if given.record:
        record()
    text = page(entered(TESTS), recorded())
    if not given.check:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        print(f"docs/hardware.md is out of date; make it again with: {COMMAND}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
