"""What integers mean does not hang on the integer kernels of the machine that measures."""

from __future__ import annotations

from pathlib import Path

import foreign_graphs as graphs
import numpy as np
from onnx import helper

from kdedge.exporters.equivalence import run
from kdedge.exporters.model_file import load_model
from kdedge.exporters.quantize.distance import Distance


def test_the_largest_products_of_8_bits_are_summed_exactly(tmp_path: Path) -> None:
    """Two of them, 2 x 255 x 127, are more than 16 bits hold: kernels of x86 CPUs without VNNI cut them off."""
    weight = np.full((4, 8, 1, 1), 127, np.int8)
    one, scale, zero = np.asarray(1.0, np.float32), np.asarray(255.0, np.float32), np.asarray(0, np.uint8)
    held = graphs.constants(one=one, scale=8 * scale, zero=zero, none=np.asarray(0, np.int8), w=weight)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["xq"], "q"),
        helper.make_node("DequantizeLinear", ["xq", "one", "zero"], ["xd"], "dq"),
        helper.make_node("DequantizeLinear", ["w", "one", "none"], ["wd"], "wdq"),
        helper.make_node("Conv", ["xd", "wd"], ["c"], "conv"),
        helper.make_node("QuantizeLinear", ["c", "scale", "zero"], ["cq"], "q2"),
        helper.make_node("DequantizeLinear", ["cq", "scale", "zero"], ["y"], "dq2"),
    ]
    path = graphs.save(tmp_path / "m.onnx", nodes, [graphs.described("x", ["n", 8, 3, 3])], [graphs.described("y", None)], held)
    images = {"x": np.full((2, 8, 3, 3), 255, np.float32)}
    (found,) = run(load_model(path), [images], as_written=True)
    assert np.array_equal(found["y"], np.full((2, 4, 3, 3), 127 * 8 * 255, np.float32))  # on the grid of 8 x 255

    plain = [helper.make_node("Conv", ["x", "w"], ["y"], "conv")]
    floats = graphs.constants(w=weight.astype(np.float32))
    exact = load_model(graphs.save(tmp_path / "f.onnx", plain, [graphs.described("x", ["n", 8, 3, 3])], [graphs.described("y", None)], floats))
    assert float(Distance(exact, [images]).of(path).error.max()) == 0.0
