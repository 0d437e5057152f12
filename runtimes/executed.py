"""The names by which every adapter says in which dtype a layer computed, so that they can be counted and compared across runtimes."""

from __future__ import annotations

from typing import Dict, Iterable

from .session import ExecutedLayer

INT8 = "int8"
FP16 = "fp16"
BF16 = "bf16"
FP32 = "fp32"
OTHER = "other"

# `other` computes no activation: it moves, converts or indexes data, or works on shapes; or the runtime does not say what is inside.
DTYPES = (INT8, FP16, BF16, FP32, OTHER)

_NAMES = {
    "float": FP32,
    "float32": FP32,
    "f32": FP32,
    "float16": FP16,
    "f16": FP16,
    "half": FP16,
    "bfloat16": BF16,
    "bf16": BF16,
    "int8": INT8,
    "uint8": INT8,
    "i8": INT8,
    "u8": INT8,
}


def dtype_named(name: str) -> str:
    """One of `DTYPES` for a runtime's own name of a type. Signed and unsigned 8-bit integers are both `int8`."""
    return _NAMES.get(name.lower(), OTHER)


def count_by_dtype(layers: Iterable[ExecutedLayer]) -> Dict[str, int]:
    """How many layers ran in which dtype; a dtype in which none ran is absent."""
    counts: Dict[str, int] = {}
    for layer in layers:
        counts[layer.dtype] = counts.get(layer.dtype, 0) + 1
    return counts
