"""Golden placements: which tensors each dialect quantizes, who reads them, and in which operators integers are moved."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from graph_families import with_one_image
from small_graphs import calibrated, concat, depthwise, dialect, lowered, option_a, readers, residual

from kdedge.exporters.dialects import DIALECTS
from kdedge.exporters.dialects.onnxruntime_x86 import DIALECT as ONNXRUNTIME
from kdedge.exporters.dialects.openvino import DIALECT as OPENVINO
from kdedge.exporters.dialects.tensorrt import DIALECT as TENSORRT
from kdedge.exporters.dialects.validate import validate

# graph, dialect -> activations with a Q/DQ pair, nodes that move integers
PLACEMENTS = {
    (residual, "onnxruntime-x86"): (
        "image stem_relu a1_relu a2 a_relu b1_relu b2 b_down b_relu pooled",
        "flat",
    ),
    (residual, "openvino"): ("image stem_relu a1_relu a_relu b1_relu b_down flat", ""),
    (residual, "tensorrt"): ("image stem_relu a1_relu a_relu b1_relu b_down", ""),
    (option_a, "onnxruntime-x86"): ("image stem_relu a1_relu a2 a_relu last_relu pooled", "rows_slice columns_slice pad flat"),
    (option_a, "openvino"): ("image stem_relu a1_relu pad a_relu flat", ""),
    (option_a, "tensorrt"): ("image stem_relu a1_relu pad a_relu", ""),
    (depthwise, "onnxruntime-x86"): (
        "image stem_clip project0 expand_clip depthwise_clip project add last_clip pooled",
        "flat",
    ),
    (depthwise, "openvino"): ("image stem_clip project0 expand_clip depthwise_clip add flat", ""),
    (depthwise, "tensorrt"): ("image stem_clip project0 expand_clip depthwise_clip add", ""),
    (concat, "onnxruntime-x86"): ("image stem_relu left_relu right_relu last_relu pooled", "pool concat flat"),
    (concat, "openvino"): ("image stem_relu left_relu concat flat", ""),
    (concat, "tensorrt"): ("image stem_relu left_relu concat", ""),
    (residual, "qnn-htp"): ("image stem_relu a1_relu a2 a_relu b1_relu b2 b_down b_relu pooled flat logits", ""),
    (option_a, "qnn-htp"): ("image stem_relu a1_relu a2 rows_slice columns_slice pad a_relu last_relu pooled flat logits", ""),
    (depthwise, "qnn-htp"): ("image stem_clip project0 expand_clip depthwise_clip project add last_clip pooled flat logits", ""),
    (concat, "qnn-htp"): ("image stem_relu left_relu right_relu pool concat last_relu pooled flat logits", ""),
}
# Dialects whose places are those of another: only their types differ, or kernels that these graphs do not have.
PLACED_ALIKE = {
    "onnxruntime-x86-avx2": "onnxruntime-x86",
    "onnxruntime-arm": "onnxruntime-x86",
    "phone-xnnpack": "onnxruntime-x86",
    "qnn-htp-16": "qnn-htp",
    "openvino-avx2": "openvino",
}


def written(graph, folder: Path, name: str) -> Path:  # type: ignore[no-untyped-def]
    """The float graph for one image, at an opset that the dialect reads."""
    return with_one_image(graph(folder / "float.onnx"), dialect(name).minimum_opset)


def test_every_dialect_has_its_placements_here() -> None:
    assert set(DIALECTS) == {name for _, name in PLACEMENTS} | set(PLACED_ALIKE)


@pytest.mark.parametrize("graph", [residual, option_a, depthwise, concat], ids=lambda graph: graph.__name__)
@pytest.mark.parametrize(("name", "other"), PLACED_ALIKE.items())
def test_types_alone_move_no_place(tmp_path: Path, graph, name: str, other: str) -> None:  # type: ignore[no-untyped-def]
    out, report = lowered(written(graph, tmp_path, name), dialect(name))
    activations, moving = PLACEMENTS[graph, other]
    assert (" ".join(report.activations), " ".join(report.moving)) == (activations, moving)
    validate(out, dialect(name))


def test_every_dialect_is_named_as_it_calls_itself() -> None:
    assert [dialect(name).name for name in DIALECTS] == list(DIALECTS)


@pytest.mark.parametrize(("graph", "name"), PLACEMENTS, ids=[f"{graph.__name__}-{name}" for graph, name in PLACEMENTS])
def test_exactly_these_tensors_are_quantized(tmp_path: Path, graph, name: str) -> None:  # type: ignore[no-untyped-def]
    activations, moving = PLACEMENTS[graph, name]
    out, report = lowered(written(graph, tmp_path, name), dialect(name))
    assert " ".join(report.activations) == activations
    assert " ".join(report.moving) == moving
    model = onnx.load(out)
    weights = {held.name for held in model.graph.initializer}
    # A Q/DQ pair is named after its point, which may lie behind an activation that is not written.
    quantizers = [node for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[0] not in weights]
    made = [node.name.removesuffix("_QuantizeLinear") for node in quantizers]
    assert sorted(made) == sorted(activations.split())
    validate(out, dialect(name))


@pytest.mark.parametrize("graph", [residual, option_a, depthwise, concat], ids=lambda graph: graph.__name__)
def test_all_weights_are_quantized_but_products_too_small_for_tensor_cores(tmp_path: Path, graph) -> None:  # type: ignore[no-untyped-def]
    path = graph(tmp_path / "float.onnx")
    weighted = tuple(node.name for node in onnx.load(path).graph.node if node.op_type in ("Conv", "Gemm"))
    for name in DIALECTS:
        _, report = lowered(with_one_image(path, dialect(name).minimum_opset) if name == "qnn-htp-16" else path, dialect(name))
        if name == "tensorrt":
            assert report.weighted == weighted[:-1]
            (note,) = report.notes
            assert note.startswith("`logits` (Gemm) stays float: a product of ")
        else:
            assert (report.weighted, report.notes) == (weighted, ())


def test_tensorrt_residual_quantizes_the_shortcut_only(tmp_path: Path) -> None:
    out, _ = lowered(residual(tmp_path / "float.onnx"), TENSORRT)
    wired = readers(out)
    assert wired["a_add"] == ["a2", "dq(stem_relu)"]
    assert wired["b_add"] == ["dq(b_down)", "b2"]
    assert wired["pooled"] == ["b_relu"]


def test_openvino_residual_quantizes_the_shortcut_only_and_keeps_the_bias_float(tmp_path: Path) -> None:
    out, _ = lowered(residual(tmp_path / "float.onnx"), OPENVINO)
    wired = readers(out)
    assert wired["b_add"] == ["dq(b_down)", "b2"]
    assert wired["a1"][2] == "a1.bias"


def test_onnxruntime_residual_quantizes_both_sides_and_the_sum(tmp_path: Path) -> None:
    out, report = lowered(residual(tmp_path / "float.onnx"), ONNXRUNTIME)
    wired = readers(out)
    assert wired["a_add"] == ["dq(a2)", "dq(stem_relu)"]
    assert wired["b_add"] == ["dq(b_down)", "dq(b2)"]
    assert {"a_relu", "b_relu"} <= set(report.activations)
    assert wired["a1"] == ["dq(stem_relu)", "dq(a1.weight_quantized)", "dq(a1_bias_quantized)"]


def test_the_option_a_shortcut_is_moved_as_integers_and_padded_with_the_zero_point(tmp_path: Path) -> None:
    path = option_a(tmp_path / "float.onnx")
    model = onnx.load(lowered(path, ONNXRUNTIME)[0])
    nodes = {node.name: node for node in model.graph.node}
    constants = {held.name: onnx.numpy_helper.to_array(held) for held in model.graph.initializer}
    assert nodes["rows_slice"].input[0] == nodes["stem_relu_QuantizeLinear"].output[0]
    assert nodes["columns_slice"].input[0] == nodes["rows_slice"].output[0]
    assert nodes["pad"].input[0] == nodes["columns_slice"].output[0]
    filling, zero = constants[nodes["pad"].input[2]], constants[nodes["stem_relu_QuantizeLinear"].input[2]]
    assert (filling.dtype, int(filling)) == ("uint8", int(zero))
    assert constants[nodes["pad_DequantizeLinear"].input[1]] == constants[nodes["stem_relu_QuantizeLinear"].input[1]]

    wired = readers(lowered(path, TENSORRT)[0])
    assert wired["rows_slice"][0] == "dq(stem_relu)"
    assert wired["a_add"] == ["a2", "dq(pad)"]


def test_concat_members_have_one_scale_in_every_dialect(tmp_path: Path) -> None:
    for name in DIALECTS:
        path = written(concat, tmp_path, name)
        out, report = lowered(path, dialect(name))
        model = onnx.load(out)
        constants = {held.name: onnx.numpy_helper.to_array(held) for held in model.graph.initializer}
        scales = {
            node.name.removesuffix("_QuantizeLinear"): float(constants[node.input[1]])
            for node in model.graph.node
            if node.op_type == "QuantizeLinear" and "weight" not in node.name
        }
        members = [member for member in ("stem_relu", "left_relu", "right_relu", "concat") if member in report.activations]
        assert len(members) >= 3
        assert len({scales[member] for member in members}) == 1, name
        assert scales["image"] != scales["left_relu"]


def test_a_node_that_is_kept_float_is_float_in_every_dialect(tmp_path: Path) -> None:
    for name in DIALECTS:
        path = written(residual, tmp_path, name)
        table = calibrated(path, keep_float=("b2", "a_add"))
        out, report = lowered(path, dialect(name), table)
        wired = readers(out)
        assert wired["b2"][1] == "b2.weight", name
        assert "b2" not in report.weighted
        assert report.notes[0] == "`b2` (Conv) stays float: kept float by `keep_float`"
        assert set(table.keep_float) <= set(report.kept)
        validate(out, dialect(name), report.kept)
    path = residual(tmp_path / "float.onnx")
    assert readers(lowered(path, TENSORRT, calibrated(path, keep_float=("b2", "a_add")))[0])["a_add"] == ["a2", "stem_relu"]
