"""ONNX Runtime's CPU kernels on x86-64.

A convolution runs on integers only where its output is quantized too, an addition where both inputs and the output are; ReLU disappears into a
kernel whose output has its zero point at the type's minimum. Unsigned activations with signed weights are what the VNNI instructions take.
Weights use 8 bits: on machines without VNNI the 16-bit sums of older instructions can saturate.
"""

from __future__ import annotations

from kdedge.exporters.dialects.dialect import INTEGER_OPERATORS, Dialect, Integer, around, inputs_of, outputs_of

DIALECT = Dialect(
    name="onnxruntime-x86",
    activation=Integer(bits=8, signed=False, symmetric=False),
    weight=Integer(bits=8, signed=True, symmetric=True, per_channel=True, narrow=True),
    weight_storage="integer",
    bias="int32",
    places=(
        inputs_of("Conv", "Gemm", "MatMul"),
        outputs_of("Conv"),
        around("Add", "Mul", "GlobalAveragePool", "AveragePool", "LeakyRelu", "Sigmoid"),
    ),
    # The runtime only drops Q/DQ around some of these; on the integers themselves all of them are exact and cheap.
    moves_integers=frozenset(
        {"MaxPool", "Concat", "Slice", "Pad", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Split", "Gather", "Identity", "Resize"}
    ),
    minimum_opset=13,
    maximum_opset=22,
    maximum_ir=10,
    forbidden=INTEGER_OPERATORS,
)
