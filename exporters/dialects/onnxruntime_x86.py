"""ONNX Runtime's CPU kernels on x86-64.

A convolution runs on integers only where its output is quantized too, an addition where both inputs and the output are; ReLU disappears into a
kernel whose output has its zero point at the type's minimum. Unsigned activations with signed weights are what the VNNI instructions take.

What is quantized, and what was tried (ONNX Runtime 1.32, AVX512-VNNI, one thread, batch 1, 64 channels at 56 x 56 unless said; ms of the small
graphs in `tests/graph_families.py`):

    Conv, any groups      integers with their output; a Gemm needs no output but an int32 bias: with a float one it dequantizes its weights at every
                          inference (attention block 5.5 against 1.8)
    Add, Mul              integers where one input comes from an integer kernel; the other one and constants are quantized for it. HardSwish in
                          parts 1.97 so, 2.10 with constants left float, 2.14 all float
    Sigmoid (SiLU)        integers: 1.95 against 2.07 in float
    HardSwish, Gelu       float between Q/DQ: no integer kernel. Gelu in five parts 2.38, as one operator 2.17: fuse it before quantizing
    Concat                moves integers; inputs from float kernels are quantized for it: 2.74 against 3.12 for a float Concat
    ConvTranspose         float: no integer kernel
    Softmax, products of  float: an attention of 196 tokens gains 3 % and loses 1.7 dB, one of 784 tokens gains 3 to 10 % and loses 34 dB, because
    two activations       the shares are then below half a step of [0, 1]
    LayerNormalization    float: no integer kernel
"""

from __future__ import annotations

from dataclasses import replace

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
    reads_weights=frozenset({"float"}),
)

# CPUs without VNNI add two products in 16 bits, which saturate: 2 x 255 x 127 = 64770. With weights of 7 bits they cannot: 2 x 255 x 63 = 32130.
AVX2 = replace(DIALECT, name="onnxruntime-x86-avx2", weight=replace(DIALECT.weight, bits=7))
