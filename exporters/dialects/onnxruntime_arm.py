"""ONNX Runtime's CPU kernels on 64-bit Arm, whose dot products take two signed operands.

The places are those of x86: the same integer operators exist, and a ReLU disappears where the zero point is -128. On x86 the runtime fuses signed
activations only with the session option `session.qdqisint8allowed`, and runs them without VNNI: the same numbers as on Arm, 10 to 25 times slower
than unsigned ones (residual blocks 2.8 ms against 0.19). So an x86 machine is a stand-in for results and never for time.
"""

from __future__ import annotations

from dataclasses import replace

from kdedge.exporters.dialects.dialect import Integer
from kdedge.exporters.dialects.onnxruntime_x86 import DIALECT as X86

DIALECT = replace(X86, name="onnxruntime-arm", activation=Integer(bits=8, signed=True, symmetric=False))
