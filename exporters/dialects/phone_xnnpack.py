"""ONNX Runtime with XNNPACK on phones.

XNNPACK multiplies signed with signed or unsigned with unsigned and never mixes them. Per channel it takes the weights of convolutions, of a
ConvTranspose only with one scale (ONNX Runtime's `providers/xnnpack/nn/conv_base.cc`). What it does not take (Add, Mul, GlobalAveragePool, Gemm)
falls to ONNX Runtime's own kernels, so the rest is as on Arm. Its integer Softmax and AveragePool are unsigned only, so they are left to those as
well. Channels and pixels must be static; the batch may be free.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kdedge.exporters.dialects.dialect import around, inputs_of, outputs_of
from kdedge.exporters.dialects.onnxruntime_arm import DIALECT as ARM


def static_image(node: Any) -> str:
    """XNNPACK prepares a two-dimensional convolution before it sees its input: channels, rows and columns must be known. One of another rank is left
    to ONNX Runtime's own kernels."""
    shape = node.inputs[0].shape if node.op_type in ("Conv", "ConvTranspose") else None
    if shape is None or len(shape) != 4 or all(isinstance(size, int) for size in list(shape)[1:]):
        return ""
    return f"channels, rows and columns of `{node.inputs[0].name}` are not all fixed"


DIALECT = replace(
    ARM,
    name="phone-xnnpack",
    places=(
        inputs_of("Conv", "ConvTranspose", "Gemm", "MatMul"),
        outputs_of("Conv", "ConvTranspose"),
        around(*ARM.operators("around")),
    ),
    per_tensor=frozenset({"ConvTranspose"}),
    reads_weights=frozenset(),  # its weights are constants where it looks for them, before Q/DQ of constants are folded
    drops_activations=True,
    demands=static_image,
)
