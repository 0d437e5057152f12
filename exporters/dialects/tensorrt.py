"""TensorRT 10 and 11, explicit and strongly typed: the strictest grammar.

Zero points are 0, activations have one scale a tensor, the bias stays float, convolution outputs are not quantized, and of a residual addition only
the shortcut is. Weights are float constants with Q and DQ, which every parser reads; they hold the rounded values already, so that a later cast to
float16 cannot round them otherwise. Of other tools integer weights with DQ alone are read too: parsers since TensorRT 10 take them.

Products of two activations and the Softmax between them stay in float16: with the range [0, 1] for the shares an attention over 784 tokens is left
with 5 dB (see `onnxruntime_x86`), and NVIDIA's own quantizer leaves them out.
"""

from __future__ import annotations

from kdedge.exporters.dialects.dialect import INTEGER_OPERATORS, Dialect, Integer, inputs_of, shortcut_of_residual_add
from kdedge.exporters.quantize.ranges import Weight

TILE = 16  # the int8 tensor-core kernels work on blocks of 16 channels


def slower_as_integers(weight: Weight) -> str:
    """Why TensorRT would run this node faster in float16; "" where int8 pays (the shapes that NVIDIA's own quantizer leaves out too)."""
    if weight.operator in ("Gemm", "MatMul"):
        outputs, inputs = weight.shape[weight.axis], weight.shape[1 - weight.axis]
        return f"a product of {inputs} x {outputs} is smaller than a block of {TILE}" if min(outputs, inputs) < TILE else ""
    outputs, inputs = weight.shape[weight.axis], weight.shape[1 - weight.axis]  # inputs of one group
    kernel = weight.shape[2:]
    if min(outputs, inputs) >= TILE:
        return ""
    if weight.group > 1:
        suits = outputs % 8 == 0 and min(kernel) >= 3
        return "" if suits else f"grouped, {outputs} channels, kernel {kernel}: int8 pays from 3 x 3 on and with a multiple of 8 channels"
    suits = (outputs % 8 == 0 or inputs % 8 == 0) and max(outputs, inputs) >= TILE and len(set(kernel)) == 1
    return "" if suits else f"{inputs} to {outputs} channels, kernel {kernel}: int8 pays with blocks of {TILE} channels"


DIALECT = Dialect(
    name="tensorrt",
    activation=Integer(bits=8, signed=True, symmetric=True),
    weight=Integer(bits=8, signed=True, symmetric=True, per_channel=True, narrow=True),
    weight_storage="float",
    bias="float",
    places=(inputs_of("Conv", "ConvTranspose", "Gemm", "MatMul"), shortcut_of_residual_add(), inputs_of("MaxPool")),
    rest="float16",
    minimum_opset=13,
    maximum_opset=20,
    maximum_ir=9,
    reads_nothing_else=True,
    refuses=slower_as_integers,
    forbidden=INTEGER_OPERATORS,
    reads_weights=frozenset({"integer"}),
)
