from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_graphs import Graph, calibrated, images, lowered, residual

from kdedge.exporters.dialects.dialect import Dialect
from kdedge.exporters.dialects.onnxruntime_x86 import DIALECT as ONNXRUNTIME
from kdedge.exporters.dialects.openvino import DIALECT as OPENVINO
from kdedge.exporters.quantize.bias_correction import correct_biases
from kdedge.exporters.quantize.layers import Lowered, stream
from kdedge.exporters.quantize.ranges import RangeTable
from kdedge.exporters.quantize.wiring import load


def narrowed(table: RangeTable, share: float) -> RangeTable:
    """Activations clipped well inside what was seen, so that there is a mean error to correct."""
    rows = tuple(
        replace(row, symmetric=share * row.symmetric, affine=(share * row.affine[0], share * row.affine[1]), choices=()) for row in table.activations
    )
    return replace(table, activations=rows)


def means(model: Any, name: str, batches: Any) -> Any:
    return np.concatenate([array for (array,) in stream(model, [name], batches)]).mean(axis=(0, 2, 3))


@pytest.mark.parametrize("dialect", [ONNXRUNTIME, OPENVINO], ids=lambda dialect: dialect.name)
def test_afterwards_every_convolution_has_the_float_mean(tmp_path: Path, dialect: Dialect) -> None:
    path = residual(tmp_path / "g.onnx")
    table = narrowed(calibrated(path), 0.7)
    model, held = load(path), Lowered(load(lowered(path, dialect, table)[0]), table)
    batches = [{"image": images(20)}, {"image": images(5, seed=3)}]
    plain = Lowered(load(lowered(path, dialect, table)[0]), table)
    found = correct_biases(model, held, batches)
    assert set(found.tensors) == {f"{name}.bias" for name in ("stem", "a1", "a2", "b1", "b2", "b_down", "logits")}
    off = []
    for layer in held.layers():
        if layer.row.operator == "Conv":
            wanted = means(model, layer.row.output, batches)
            off.append(np.abs(means(plain.model, plain.output_of(layer), batches) - wanted).max())
            np.testing.assert_allclose(means(held.model, held.output_of(layer), batches), wanted, atol=1e-4)
    assert max(off) > 0.05


def test_a_clipped_input_is_made_up_for_by_hand(tmp_path: Path) -> None:
    graph = Graph(channels=1, size=2)
    graph.op("Conv", "conv", "image", graph.constant("w", [[[[0.5]]]]), graph.constant("b", [0.1]), channels=1)
    path = graph.write(tmp_path / "g.onnx", "conv")
    table = narrowed(calibrated(path, np.full((2, 1, 2, 2), 1.5, np.float32)), 2 / 3)  # all inputs are 1.5, the range ends at 1
    held = Lowered(load(lowered(path, OPENVINO, table)[0]), table)
    found = correct_biases(load(path), held, [{"image": np.full((2, 1, 2, 2), 1.5, np.float32)}])
    assert found.tensors["b"].tolist() == pytest.approx([0.1 + 0.5 * (1.5 - 1.0)], abs=1e-5)


def test_layers_without_a_bias_stay_and_the_note_says_so(tmp_path: Path) -> None:
    graph = Graph(channels=3)
    path = graph.write(tmp_path / "g.onnx", graph.conv("last", graph.op("Relu", "relu", graph.conv("first", "image", 4, bias=False)), 4))
    table = calibrated(path)
    found = correct_biases(load(path), Lowered(load(lowered(path, OPENVINO, table)[0]), table), [{"image": images(4)}])
    assert set(found.tensors) == {"last.bias"}
    assert "1 layers have no bias of their own (first)" in found.note
