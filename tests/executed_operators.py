"""Which operators a runtime executes, integers and floats apart, in one line: for tables of what became of a quantized graph."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from small_graphs import executed, run_with

Array = npt.NDArray[Any]

SIGNED = {"session.qdqisint8allowed": "1"}  # what makes x86 run signed activations as Arm does
# Operators that compute nothing: they move, convert or describe data.
MOVES = frozenset(
    {
        *("Transpose", "Reshape", "Flatten", "Slice", "Pad", "Concat", "Split", "Squeeze", "Unsqueeze", "Gather", "Identity"),
        *("ReorderInput", "ReorderOutput", "QuantizeLinear", "DequantizeLinear"),
    }
)
INTEGER_PREFIXES = ("QLinear", "QGemm", "Nhwc")


def column_of(runtime: str) -> str:
    """The column of the table for this machine: runtime, its minor version, processor."""
    return f"{runtime} {'.'.join(version(runtime).split('.')[:2])} {platform.machine()}"


def on_onnxruntime(path: Path, inputs: Mapping[str, Array], entries: Mapping[str, str] | None = None) -> tuple[str, Array]:
    """What ONNX Runtime's optimized graph holds, and its first output."""
    found = executed(path, entries)
    integers = {name: count for name, count in found.items() if name.startswith(INTEGER_PREFIXES) or name.endswith(("Integer", "IntegerToFloat"))}
    text = described(integers, {name: count for name, count in found.items() if name not in MOVES | set(integers)})
    return text, run_with(path, inputs, entries)


def on_openvino(path: Path, inputs: Mapping[str, Array]) -> tuple[str, Array]:
    """What OpenVINO's runtime model says of the layers that carry the work, and the first output."""
    import openvino

    compiled = openvino.Core().compile_model(openvino.Core().read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})
    integers: Counter[str] = Counter()
    floats: Counter[str] = Counter()
    for node in compiled.get_runtime_model().get_ordered_ops():
        facts = node.get_rt_info()
        kind, precision = facts["layerType"].astype(str), facts["runtimePrecision"].astype(str)
        if kind in ("Convolution", "Deconvolution", "FullyConnected", "MatMul", "Pooling"):
            (integers if precision in ("u8", "i8") else floats)[kind] += 1
    return described(integers, floats), np.asarray(compiled(dict(inputs))[0])


def described(integers: Mapping[str, int], floats: Mapping[str, int]) -> str:
    """`INTEGER-OPERATORS | float: FLOAT-OPERATORS`, by name, with how many there are of each."""

    def listed(counts: Mapping[str, int]) -> str:
        return " ".join(f"{name} {count}" if count > 1 else name for name, count in sorted(counts.items())) or "none"

    return f"{listed(integers)} | float: {listed(floats)}"
