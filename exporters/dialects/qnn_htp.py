"""Qualcomm's HTP through ONNX Runtime's QNN provider. Grammar and placement; nothing here runs on one.

The provider takes no float node: all that a node reads and makes is quantized, constants too, and what only moves values has one scale on
both sides. Convolutions have weights per channel, Gemm and MatMul have one scale (ONNX Runtime's own recipe for QNN; AIMET's tables for HTP v73
and later allow more). No range is narrower than 0.0001. With 16-bit activations Sigmoid and Tanh have the scales that the hardware fixes, and
Q/DQ need opset 21. Attention masks of -10,000 are cut to what a Softmax can tell apart (`quantize.masks`): a text transformer 21.6 dB so, 17.3 not.
"""

from __future__ import annotations

from dataclasses import replace

from kdedge.exporters.dialects.dialect import INTEGER_OPERATORS, Dialect, Integer, demand_static_shapes, everything, inputs_of

DIALECT = Dialect(
    name="qnn-htp",
    activation=Integer(bits=8, signed=False, symmetric=False),
    weight=Integer(bits=8, signed=True, symmetric=True, per_channel=True, narrow=True),
    weight_storage="integer",
    bias="int32",
    places=(inputs_of("Conv", "ConvTranspose", "Gemm", "MatMul"), everything()),
    minimum_opset=13,
    maximum_opset=22,
    maximum_ir=10,
    per_tensor=frozenset({"Gemm", "MatMul"}),
    smallest_range=1e-4,
    drops_activations=True,
    demands=demand_static_shapes,
    forbidden=INTEGER_OPERATORS,
)

SIXTEEN_BITS = replace(
    DIALECT,
    name="qnn-htp-16",
    activation=Integer(bits=16, signed=False, symmetric=False),
    minimum_opset=21,
    fixed={"Sigmoid": (2.0**-16, 0), "Tanh": (2.0**-15, 2**15)},
)
