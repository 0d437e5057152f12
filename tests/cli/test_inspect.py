"""`kdedge inspect`: what an artifact says of itself, and what in it breaks a dialect."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from command_line import Program
from small_graphs import calibrated, depthwise, lowered, residual

from kdedge.bundle.manifest import manifest_bytes
from kdedge.exporters.dialects import DIALECTS
from kdedge.exporters.dialects.openvino import DIALECT
from kdedge.exporters.dialects.tensorrt import DIALECT as TENSORRT


@pytest.fixture
def quantized(tmp_path: Path) -> Path:
    """A small graph in OpenVINO's dialect."""
    model = depthwise(tmp_path / "float.onnx")
    return lowered(model, DIALECT, calibrated(model))[0]


def test_an_onnx_file_shows_its_inputs_outputs_and_operators(kdedge: Program, quantized: Path) -> None:
    ended = kdedge("inspect", quantized)
    assert (ended.code, ended.err) == (0, "")
    model = onnx.load(str(quantized))
    lines = ended.out.splitlines()
    assert f"  ai.onnx: {model.opset_import[0].version}" in lines
    assert any(line.startswith(f"  {model.graph.input[0].name} float [") for line in lines)
    count = sum(node.op_type == "QuantizeLinear" for node in model.graph.node)
    assert count > 0
    assert f"  QuantizeLinear: {count}" in lines
    facts = json.loads(kdedge("inspect", quantized, "--json").out)
    assert facts["operators"]["QuantizeLinear"] == count
    assert "violations" not in facts


def test_a_dialect_lists_every_node_that_breaks_it_and_the_exit_code_says_so(kdedge: Program, quantized: Path) -> None:
    fine = kdedge("inspect", quantized, "--dialect", "openvino")
    assert fine.code == 0
    assert fine.out.endswith("0 violation(s) of dialect openvino\n")
    broken = kdedge("inspect", quantized, "--dialect", "tensorrt")
    assert broken.code == 1
    head, *listed = broken.out.splitlines()[-len(json.loads(kdedge("inspect", quantized, "--dialect", "tensorrt", "--json").out)["violations"]) - 1 :]
    assert head == f"{len(listed)} violation(s) of dialect tensorrt"
    assert listed
    assert all(line.startswith("  `") for line in listed)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "error: there.onnx: there is no such file"),
        (b"\xff\xfe no graph", "export error: there.onnx is not an ONNX file"),
        (b"", "is not an ONNX file"),
    ],
)
def test_what_is_no_onnx_file_is_named(kdedge: Program, tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "there.onnx").write_bytes(content)
    ended = kdedge("inspect", "there.onnx")
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
    assert "defect" not in ended.err


def test_a_graph_without_a_node_is_shown_as_what_it_is(kdedge: Program, tmp_path: Path) -> None:
    through = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n"])
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "empty", [through], [through], [])), str(tmp_path / "empty.onnx"))
    ended = kdedge("inspect", "empty.onnx")
    assert (ended.code, ended.err) == (0, "")
    assert "operators: -" in ended.out.splitlines()


def test_an_unknown_dialect_is_named_with_the_known_ones(kdedge: Program, quantized: Path) -> None:
    ended = kdedge("inspect", quantized, "--dialect", "opnvino")
    assert ended.code == 2
    assert f"there is no dialect `opnvino` (allowed: {', '.join(sorted(DIALECTS))})" in ended.err


def test_a_file_cannot_steer_the_terminal(kdedge: Program, quantized: Path) -> None:
    model = onnx.load(str(quantized))
    model.metadata_props.add(key="note", value="\x1b]0;gone\x07\x1b[2J")
    onnx.save(model, str(quantized))
    assert "\x1b" not in kdedge("inspect", quantized).out


def test_a_violation_is_one_line_whatever_its_node_is_called(kdedge: Program, quantized: Path) -> None:
    model = onnx.load(str(quantized))
    for node in model.graph.node:
        node.name = f"{node.name}\n\x1b[2Jé"
    onnx.save(model, str(quantized))
    ended = kdedge("inspect", quantized, "--dialect", "tensorrt")
    found = json.loads(kdedge("inspect", quantized, "--dialect", "tensorrt", "--json").out)["violations"]
    *_, said = [line for line in ended.out.splitlines() if line.endswith("of dialect tensorrt")]
    assert said == f"{len(found)} violation(s) of dialect tensorrt"
    assert "\x1b" not in ended.out
    assert any(line.startswith("  `image_QuantizeLinear\\n\\x1b[2Jé` ") for line in ended.out.splitlines())
    assert all(line.startswith("`") for line in found)


def test_a_folder_that_is_no_bundle_is_named(kdedge: Program, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    ended = kdedge("inspect", "folder")
    assert ended.code == 2
    assert "this is no bundle" in ended.err


@pytest.mark.parametrize("dialect", [(), ("--dialect", "openvino")])
def test_a_manifest_that_says_too_little_or_points_elsewhere_is_named(kdedge: Program, tmp_path: Path, dialect: tuple[str, ...]) -> None:
    names = ("artifact", "classes", "evidence", "files", "golden", "input", "lineage", "name", "worker")
    content = {"kind": "kdedge-bundle", "schema": 1, **{name: {} for name in names}}
    content["artifact"] = {"format": "onnx", "graphs": [{"files": ["../../secret.onnx"]}]}
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "manifest.json").write_bytes(manifest_bytes(content))
    ended = kdedge("inspect", "bundle", *dialect)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("bundle error: ")
    assert "defect" not in ended.err


# ---- what runs here --------------------------------------------------------------------------------------------------------


def test_executed_shows_what_ran_here_node_by_node_and_why(kdedge: Program, tmp_path: Path) -> None:
    model = residual(tmp_path / "r.onnx")
    wrong = lowered(model, TENSORRT, calibrated(model))[0]
    ended = kdedge("inspect", wrong, "--executed")
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert any(line.split()[:4] == ["a2", "Conv", "int8", "fp32"] and line.endswith("its output is not quantized") for line in lines)
    assert "  multiplications: 100 % fp32" in lines
    found = json.loads(kdedge("inspect", wrong, "--executed", "--json", "--size", "N=2").out)["audit"]
    assert found["macs"] == {"fp32": 2 * 2_208_064}
    assert found["rows"][0]["asked"] == "int8"


@pytest.mark.parametrize(
    ("size", "said"),
    [("N=0", "write NAME=N"), ("batch=2", "no input has a dimension of this name (there is: N)"), ("N", "write NAME=N")],
)
def test_a_size_that_makes_no_sense_is_named(kdedge: Program, quantized: Path, size: str, said: str) -> None:
    ended = kdedge("inspect", quantized, "--executed", "--size", size)
    assert ended.code == 2
    assert said in ended.err


def test_a_dimension_that_varies_behind_the_first_needs_a_size(kdedge: Program, tmp_path: Path) -> None:
    path = residual(tmp_path / "r.onnx")
    model = onnx.load(str(path))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    del model.graph.value_info[:]
    onnx.save(model, str(path))
    ended = kdedge("inspect", path, "--executed")
    assert ended.code == 2
    assert "`image`: its axis 2 varies (`height`): give a size, such as --size height=32" in ended.err
    assert kdedge("inspect", path, "--executed", "--size", "height=16").code == 0


def test_dimensions_without_a_name_are_called_by_their_input_and_axis(kdedge: Program, tmp_path: Path) -> None:
    path = residual(tmp_path / "r.onnx")
    model = onnx.load(str(path))
    for axis in (0, 2):  # as exporters write them that know no names
        model.graph.input[0].type.tensor_type.shape.dim[axis].ClearField("dim_param")
        model.graph.input[0].type.tensor_type.shape.dim[axis].ClearField("dim_value")
    del model.graph.value_info[:]
    onnx.save(model, str(path))
    ended = kdedge("inspect", path, "--executed")
    assert ended.code == 2
    assert "`image`: its axis 2 varies (`image.2`): give a size, such as --size image.2=32" in ended.err
    found = json.loads(kdedge("inspect", path, "--executed", "--json", "--size", "image.2=16", "--size", "image.0=2").out)["audit"]
    assert found["macs"] == {"fp32": 2 * 2_208_064}


def test_a_size_without_a_run_is_refused(kdedge: Program, quantized: Path) -> None:
    ended = kdedge("inspect", quantized, "--size", "N=2")
    assert ended.code == 2
    assert "--size N=2: sizes are for a run: add --executed" in ended.err
