"""Bias correction: the mean error that quantization brings into a layer's output is taken off its bias.

After Nagel, van Baalen, Blankevoort, Welling 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2: for each
channel b' = b - (mean of the quantized output - mean of the float output), measured on examples, in graph order, so that each layer is measured
with what comes before it corrected already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.exporters.quantize.layers import Batch, Layer, Lowered, stream, together
from kdedge.progress import advance

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Corrected:
    """New biases by name, and what a person should know."""

    tensors: dict[str, Float32]
    note: str


def correct_biases(reference: Any, lowered: Lowered, batches: Sequence[Batch]) -> Corrected:
    """Correct the biases of `lowered` (it is changed) towards the mean outputs of the float graph `reference`.

    Layers without a bias, or with one that several nodes add, stay as they are.

    Raises:
        ExportError: a graph fails on a batch.
    """
    tensors: dict[str, Float32] = {}
    layers = list(lowered.layers())
    corrected = {layer.row.output: layer for layer in layers if layer.bias}
    wanted: dict[str, Float64] = {}
    for names in together(reference, list(corrected), batches):
        wanted |= _means(reference, {name: corrected[name] for name in names}, batches)
    for done, layer in enumerate(layers):
        if layer.bias:
            output = lowered.output_of(layer)
            found = _means(lowered.model, {output: layer}, batches)[output]
            bias = np.asarray(lowered.bias(layer) + (wanted[layer.row.output] - found), np.float32)
            lowered.replace_bias(layer, bias)
            assert layer.row.bias is not None
            tensors[layer.row.bias] = bias
        advance("bias correction", done + 1, len(layers), layer.row.node)
    passed = [layer.row.node for layer in layers if not layer.bias]
    note = f"{len(passed)} layers have no bias of their own ({', '.join(passed[:3])}{', ...' if len(passed) > 3 else ''})" if passed else ""
    return Corrected(tensors, note)


def _means(model: Any, layers: dict[str, Layer], batches: Sequence[Batch]) -> dict[str, Float64]:
    """Means of the layers' outputs (by name) over examples and places, one a channel."""
    totals: dict[str, Any] = dict.fromkeys(layers, 0.0)
    counts = dict.fromkeys(layers, 0)
    for outputs in stream(model, list(layers), batches):
        for (name, layer), output in zip(layers.items(), outputs, strict=True):
            axis = 1 if layer.row.operator in ("Conv", "ConvTranspose") else output.ndim - 1
            totals[name] = totals[name] + output.sum(axis=tuple(place for place in range(output.ndim) if place != axis), dtype=np.float64)
            counts[name] += output.size // output.shape[axis]
    return {name: np.asarray(totals[name] / counts[name]) for name in layers}
