"""Which operators a runtime executes, integers and floats apart, in one line: for tables of what became of a quantized graph."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Iterable, Mapping
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


def column_of(runtime: str, processor: str = "") -> str:
    """The column of the table for this machine, or for an emulated one: runtime, its minor version, processor. OpenVINO fuses otherwise where a CPU
    has no VNNI."""
    own = platform.machine() + (" without vnni" if runtime == "openvino" and saturates() else "")
    return f"{runtime} {'.'.join(version(runtime).split('.')[:2])} {processor or own}"


def saturates() -> bool:
    """Whether this is an x86 CPU without VNNI, which adds products of 8 bits in 16."""
    return platform.machine() == "x86_64" and "vnni" not in Path("/proc/cpuinfo").read_text(encoding="utf-8")


def has_tiles() -> bool:
    """Whether this CPU multiplies integers in tiles (AMX), for which OpenVINO has other kernels; `ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16` is without."""
    allowed = "AMX" in os.environ.get("ONEDNN_MAX_CPU_ISA", "AMX")
    return allowed and platform.machine() == "x86_64" and "amx_int8" in Path("/proc/cpuinfo").read_text(encoding="utf-8")


def on_onnxruntime(path: Path, inputs: Mapping[str, Array], entries: Mapping[str, str] | None = None) -> tuple[str, Array]:
    """What ONNX Runtime's optimized graph holds, and its first output."""
    return of_operators(executed(path, entries)), run_with(path, inputs, entries)


def of_operators(found: Mapping[str, int]) -> str:
    """The same of the operators of an optimized graph."""
    integers = {name: count for name, count in found.items() if name.startswith(INTEGER_PREFIXES) or name.endswith(("Integer", "IntegerToFloat"))}
    return described(integers, {name: count for name, count in found.items() if name not in MOVES | set(integers)})


def on_openvino(path: Path, inputs: Mapping[str, Array]) -> tuple[str, Array]:
    """What OpenVINO's runtime model says of the layers that carry the work, and the first output."""
    import openvino

    compiled = openvino.Core().compile_model(openvino.Core().read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})
    facts = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    layers = [(each["layerType"].astype(str), each["runtimePrecision"].astype(str)) for each in facts]
    return of_layers(layers), np.asarray(compiled(dict(inputs))[0])


def of_layers(layers: Iterable[tuple[str, str]]) -> str:
    """The same of layers of a runtime model, each with its kind and the precision it runs in."""
    integers: Counter[str] = Counter()
    floats: Counter[str] = Counter()
    for kind, precision in layers:
        if kind in ("Convolution", "Deconvolution", "FullyConnected", "MatMul", "Pooling"):
            (integers if precision in ("u8", "i8") else floats)[kind] += 1
    return described(integers, floats)


def described(integers: Mapping[str, int], floats: Mapping[str, int]) -> str:
    """`INTEGER-OPERATORS | float: FLOAT-OPERATORS`, by name, with how many there are of each."""

    def listed(counts: Mapping[str, int]) -> str:
        return " ".join(f"{name} {count}" if count > 1 else name for name, count in sorted(counts.items())) or "none"

    return f"{listed(integers)} | float: {listed(floats)}"
