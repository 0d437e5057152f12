"""OpenVINO's CPU plugin, whose low-precision transformations move Q/DQ to where its kernels want them.

It takes any zero point, a float bias and weights in either storage, so only inputs of weighted nodes, the shortcut of a residual addition and what a
MaxPool reads are quantized: Q/DQ are moved down through a MaxPool, never up, and one in front of it keeps it in 8 bits.

Activations are unsigned because OpenVINO 2026.4 misreads signed ones that meet in a Concat (not on CPUs with AMX): 15 dB, not 46, without a word.

All activations (SiLU, HardSwish, Gelu in one operator or in five) are computed inside the convolution before them, in float, and cost nothing:
their inputs stay float. Products of two activations stay float too: with integers an attention of 196 tokens takes as long (1.57 ms against 1.53)
and one of 784 tokens 1.4 times as long (29.3 against 21.3), for 1 to 34 dB less (OpenVINO 2026.4, AVX512-VNNI, one thread). LayerNormalization and
Softmax have no integer kernel.
"""

from __future__ import annotations

from dataclasses import replace

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
    reads_weights=frozenset({"float"}),
    reads_bias=frozenset({"int32"}),
)

# Without VNNI its kernels add two products in 16 bits, as ONNX Runtime's do, and it has no option against that. ResNet-20, 7,979 images, a CPU with
# AVX2: KL 0.17 to the float model with weights of 8 bits, against 0.0066 of NNCF, which gives weights 7 bits where that may happen.
AVX2 = replace(DIALECT, name="openvino-avx2", weight=replace(DIALECT.weight, bits=7))
