"""What a torch program asks of a runtime: its operators that multiply, by the names that they are executed under."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from kdedge.artifact import AskedNode, TensorSpec
from kdedge.exporters.asked import usual_sizes
from kdedge.exporters.examples import random_feed
from kdedge.exporters.tracing import quiet

TOOLS = ("torch",)

_PRECISION = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.int8: "int8", torch.uint8: "int8"}
_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "convolution")
# Operator -> the place of the operand whose last axis is summed over.
_PRODUCTS = {"linear": 0, "matmul": 0, "mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}
_UNCOUNTED = ("scaled_dot_product_attention", "lstm", "gru", "einsum", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


def asked_of_program(path: Path, inputs: Sequence[TensorSpec]) -> tuple[AskedNode, ...]:
    """The operators of a `.pt2` file that multiply, with their multiply-accumulates at the usual sizes of `inputs`: found by running it once."""
    with quiet():
        module = torch.export.load(path).module()
    feed = random_feed(inputs, usual_sizes(inputs))
    recorder = _Recorder(module)
    with torch.inference_mode():
        recorder.run(*(torch.from_numpy(feed[spec.name]) for spec in inputs))
    return tuple(recorder.found)


class _Recorder(torch.fx.Interpreter):
    """Runs a program operator by operator and counts what multiplies."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.found: list[AskedNode] = []

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        operator = str(getattr(n.target, "__name__", "")).split(".")[0]
        if n.op == "call_function" and operator in (*_CONVOLUTIONS, *_PRODUCTS, *_UNCOUNTED):
            operands, _ = self.fetch_args_kwargs_from_env(n)
            made = result if isinstance(result, torch.Tensor) else result[0]  # an LSTM gives its states as well
            self.found.append(AskedNode(n.name, operator, _PRECISION.get(made.dtype, "other"), _macs(operator, operands, made), (n.name,)))
        return result


def _macs(operator: str, operands: Any, result: torch.Tensor) -> int | None:
    if operator in _CONVOLUTIONS:
        transposed = operator == "convolution" and bool(operands[6])
        return None if transposed else result.numel() * math.prod(operands[1].shape[1:])
    if operator in _PRODUCTS:
        return result.numel() * int(operands[_PRODUCTS[operator]].shape[-1])
    return None
