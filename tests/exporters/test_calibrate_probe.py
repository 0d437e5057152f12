"""What leaves the float graph while it is calibrated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from small_graphs import Graph, at_opset, calibrated, images, residual, run

from kdedge.errors import ExportError
from kdedge.exporters.quantize import probe, probe_graph
from kdedge.exporters.quantize.probe import Probe, Reading, fixed_batch
from kdedge.exporters.quantize.probe_graph import stride_of
from kdedge.exporters.quantize.wiring import load

Array = npt.NDArray[Any]


def readings(path: Path, batch: Mapping[str, Array], *names: str, **options: bool) -> dict[str, list[Reading]]:
    found: dict[str, list[Reading]] = {name: [] for name in names}
    for reading in Probe(load(path), names, path.name, **options).run(batch):
        found[reading.name].append(reading)
    return found


def small(path: Path, *nodes: onnx.NodeProto, shape: list[int | str], output: str, dtype: int = TensorProto.FLOAT, opset: int = 18) -> Path:
    inputs = [helper.make_tensor_value_info("x", dtype, shape)]
    constants = [helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]), helper.make_tensor("axis", TensorProto.INT64, [1], [0])]
    graph = helper.make_graph(list(nodes), "small", inputs, [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)], constants)
    onnx.save(onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)), path)
    return path


@given(st.integers(1, 10**7))
def test_thinning_falls_into_step_with_no_axis_and_keeps_about_what_it_should(size: int) -> None:
    stride = stride_of(size)
    assert stride == 1 or math.gcd(stride, size) == 1
    kept = -(-size // stride)
    if size <= probe_graph.VALUES_PER_EXAMPLE:
        assert kept == size
    else:  # the next stride that is no divisor may be a few larger
        wanted = max(probe_graph.VALUES_PER_EXAMPLE, size * probe_graph.SHARE_OF_LARGE)
        assert size / (size / wanted + 12) < kept <= wanted


@pytest.mark.parametrize("opset", [9, 13, 17, 18, 21])
def test_extremes_are_of_all_values_and_the_others_an_even_subset_in_every_opset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opset: int) -> None:
    monkeypatch.setattr(probe_graph, "VALUES_PER_EXAMPLE", 50)
    graph = Graph(channels=3)
    graph.op("Relu", "relu", graph.conv("conv", "image", 4))
    path = at_opset(graph.write(tmp_path / "g.onnx", "relu"), opset)
    inputs = images(5)
    whole = run(path, inputs).reshape(5, -1)
    (reading,) = readings(path, {"image": inputs}, "relu")["relu"]
    assert reading.lows == pytest.approx(whole.min(axis=1), abs=1e-6)
    assert reading.highs == pytest.approx(whole.max(axis=1), rel=1e-6)
    assert reading.values == pytest.approx(whole[:, :: stride_of(4 * 16 * 16)], rel=1e-5, abs=1e-6)
    # A sixteenth of 1,024 values is 64; every sixteenth would fall into step with the rows, so it is every seventeenth.
    assert reading.values.shape == (5, 61)


def test_no_tensor_leaves_the_graph_whole_where_its_shape_is_known(tmp_path: Path) -> None:
    path = residual(tmp_path / "r.onnx", channels=64)  # 64 x 16 x 16 = 16,384 values an example
    opened = Probe(load(path), ["stem_relu", "a_add"], path.name)
    found = list(opened.run({"image": images(3)}))
    assert all(reading.values.shape[1] <= 1024 for reading in found)
    assert sorted(len(reading.lows) for reading in found) == [3, 3]
    fetched = opened.session.run(list(opened.fetched), {"image": images(3)})
    assert max(array.size for array in fetched) <= 3 * 1024


def test_a_run_takes_as_many_examples_as_fit_into_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = residual(tmp_path / "r.onnx")
    monkeypatch.setattr(probe, "BYTES_AT_ONCE", 2 * 4 * 16 * 256 * 3)  # of 16 x 16 x 16 float32: three examples of two tensors
    found = readings(path, {"image": images(8)}, "stem_relu", "a_add")
    assert [len(reading.lows) for reading in found["a_add"]] == [3, 3, 2]


def test_a_tensor_whose_size_depends_on_the_values_may_turn_out_empty(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Greater", ["x", "zero"], ["mask"]),
        helper.make_node("Compress", ["x", "flat_mask"], ["kept"]),
        helper.make_node("Add", ["kept", "kept"], ["twice"]),
    ]
    nodes.insert(1, helper.make_node("Reshape", ["mask", "minus"], ["flat_mask"]))
    nodes.insert(0, helper.make_node("Constant", [], ["minus"], value=helper.make_tensor("m", TensorProto.INT64, [1], [-1])))
    path = small(tmp_path / "c.onnx", *nodes, shape=["N", 4], output="twice")
    (reading,) = readings(path, {"x": np.array([[1, -1, 2, -2]], np.float32)}, "kept")["kept"]
    assert (reading.lows.min(), reading.highs.max()) == (1.0, 2.0)
    (reading,) = readings(path, {"x": -np.ones((1, 4), np.float32)}, "kept")["kept"]
    assert reading.lows.size == reading.values.size == 0


def test_a_scalar_is_observed_too(tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceMax", ["x"], ["top"], keepdims=0), helper.make_node("Add", ["x", "top"], ["sum"])]
    path = small(tmp_path / "s.onnx", *nodes, shape=["N", 4], output="sum")
    (reading,) = readings(path, {"x": np.array([[1, -1, 2, -2]], np.float32)}, "top")["top"]
    assert (reading.lows.tolist(), reading.highs.tolist()) == ([2.0], [2.0])


def test_a_size_that_only_the_input_knows_is_measured(tmp_path: Path) -> None:
    path = small(tmp_path / "t.onnx", helper.make_node("Add", ["x", "zero"], ["sum"]), shape=["N", "T", 8], output="sum")
    values = np.random.default_rng(0).normal(size=(2, 1000, 8)).astype(np.float32)
    (reading,) = readings(path, {"x": values}, "sum")["sum"]
    assert reading.values.shape == (2, -(-8000 // stride_of(8000)))
    assert reading.highs == pytest.approx(values.reshape(2, -1).max(axis=1))


def test_a_value_that_is_not_a_number_is_found_wherever_the_extremes_pass_over_it(tmp_path: Path) -> None:
    path = small(tmp_path / "n.onnx", helper.make_node("Sqrt", ["x"], ["root"]), shape=["N", 40], output="root")
    values = np.ones((2, 40), np.float32)
    for place in (0, 17, 39):
        wrong = values.copy()
        wrong[1, place] = -1.0
        with pytest.raises(ExportError, match="`root` is not finite"):
            readings(path, {"x": wrong}, "root")
        with pytest.raises(ExportError, match="`root` is not finite"):  # as an output of the graph, although nobody observes it
            readings(path, {"x": wrong}, "x")


def test_values_whose_squares_overflow_are_finite(tmp_path: Path) -> None:
    path = small(tmp_path / "b.onnx", helper.make_node("Add", ["x", "zero"], ["sum"]), shape=["N", 4], output="sum")
    (reading,) = readings(path, {"x": np.full((1, 4), 3e38, np.float32)}, "sum")["sum"]
    assert reading.highs.tolist() == [pytest.approx(3e38)]


def test_a_tolerant_probe_leaves_out_what_is_not_finite_and_names_it(tmp_path: Path) -> None:
    path = small(tmp_path / "n.onnx", helper.make_node("Sqrt", ["x"], ["root"]), shape=["N", 4], output="root")
    opened = Probe(load(path), ["x", "root"], path.name, tolerant=True)
    assert [reading.name for reading in opened.run({"x": -np.ones((1, 4), np.float32)})] == ["x"]
    assert opened.infinite == {"root"}


def test_a_whole_call_counts_as_one_example(tmp_path: Path) -> None:
    path = small(tmp_path / "w.onnx", helper.make_node("Add", ["x", "zero"], ["sum"]), shape=["N", 4], output="sum")
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    (reading,) = readings(path, {"x": values}, "sum", whole=True)["sum"]
    assert (reading.lows.tolist(), reading.highs.tolist(), reading.values.shape) == ([0.0], [11.0], (1, 12))


def test_a_batch_size_that_is_written_as_minus_one_is_any(tmp_path: Path) -> None:
    path = residual(tmp_path / "g.onnx")
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    del model.graph.value_info[:]
    other = tmp_path / "minus_one.onnx"
    onnx.save(model, other)
    inputs = images(40)
    assert calibrated(other, inputs).activations == calibrated(path, inputs).activations


def test_weights_that_are_listed_before_the_input_do_not_set_the_batch_size(tmp_path: Path) -> None:
    path = residual(tmp_path / "g.onnx")
    model = onnx.load(path)
    model.graph.input.insert(0, helper.make_tensor_value_info("stem.bias", TensorProto.FLOAT, [16]))
    other = tmp_path / "listed.onnx"
    onnx.save(model, other)
    assert fixed_batch(load(other)) == 0
    assert Probe(load(other), ["image"], "listed").inputs == {"image"}
