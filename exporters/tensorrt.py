"""What a TensorRT artifact needs besides its graph: shapes to optimize for, and a proof by NVIDIA's own parser that it can be built.

Engines are built on the board that runs them; what ships is the ONNX file. TensorRT itself cannot be had without a GPU, but TensorRT-RTX
parses and builds on any machine, with the same parser sources. It knows no compute capability 8.7 (Jetson Orin) and is no JetPack, so what it
proves is called `rtx-checked` and never "runs on a Jetson".
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdedge.artifact import Dimension, TensorSpec
from kdedge.errors import ExportError, MissingExtra
from kdedge.runtimes import tensorrt_build
from kdedge.runtimes.parent import PARENT_VARIABLE

TOOLS = ("tensorrt-rtx",)
MODULE = "tensorrt_rtx"
# Ampere with int8 and fp16 tensor cores: of what TensorRT-RTX builds for, the nearest to a Jetson Orin (8.7).
COMPUTE = ("SM86",)


def optimization_profiles(inputs: Sequence[TensorSpec]) -> dict[str, list[list[int]]]:
    """The session option `profiles`: smallest, usual and largest shape of each input that has a dynamic dimension."""
    return {
        spec.name: [
            [getattr(size, bound) if isinstance(size, Dimension) else size for size in spec.shape] for bound in ("minimum", "typical", "maximum")
        ]
        for spec in inputs
        if any(isinstance(size, Dimension) for size in spec.shape)
    }


def check_with_rtx(
    onnx_path: Path,
    options: Mapping[str, Any] | None = None,
    *,
    compute: Sequence[str] = COMPUTE,
    timeout: float = 600.0,
) -> str:
    """Parse and build an ONNX file with TensorRT-RTX in a process of its own, and say so in one line for `Artifact.checks["rtx-checked"]`.

    `options` are the artifact's session options: `profiles` (needed for dynamic inputs), `tf32`, `workspace_mb`; those of another runtime
    are an error. Where TensorRT-RTX is not installed the line says `not checked` and why.

    Raises:
        ExportError: the parser refuses a node, the builder builds nothing, the precision was changed, or TensorRT-RTX crashed or hung.
    """
    if importlib.util.find_spec(MODULE) is None:
        return f"not checked: {MissingExtra(MODULE, 'tensorrt-rtx', 'parsing and building this artifact without a GPU')}"
    result = _run(onnx_path, dict(options or {}), compute, timeout)
    if result["status"] == "missing":
        return f"not checked: {result['reason']}"
    if result["status"] != "ok":
        raise ExportError(result["reason"])
    warned = f"; it warned: {'; '.join(result['warnings'])}" if result["warnings"] else ""
    return f"parsed and built by tensorrt-rtx {result['version']} for {', '.join(compute)}, no precision changed{warned}"


def _run(onnx_path: Path, options: dict[str, Any], compute: Sequence[str], timeout: float) -> dict[str, Any]:
    """Run the check where a crash of NVIDIA's library ends the check and nothing else."""
    command = [sys.executable, "-m", tensorrt_build.__name__, "check", str(onnx_path.resolve()), "--module", MODULE]
    command += ["--compute", ",".join(compute), "--options", json.dumps(options, sort_keys=True)]
    # A file `tensorrt_rtx.py` in the current folder must not become NVIDIA's module.
    environment = {**os.environ, "PYTHONSAFEPATH": "1", PARENT_VARIABLE: str(os.getpid())}
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout, env=environment, check=False)
    except subprocess.TimeoutExpired as error:
        raise ExportError(f"{onnx_path.name}: tensorrt-rtx did not finish parsing and building within {timeout:.0f} s") from error
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise ExportError(f"{onnx_path.name}: tensorrt-rtx died with {name} while parsing or building: {_tail(done.stderr)}")
    lines = done.stdout.strip().splitlines()
    try:
        result: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, ValueError) as error:
        raise ExportError(
            f"{onnx_path.name}: the tensorrt-rtx check ended with code {done.returncode} and no result: {_tail(done.stderr)}"
        ) from error
    return result


def _tail(text: str) -> str:
    return " | ".join(text.strip().splitlines()[-3:]) or "it printed nothing"
