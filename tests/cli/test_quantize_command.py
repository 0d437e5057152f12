"""`kdedge quantize`: integers for a model that kdedge did not make, told as tables and as one JSON object."""

from __future__ import annotations

import json
from pathlib import Path

import foreign_graphs as graphs
import numpy as np
import onnx
import pytest
from command_line import Program

DIALECT = ("--dialect", "onnxruntime-x86")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    graphs.images(tmp_path / "calib.npz")
    return graphs.classifier(tmp_path / "model.onnx", channels=32)


def test_a_model_and_a_file_of_examples_give_a_smaller_model_and_its_distance(kdedge: Program, model: Path) -> None:
    ended = kdedge("quantize", model, *DIALECT, "--data", "calib.npz", "-o", "out.onnx")
    assert ended.code == 0
    first, second, *rest = ended.out.splitlines()
    assert first.startswith("model.onnx -> out.onnx: ")
    assert second.startswith("on integers: 3 of 3 nodes with weights: 100.0% of the multiplications")
    assert "distance to the original on 4 examples held back from calibration:" in rest
    assert any("SQNR" in line and "same largest entry" in line and "KL" in line for line in rest)
    assert Path("out.onnx").stat().st_size < model.stat().st_size
    assert "prepare.observe_examples" in ended.err


def test_json_comes_last_and_quiet_leaves_nothing_else(kdedge: Program, model: Path) -> None:
    arguments = ("quantize", model, *DIALECT, "--data", "calib.npz", "-o", "out.onnx", "--json")
    ended = kdedge(*arguments)
    facts = json.loads(ended.out.splitlines()[-1])
    assert (facts["written"], facts["out"], facts["dialect"]) == (True, "out.onnx", "onnxruntime-x86")
    assert facts["integer"] == ["first", "second", "head"]
    assert facts["size_bytes"] == {"before": model.stat().st_size, "after": Path("out.onnx").stat().st_size}
    assert facts["distance"]["logits"]["sqnr"]["value"] > 20
    assert set(facts["distance"]["logits"]) == {"sqnr", "agreement", "kl"}
    quiet = kdedge(*arguments, "--quiet")
    assert (json.loads(quiet.out), quiet.err) == (facts, "")


def test_what_stays_float_is_listed_with_its_reason(kdedge: Program, model: Path) -> None:
    ended = kdedge("quantize", model, *DIALECT, "--data", "calib.npz", "-o", "out.onnx", "--keep-float", "he*", "--json")
    assert any(line.split()[:2] == ["1", "Gemm"] and "keep_float" in line for line in ended.out.splitlines())
    (one,) = json.loads(ended.out.splitlines()[-1])["float"]
    assert (one["node"], one["operator"]) == ("head", "Gemm")


def test_what_stands_between_layers_is_listed_and_not_counted_as_one(kdedge: Program, tmp_path: Path) -> None:
    graphs.rows(tmp_path / "x.npz")
    ended = kdedge("quantize", graphs.of_microsoft(tmp_path / "gelu.onnx"), *DIALECT, "--data", "x.npz", "-o", "out.onnx")
    assert "on integers: 2 of 2 nodes with weights: 100.0%" in ended.out
    assert any(line.split()[:2] == ["1", "com.microsoft.Gelu"] for line in ended.out.splitlines())


def test_a_model_that_gains_nothing_is_said_to_be_so_with_code_0_and_no_file(kdedge: Program, tmp_path: Path) -> None:
    nodes = [onnx.helper.make_node("Relu", ["x"], ["y"], "relu")]
    path = graphs.save(tmp_path / "relu.onnx", nodes, [graphs.described("x", ["n", 32])], [graphs.described("y", ["n", 32])], [])
    graphs.rows(tmp_path / "x.npz")
    ended = kdedge("quantize", path, *DIALECT, "--data", "x.npz", "-o", "out.onnx", "--json")
    assert ended.code == 0
    assert ended.out.startswith("relu.onnx was not quantized for onnxruntime-x86: no node with weights")
    facts = json.loads(ended.out.splitlines()[-1])
    assert (facts["written"], facts["out"]) == (False, None)
    assert not Path("out.onnx").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--dialect": "onnxruntime"}, "error: there is no dialect `onnxruntime` (allowed: "),
        ({"--data": "absent.npz"}, "absent.npz: there is no such file or folder of calibration examples"),
        ({"-o": "absent/out.onnx"}, "absent/out.onnx: the folder "),
        ({"-o": "out.tflite"}, "out.tflite: give the name of a file that ends in .onnx"),
        ({"-o": "model.onnx"}, "model.onnx is the model itself; give the result another name"),
        ({"--observer": "average"}, "--observer average: input should be 'minmax', "),
        ({"--percentile": "101"}, "--percentile 101.0: input should be less than or equal to 100"),
        ({"--at-least": "4000"}, "--at-least 4000: an SQNR of at most 150 dB"),
        ({"--keep-float": "hed"}, "no node is called `hed`; did you mean `head`"),
    ],
)
def test_a_wrong_argument_ends_with_a_sentence(kdedge: Program, model: Path, change: dict[str, str], said: str) -> None:
    given = {"--dialect": "onnxruntime-x86", "--data": "calib.npz", "-o": "out.onnx", **change}
    ended = kdedge("quantize", model.name, *(part for pair in given.items() for part in pair))
    assert ended.code == 2
    assert said in ended.err
    assert "defect" not in ended.err
    assert not Path("out.onnx").exists()


def test_a_missing_model_is_named(kdedge: Program, model: Path) -> None:
    ended = kdedge("quantize", "absent.onnx", *DIALECT, "--data", "calib.npz", "-o", "out.onnx")
    assert ended.code == 2
    assert "absent.onnx: there is no such file" in ended.err


def test_names_in_a_model_cannot_steer_the_terminal(kdedge: Program, tmp_path: Path) -> None:
    graphs.images(tmp_path / "calib.npz")
    path = graphs.classifier(tmp_path / "model.onnx", channels=32)
    model = onnx.load(str(path))
    model.graph.node[-1].name = "\x1b]0;gone\x07head"
    model.graph.node[-1].output[0] = model.graph.output[0].name = "\x1b[2Jlogits"
    onnx.save(model, str(path))
    ended = kdedge("quantize", path, *DIALECT, "--data", "calib.npz", "-o", "out.onnx", "--keep-float", "*head")
    assert ended.code == 0
    assert "\x1b" not in ended.out + ended.err


def test_neither_can_its_operators_in_the_reason_why_nothing_is_done(kdedge: Program, tmp_path: Path) -> None:
    graphs.rows(tmp_path / "x.npz")
    nodes = [onnx.helper.make_node("QLinear\x1b[2J", ["x"], ["y"], "q", domain="some.where")]
    io = [graphs.described("x", ["n", 32])], [graphs.described("y", ["n", 32])]
    path = graphs.save(tmp_path / "q.onnx", nodes, *io, [], domains=("some.where",))
    ended = kdedge("quantize", path, *DIALECT, "--data", "x.npz", "-o", "out.onnx")
    assert ended.code == 0
    assert "it is quantized already" in ended.out
    assert "\x1b" not in ended.out + ended.err


def test_an_earlier_result_survives_a_run_that_fails(kdedge: Program, model: Path) -> None:
    Path("out.onnx").write_bytes(b"earlier")
    np.savez("bad.npz", image=np.zeros((3, 4, 8, 8), np.float32))
    assert kdedge("quantize", model, *DIALECT, "--data", "bad.npz", "-o", "out.onnx").code == 2
    assert Path("out.onnx").read_bytes() == b"earlier"
    assert [path.name for path in Path().glob(".kdedge-*")] == []
