"""OpenVINO's CPU plugin, whose low-precision transformations move Q/DQ to where its kernels want them.

It takes any zero point, a float bias and weights in either storage, so only inputs of weighted nodes, the shortcut of a residual addition and what a
MaxPool reads are quantized: Q/DQ are moved down through a MaxPool, never up, and one in front of it keeps it in 8 bits.
"""

from __future__ import annotations

from kdedge.exporters.dialects.dialect import INTEGER_OPERATORS, Dialect, Integer, inputs_of, shortcut_of_residual_add

DIALECT = Dialect(
    name="openvino",
    activation=Integer(bits=8, signed=False, symmetric=False),
    weight=Integer(bits=8, signed=True, symmetric=True, per_channel=True, narrow=True),
    weight_storage="integer",
    bias="float",
    places=(inputs_of("Conv", "ConvTranspose", "Gemm", "MatMul"), shortcut_of_residual_add(), inputs_of("MaxPool")),
    minimum_opset=13,
    maximum_opset=22,
    maximum_ir=10,
    forbidden=INTEGER_OPERATORS,
)
