"""ONNX files of any origin: what is repaired stays the same function, what cannot be an integer is named, and what gains nothing is left alone."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import foreign_graphs as graphs
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from kdedge.artifact import ImportPath
from kdedge.errors import DataError, ExportError
from kdedge.exporters.dialects import DIALECTS
from kdedge.exporters.dialects.dialect import INTEGER_OPERATORS
from kdedge.exporters.equivalence import difference, run
from kdedge.exporters.foreign import opening, quantizing
from kdedge.exporters.foreign.prepare import Prepared, prepare
from kdedge.exporters.foreign.quantizing import Quantized, quantize_file
from kdedge.recipe import QuantizeSection
from kdedge.workspace import Workspace


def prepared(model: Path, data: Path, dialect: str = "onnxruntime-x86") -> Prepared:
    folder = model.parent / "prepared"
    folder.mkdir(exist_ok=True)
    return prepare(model, data, ImportPath(DIALECTS[dialect]), folder=folder)


def quantized(model: Path, data: Path, dialect: str = "onnxruntime-x86", **settings: Any) -> tuple[Quantized, Path]:
    out = model.parent / "out.onnx"
    return quantize_file(model, dialect, data, out, QuantizeSection(**settings), Workspace(model.parent / "work")), out


def outputs(path: Path, feed: dict[str, Any]) -> dict[str, Any]:
    return run(path.read_bytes(), [feed])[0]


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(str(path)).graph.node]


# ---- what is repaired ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [7, 8, 9, 11, 12, 13, 17, 21, 23])
def test_a_file_of_any_opset_comes_out_in_the_dialects_range_as_the_same_function(tmp_path: Path, opset: int) -> None:
    model = graphs.classifier(tmp_path / "m.onnx", opset=opset, ir=10 if opset > 20 else 8)
    found = prepared(model, graphs.images(tmp_path / "c.npz"))
    assert found.path is not None
    assert found.opset == opset
    assert onnx.load(str(found.path)).opset_import[0].version == min(max(opset, 13), 22)
    feed = {"image": graphs.random(3, 3, 8, 8, seed=9)}
    assert difference(outputs(found.path, feed), outputs(model, feed))[1] < 1e-4
    assert set(operators(found.path)) == {"Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"}  # bias and normalisation went into the weights


def test_a_file_newer_than_the_dialect_reads_is_lowered_and_not_refused(tmp_path: Path) -> None:
    model = graphs.classifier(tmp_path / "m.onnx", opset=22, ir=10)
    result, _ = quantized(model, graphs.images(tmp_path / "c.npz"), "openvino")
    assert (result.written, result.opset) == (True, (22, 22))
    found = prepared(model, graphs.images(tmp_path / "c.npz"), "tensorrt")
    assert found.path is not None
    assert onnx.load(str(found.path)).opset_import[0].version == 20
    assert "opset 22 became 20, with the same outputs" in found.notes


def test_weights_that_are_also_inputs_are_weights(tmp_path: Path) -> None:
    result, out = quantized(graphs.weights_as_inputs(tmp_path / "m.onnx"), graphs.images(tmp_path / "c.npz"))
    assert result.integer == ("first", "second", "head")
    assert [value.name for value in onnx.load(str(out)).graph.input] == ["image"]


def test_a_float16_model_is_quantized_and_keeps_the_types_of_its_inputs_and_outputs(tmp_path: Path) -> None:
    model = graphs.in_half(tmp_path / "m.onnx")
    result, out = quantized(model, graphs.rows(tmp_path / "c.npz"))
    assert result.integer == ("first", "second")
    written = onnx.load(str(out)).graph
    assert [value.type.tensor_type.elem_type for value in (*written.input, *written.output)] == [graphs.HALF, graphs.HALF]
    sqnr = result.distances[0].sqnr
    assert sqnr is not None
    assert sqnr.value > 25
    assert any("widened to float32" in note for note in result.notes)


def test_a_linear_layer_with_factors_is_quantized(tmp_path: Path) -> None:
    nodes = [onnx.helper.make_node("Gemm", ["x", "w", "b"], ["y"], "only", alpha=0.125, beta=0.5)]
    io = [graphs.described("x", ["n", 32])], [graphs.described("y", ["n", 64])]
    model = graphs.save(tmp_path / "m.onnx", nodes, *io, graphs.constants(w=graphs.random(32, 64), b=graphs.random(64, seed=1)))
    result, _ = quantized(model, graphs.rows(tmp_path / "c.npz"))
    assert result.integer == ("only",)
    assert result.passes == ("fold_gemm_factors",)
    (distance,) = result.distances
    assert distance.sqnr is not None
    assert distance.sqnr.value > 30


def test_external_data_is_read_and_counts_in_the_size(tmp_path: Path) -> None:
    model = graphs.classifier(tmp_path / "whole.onnx", channels=32)
    apart = tmp_path / "m.onnx"
    onnx.save(onnx.load(str(model)), str(apart), save_as_external_data=True, location="weights.bin", size_threshold=0)
    result, _ = quantized(apart, graphs.images(tmp_path / "c.npz"))
    assert result.written
    assert result.sizes[0] == apart.stat().st_size + (tmp_path / "weights.bin").stat().st_size
    assert opening.data_files(apart) == (tmp_path / "weights.bin",)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ExportError, match=r"m\.onnx` keeps weights in other files, and they cannot be read; move them together .*weights\.bin"):
        quantized(apart, graphs.images(tmp_path / "c.npz"))


def test_external_data_of_a_branch_belongs_to_the_model(tmp_path: Path) -> None:
    model = onnx.load(str(graphs.with_state(tmp_path / "whole.onnx")))
    branches = [attribute.g for node in model.graph.node for attribute in node.attribute if attribute.HasField("g")]
    branches[0].initializer.add().CopyFrom(numpy_helper.from_array(graphs.random(4, 4), "inner"))
    onnx.external_data_helper.set_external_data(branches[0].initializer[0], "inner.bin")
    (tmp_path / "inner.bin").write_bytes(branches[0].initializer[0].raw_data)
    branches[0].initializer[0].ClearField("raw_data")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert opening.data_files(tmp_path / "m.onnx") == (tmp_path / "inner.bin",)


def test_an_input_whose_file_does_not_say_its_axes_has_those_of_the_examples(tmp_path: Path) -> None:
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["y"], "only")]
    weights = graphs.constants(w=graphs.random(32, 64))
    model = graphs.save(tmp_path / "m.onnx", nodes, [graphs.described("x", None)], [graphs.described("y", None)], weights)
    np.savez(tmp_path / "c.npz", x=graphs.random(20, 4, 32))
    result, _ = quantized(model, tmp_path / "c.npz")
    assert result.integer == ("only",)
    assert result.distances[0].shape == (4, 64)


def test_sizes_that_a_file_names_with_a_question_mark_are_not_taken_for_equal(tmp_path: Path) -> None:
    model = onnx.load(str(graphs.classifier(tmp_path / "m.onnx")))
    for axis in (0, 2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "?"
    onnx.save(model, str(tmp_path / "m.onnx"))
    np.savez(tmp_path / "c.npz", image=graphs.random(24, 3, 8, 10))
    result, out = quantized(tmp_path / "m.onnx", tmp_path / "c.npz")
    assert result.written
    dims = onnx.load(str(out)).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param for dim in dims] == ["image_0", "", "image_2", "image_3"]


def bake_batch(path: Path) -> None:
    """The classifier with a Reshape that only one example at a time passes."""
    model = onnx.load(str(path))
    flat = next(node for node in model.graph.node if node.op_type == "Flatten")
    flat.op_type, flat.input[:] = "Reshape", ["p", "to"]
    model.graph.initializer.append(numpy_helper.from_array(np.asarray([1, 32], np.int64), "to"))
    onnx.save(model, str(path))


def test_a_batch_size_that_is_baked_in_is_found_and_examples_go_one_by_one(tmp_path: Path) -> None:
    path = graphs.classifier(tmp_path / "m.onnx")
    bake_batch(path)
    result, _ = quantized(path, graphs.images(tmp_path / "c.npz"))
    assert result.written
    assert any("a batch size is baked in" in note for note in result.notes)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_graph_of_one_batch_size_is_recovered_too(tmp_path: Path, batch: int) -> None:
    model, data = graphs.classifier(tmp_path / "m.onnx", batch=batch), graphs.images(tmp_path / "c.npz", 100)
    result, _ = quantized(model, data, observer="best", recover=("equalization", "bias_correction"))
    assert [note.partition(":")[0] for note in result.notes if "relative-error" in note] == ["observer", "equalization", "bias_correction"]


def test_a_batch_size_that_is_baked_in_does_not_stand_in_the_way_of_recovery(tmp_path: Path) -> None:
    path = graphs.classifier(tmp_path / "m.onnx")
    bake_batch(path)
    result, _ = quantized(path, graphs.images(tmp_path / "c.npz"), recover=("bias_correction",))
    assert any(note.startswith("bias_correction: relative-error") for note in result.notes)


def test_what_the_model_says_of_itself_stays_in_it(tmp_path: Path) -> None:
    path = graphs.classifier(tmp_path / "m.onnx", opset=11)
    model = onnx.load(str(path))
    model.metadata_props.add(key="labels", value="cat,dog")
    onnx.save(model, str(path))
    _, out = quantized(path, graphs.images(tmp_path / "c.npz"))
    found = {entry.key: entry.value for entry in onnx.load(str(out)).metadata_props}
    assert (found["labels"], found["kdedge.dialect"]) == ("cat,dog", "onnxruntime-x86")


def of_two_outputs(path: Path, operator: str, output: onnx.ValueInfoProto, **attributes: int) -> Path:
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w"], ["m"], "first"),
        onnx.helper.make_node("Relu", ["m"], ["r"], "relu"),
        onnx.helper.make_node(operator, ["r"], ["found"], "second", **attributes),
    ]
    weights = graphs.constants(w=graphs.random(32, 512))
    return graphs.save(path, nodes, [graphs.described("x", ["n", 32])], [graphs.described("m", ["n", 512]), output], weights, opset=12)


def test_an_output_whose_size_depends_on_values_is_not_compared_and_the_others_are(tmp_path: Path) -> None:
    model = of_two_outputs(tmp_path / "m.onnx", "NonZero", graphs.described("found", [2, "k"], graphs.INT64))
    result, _ = quantized(model, graphs.rows(tmp_path / "c.npz"))
    assert result.written
    values, found = result.distances
    assert values.sqnr is not None
    assert values.sqnr.value > 20
    assert found.figures == {}
    assert f"output `found` had another shape than the original's on {found.reshaped} of 4 examples: nothing is measured of it" in result.notes


def test_an_output_that_is_a_sequence_passes(tmp_path: Path) -> None:
    sequence = onnx.helper.make_sequence_type_proto(onnx.helper.make_tensor_type_proto(graphs.FLOAT, ["n", 1]))
    model = of_two_outputs(tmp_path / "m.onnx", "SplitToSequence", onnx.helper.make_value_info("found", sequence), axis=1)
    result, _ = quantized(model, graphs.rows(tmp_path / "c.npz"))
    assert result.written
    assert [bool(one.figures) for one in result.distances] == [True, False]


@pytest.mark.parametrize(("changed", "gap"), [(0.0, 0.0), (0.5, 0.5), (np.nan, np.inf)])
def test_sequences_differ_by_the_tensor_that_differs_most(changed: float, gap: float) -> None:
    want: Any = [np.asarray([1.0, -1.0]), np.asarray([[0.25]])]
    found: Any = [want[0] + [0, changed], want[1]]
    assert difference({"y": found}, {"y": want}) == (gap, gap)
    assert difference({"y": want[:1]}, {"y": want})[1] == np.inf
    assert difference({"y": np.asarray(["a"])}, {"y": np.asarray(["a"])}) == (0.0, 0.0)
    assert difference({"y": np.asarray(["a"])}, {"y": np.asarray(["b"])})[1] == np.inf


# ---- what stays float ------------------------------------------------------------------------------------------------------


def test_whole_numbers_booleans_and_masks_of_infinities_pass_and_what_they_touch_is_float(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    keep = generator.random((30, 9)) < 0.7
    keep[:, 0] = True
    np.savez(tmp_path / "c.npz", ids=generator.integers(0, 50, (30, 9)), keep=keep)
    result, out = quantized(graphs.tokens(tmp_path / "m.onnx"), tmp_path / "c.npz")
    assert result.written
    assert {"query", "key", "value", "out"} <= set(result.integer)
    tags, best = result.distances
    assert tags.sqnr is not None
    assert tags.sqnr.value > 20
    assert best.equal is not None
    assert best.equal.value > 0.9
    reads = {node.name: node for node in onnx.load(str(out)).graph.node}
    assert not any("Dequantize" in name for name in reads["mask_scores"].input)


def test_calls_with_a_state_and_a_scalar_are_given_whole_and_a_branch_stays_float_by_name(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    arrays = {"frame": generator.normal(size=(20, 1, 64)), "state": generator.normal(size=(20, 2, 1, 32))}
    rates = np.where(np.arange(20) % 2, 16000, 8000)
    np.savez(tmp_path / "c.npz", rate=rates, frame=arrays["frame"].astype(np.float32), state=arrays["state"].astype(np.float32))
    result, out = quantized(graphs.with_state(tmp_path / "m.onnx"), tmp_path / "c.npz")
    assert result.integer == ("encode",)
    assert {(one.node, one.operator, one.reason) for one in result.left} == {
        ("then_conv", "Conv", "it is inside the control flow of `branch`"),
        ("other_conv", "Conv", "it is inside the control flow of `branch`"),
    }
    feed = {"frame": arrays["frame"][3].astype(np.float32), "state": arrays["state"][3].astype(np.float32), "rate": np.asarray(8000)}
    assert difference(outputs(out, feed), outputs(tmp_path / "m.onnx", feed))[1] < 0.05


def test_weights_inside_of_control_flow_count_among_those_that_stay_float(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", frame=graphs.random(20, 1, 64), state=graphs.random(20, 2, 1, 32), rate=np.full(20, 16000))
    result, _ = quantized(graphs.with_state(tmp_path / "m.onnx"), tmp_path / "c.npz")
    assert result.shares is not None
    assert (result.shares.integer_weights, result.shares.weights) == (64 * 32, 64 * 32 + 2 * 4 * 3)
    assert result.as_json()["share_on_integers"]["nodes_inside_control_flow"] == 2


def test_a_layer_whose_weight_is_not_finite_stays_float_and_the_others_do_not(tmp_path: Path) -> None:
    model = onnx.load(str(graphs.classifier(tmp_path / "m.onnx")))
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == "w2")
    values = numpy_helper.to_array(weight).copy()
    values[0, 0, 0, 0] = -np.inf
    weight.CopyFrom(numpy_helper.from_array(values, "w2"))
    onnx.save(model, str(tmp_path / "m.onnx"))
    result, _ = quantized(tmp_path / "m.onnx", graphs.images(tmp_path / "c.npz"))
    assert result.integer == ("first",)
    assert {one.node: one.reason for one in result.left}["second"] == "it reads or makes a tensor that is not finite on an example"


def test_operators_of_one_runtime_stay_float_and_what_follows_them_is_quantized_all_the_same(tmp_path: Path) -> None:
    result, out = quantized(graphs.of_microsoft(tmp_path / "m.onnx"), graphs.rows(tmp_path / "c.npz"))
    assert result.integer == ("first", "second")
    assert [(one.node, one.operator, one.reason) for one in result.left] == [("gelu", "com.microsoft.Gelu", "an operator of one runtime")]
    assert {node.domain for node in onnx.load(str(out)).graph.node} == {"", "com.microsoft"}


def test_integers_that_are_no_closer_than_zeros_are_not_written(tmp_path: Path) -> None:
    # One column is a million times as large as the others, and is multiplied by 0: all that counts lies below half a step.
    weights = graphs.random(32, 64)
    weights[0] = 0
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["y"], "only")]
    io = [graphs.described("x", ["n", 32])], [graphs.described("y", ["n", 64])]
    model = graphs.save(tmp_path / "m.onnx", nodes, *io, graphs.constants(w=weights))
    rows = graphs.random(24, 32)
    rows[:, 0] = 1e6
    np.savez(tmp_path / "c.npz", x=rows)
    result, out = quantized(model, tmp_path / "c.npz")
    assert not result.written
    assert not out.exists()
    assert result.reason.startswith("output `y` would be no closer to the original's than zeros are (SQNR 0.0")
    assert result.distances


def test_nodes_kept_float_on_request_are_listed_with_that_reason(tmp_path: Path) -> None:
    result, _ = quantized(graphs.classifier(tmp_path / "m.onnx"), graphs.images(tmp_path / "c.npz"), keep_float=("head",))
    assert "head" not in result.integer
    assert [(one.node, one.operator) for one in result.left] == [("head", "Gemm")]
    assert "keep_float" in result.left[0].reason


def test_a_product_with_its_weight_on_the_left_counts_among_those_that_stay_float(tmp_path: Path) -> None:
    weights = graphs.constants(w1=graphs.random(32, 64), w2=graphs.random(64, 8, seed=1))
    nodes = [onnx.helper.make_node("MatMul", ["x", "w1"], ["m"], "right"), onnx.helper.make_node("MatMul", ["w2", "m"], ["y"], "left")]
    model = graphs.save(tmp_path / "m.onnx", nodes, [graphs.described("x", [8, 32])], [graphs.described("y", [64, 64])], weights)
    np.savez(tmp_path / "c.npz", x=graphs.random(20, 8, 32))
    shares = quantized(model, tmp_path / "c.npz")[0].shares
    assert shares is not None
    assert (shares.integer_operations, shares.operations) == (8 * 32 * 64, 8 * 32 * 64 + 64 * 8 * 64)
    assert (shares.integer_weights, shares.weights) == (32 * 64, 32 * 64 + 64 * 8)


# ---- what is left alone ----------------------------------------------------------------------------------------------------


def test_a_quantized_model_is_not_quantized_twice(tmp_path: Path) -> None:
    data = graphs.images(tmp_path / "c.npz")
    _, out = quantized(graphs.classifier(tmp_path / "m.onnx"), data)
    again = out.rename(tmp_path / "again.onnx")
    result, out = quantized(again, data)
    assert not result.written
    assert result.reason.startswith("it is quantized already (it holds")
    assert not out.exists()


def test_a_model_without_weights_gains_nothing_and_no_file_is_written(tmp_path: Path) -> None:
    nodes = [onnx.helper.make_node("Relu", ["x"], ["y"], "relu")]
    model = graphs.save(tmp_path / "m.onnx", nodes, [graphs.described("x", ["n", 32])], [graphs.described("y", ["n", 32])], [])
    result, out = quantized(model, graphs.rows(tmp_path / "c.npz"))
    assert (result.written, result.reason) == (False, "no node with weights can compute on integers in the dialect onnxruntime-x86")
    assert not out.exists()


def test_a_model_that_would_grow_and_mostly_stays_float_is_left_alone(tmp_path: Path) -> None:
    weights = graphs.constants(w=graphs.random(8, 8))
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w"], ["m"], "small"),
        onnx.helper.make_node("Transpose", ["m"], ["m2"], "turn", perm=[1, 0]),
        onnx.helper.make_node("MatMul", ["m", "m2"], ["y"], "two_activations"),
    ]
    model = graphs.save(tmp_path / "m.onnx", nodes, [graphs.described("x", [64, 8])], [graphs.described("y", [64, 64])], weights)
    np.savez(tmp_path / "c.npz", x=graphs.random(640, 8))
    result, out = quantized(model, tmp_path / "c.npz", keep_float=("two_activations",))
    assert not result.written
    assert "the file would not be smaller" in result.reason
    assert not out.exists()


# ---- what is refused -------------------------------------------------------------------------------------------------------


def test_a_model_that_is_too_large_is_refused_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = graphs.classifier(tmp_path / "m.onnx")
    monkeypatch.setattr(opening, "LARGEST_BYTES", 1000)
    with pytest.raises(ExportError, match=r"kdedge quantizes models of at most .*quantize weights alone"):
        quantized(model, graphs.images(tmp_path / "c.npz"))


@pytest.mark.parametrize("content", [b"", b"\x08\x07", b"\xff\xfe no graph"])
def test_what_is_no_graph_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ExportError, match=r"m\.onnx` is not an ONNX file"):
        quantized(tmp_path / "m.onnx", graphs.images(tmp_path / "c.npz"))


def test_a_graph_without_a_node_is_named_as_that(tmp_path: Path) -> None:
    model = graphs.save(tmp_path / "m.onnx", [], [graphs.described("x", ["n", 32])], [graphs.described("x", ["n", 32])], [])
    with pytest.raises(ExportError, match=r"m\.onnx` holds a graph without a node"):
        quantized(model, graphs.rows(tmp_path / "c.npz"))


def test_a_folder_that_takes_no_file_is_named_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.TemporaryDirectory", refusing)
    with pytest.raises(ExportError, match=r"out\.onnx: nothing can be written in the folder .*: Read-only file system; name another place"):
        quantized(graphs.classifier(tmp_path / "m.onnx"), graphs.images(tmp_path / "c.npz"))
    assert not list((tmp_path / "work").rglob("*.onnx"))


def refusing(prefix: str, dir: Path) -> None:
    """Makes no folder."""
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(dir / prefix))


def test_a_model_that_its_own_runtime_cannot_run_is_named_before_anything_is_done(tmp_path: Path) -> None:
    nodes = [onnx.helper.make_node("Mystery", ["x"], ["y"], "mystery", domain="some.where")]
    io = [graphs.described("x", ["n", 32])], [graphs.described("y", ["n", 32])]
    model = graphs.save(tmp_path / "m.onnx", nodes, *io, [], domains=("some.where",))
    with pytest.raises(ExportError, match=r"`m\.onnx` cannot be run by ONNX Runtime on the examples as it was given: .*Mystery"):
        quantized(model, graphs.rows(tmp_path / "c.npz"))


def test_data_for_another_model_is_refused_before_it_is_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the graph takes `image` float32"):
        quantized(graphs.classifier(tmp_path / "m.onnx"), graphs.rows(tmp_path / "c.npz"))


# ---- every dialect ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_each_dialect_writes_a_file_that_its_own_grammar_takes_and_that_is_close(tmp_path: Path, dialect: str) -> None:
    result, out = quantized(graphs.classifier(tmp_path / "m.onnx", opset=12, channels=32), graphs.images(tmp_path / "c.npz"), dialect)
    assert result.written
    assert not INTEGER_OPERATORS & set(operators(out))
    assert "QuantizeLinear" in operators(out)
    (logits,) = result.distances
    assert logits.sqnr is not None
    assert logits.sqnr.value > 20
    assert (result.compared, result.held_back) == (4, True)


@pytest.mark.parametrize(("baked", "largest"), [(False, 3), (True, 1)])
def test_the_shapes_that_tensorrt_is_asked_for_are_ones_that_the_graph_can_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, baked: bool, largest: int
) -> None:
    path = graphs.classifier(tmp_path / "m.onnx")
    if baked:
        bake_batch(path)
    asked: list[Any] = []

    def check(file: Path, options: Any) -> str:
        asked.append(options)
        return "built"

    monkeypatch.setattr(quantizing, "check_with_rtx", check)
    quantized(path, graphs.images(tmp_path / "c.npz"), "tensorrt")
    assert asked == [{"profiles": {"image": [[1, 3, 8, 8], [1, 3, 8, 8], [largest, 3, 8, 8]]}}]


def test_a_dialect_of_fixed_shapes_gets_those_of_the_examples(tmp_path: Path) -> None:
    result, out = quantized(graphs.classifier(tmp_path / "m.onnx"), graphs.images(tmp_path / "c.npz"), "qnn-htp")
    assert "qnn-htp wants fixed shapes: batch 1, as one example has them" in result.notes
    assert [dim.dim_value for dim in onnx.load(str(out)).graph.input[0].type.tensor_type.shape.dim] == [1, 3, 8, 8]


def test_a_second_run_reads_what_was_prepared_and_observed_and_gives_the_same_bytes(tmp_path: Path) -> None:
    model, data = graphs.classifier(tmp_path / "m.onnx"), graphs.images(tmp_path / "c.npz")
    _, out = quantized(model, data)
    first = out.read_bytes()
    events: list[bool] = []
    quantize_file(model, "onnxruntime-x86", data, out, QuantizeSection(), Workspace(tmp_path / "work", lambda event: events.append(event.cached)))
    assert events == [True, True]
    assert out.read_bytes() == first
