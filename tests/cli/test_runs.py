"""What the commands that run a recipe print where, and what they leave: with a student that needs no training, on a few real digits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import Ended, Program
from onnx import TensorProto, helper, numpy_helper

RECIPE = """\
name: tiny
task: image-classification
data: {train: "sklearn:digits", test: "sklearn:digits", limit_train: 64, limit_test: 32, calibration: 16}
student: onnx:student.onnx
export: [{target: onnxruntime-x86, precision: [fp32]}]
profile: {launches: 1, warmup_seconds: 0.01, min_seconds: 0.02}
gate: {size: "<= 1 MB"}
"""


def student(path: Path) -> None:
    """Ten classes from the mean of each colour: hardly a classifier, but a whole graph."""
    weight = np.random.default_rng(0).normal(size=(3, 10)).astype(np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 32, 32])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])]
    graph = helper.make_graph(nodes, "student", inputs, outputs, [numpy_helper.from_array(weight, "weight")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), str(path))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with its student; the workspace beside it is shared by the tests, as by the runs of one person."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.yaml").write_text(RECIPE)
    student(folder / "student.onnx")
    return folder


@pytest.fixture
def run(kdedge: Program, folder: Path) -> Program:
    """`run(command, *options)` on the recipe."""

    def call(command: str, *options: object) -> Ended:
        return kdedge(command, folder / "tiny.yaml", "--workspace", folder / "ws", *options)

    return call


def stages(ended: Ended) -> dict[str, str]:
    """Stage -> `cached` or its seconds, from the lines on standard error."""
    found = {}
    for line in ended.err.splitlines():
        name, _, took = line.rpartition("  ")
        found[name.strip()] = took.strip()
    return found


def test_a_quiet_run_prints_one_json_object_and_nothing_else(run: Program) -> None:
    ended = run("run", "--json", "--quiet")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.count("\n") == 1
    found = json.loads(ended.out)
    assert (found["recipe"], found["verdict"], found["exit_code"]) == ("tiny", "pass", 0)
    assert Path(found["report"]).is_file()
    assert [Path(bundle).name for bundle in found["bundles"]] == ["tiny-onnxruntime-x86-fp32"]


def test_a_run_shows_people_a_table_and_machines_the_last_line(run: Program) -> None:
    run("run", "--quiet")
    ended = run("run", "--json")
    *shown, last = ended.out.splitlines()
    assert json.loads(last)["recipe"] == "tiny"
    assert any(line.startswith("artifact") for line in shown)
    assert shown[-1].startswith("report: ")
    assert "gate: pass" in shown
    assert set(stages(ended).values()) == {"cached"}
    assert "validate.validate onnxruntime-x86 fp32 on local" in stages(ended)
    silent = run("run", "--quiet")
    assert (silent.code, silent.out, silent.err) == (0, "", "")


@pytest.mark.parametrize(
    ("step", "last", "there", "absent"),
    [
        ("distill", "references.reference_outputs", "student: accuracy", "artifact"),
        ("export", "build.build onnxruntime-x86 fp32", "model.onnx", "gate"),
        ("validate", "validate.validate onnxruntime-x86 fp32 on local", "artifact", "gate: "),
        ("profile", "launches.profile onnxruntime-x86 fp32 on local", "ms", "gate: "),
        ("bundle", "pack.pack onnxruntime-x86 fp32", "gate: pass", "report: "),
        ("report", "page.write_report", "report: ", "gate: fail"),
    ],
)
def test_a_step_goes_as_far_as_its_name(run: Program, step: str, last: str, there: str, absent: str) -> None:
    ended = run(step)
    assert ended.code == 0
    assert list(stages(ended))[-1] == last
    assert there in ended.out
    assert absent not in ended.out


@pytest.mark.parametrize(
    ("rule", "code", "verdict"), [("size=<= 1 MB", 0, "pass"), ("size=<= 1 B", 1, "fail"), ("latency_median=<= 1 s", 3, "inconclusive")]
)
def test_the_exit_code_is_the_gates(run: Program, rule: str, code: int, verdict: str) -> None:
    ended = run("run", "--json", "--quiet", "--set", f"gate.{rule}")  # one launch gives no interval, and without one nothing is proven
    assert ended.code == code
    found = json.loads(ended.out)
    assert (found["verdict"], found["exit_code"]) == (verdict, code)
    assert len(found["bundles"]) == (code == 0)


def test_what_no_longer_passes_no_longer_lies_among_the_bundles(run: Program, folder: Path) -> None:
    run("run", "--quiet")
    assert len(list((folder / "ws" / "runs" / "tiny" / "bundles").iterdir())) == 1
    run("run", "--quiet", "--set", "gate.size=<= 1 B")
    assert list((folder / "ws" / "runs" / "tiny" / "bundles").iterdir()) == []


def test_another_policy_judges_what_was_measured_and_changes_nothing(run: Program, folder: Path, tmp_path: Path) -> None:
    run("run", "--quiet")
    before = {path: path.read_bytes() for path in (folder / "ws" / "runs").rglob("*") if path.is_file()}
    policy = tmp_path / "strict.yaml"
    policy.write_text('size: "<= 1 B"\n')
    ended = run("gate", "--policy", policy, "--json")
    assert ended.code == 1
    assert set(stages(ended).values()) == {"cached"}
    found = json.loads(ended.out.splitlines()[-1])
    assert (found["verdict"], found["bundles"], found["report"]) == ("fail", [], None)
    assert "size" in ended.out
    assert {path: path.read_bytes() for path in (folder / "ws" / "runs").rglob("*") if path.is_file()} == before
    assert run("gate").code == 0


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (None, "policy.yaml"),
        ("sise: '<= 1 MB'", "did you mean `size`?"),
        ("size: 1", "size"),
        ("[1, 2]", "a policy is a mapping"),
        ("{", "not valid YAML"),
        ("size: '<= 1 MB'\nsize: '<= 2 MB'", "size: the key is there already, in line 1"),
        ("size: 2020-01-01", "gate.size: `2020-01-01` is no rule"),
        ("require: 1", "gate.require: `1` names no targets"),
        ("1: 1", "a key must be a text"),
    ],
)
def test_a_policy_that_cannot_be_read_is_named(run: Program, tmp_path: Path, policy: str | None, said: str) -> None:
    if policy is not None:
        (tmp_path / "policy.yaml").write_text(policy)
    ended = run("gate", "--policy", tmp_path / "policy.yaml")
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
    assert "policy.yaml" in ended.err
    assert "defect" not in ended.err


def test_a_bundle_verifies_until_a_byte_of_it_flips(run: Program, kdedge: Program, folder: Path) -> None:
    run("run", "--quiet")
    (bundle,) = (folder / "ws" / "runs" / "tiny" / "bundles").iterdir()
    assert kdedge("verify", bundle).code == 0
    assert kdedge("inspect", bundle).out.startswith("bundle: tiny-onnxruntime-x86-fp32\n")
    assert kdedge("inspect", bundle, "--dialect", "tensorrt").out.endswith("0 violation(s) of dialect tensorrt\n")
    graph = next((bundle / "artifact").iterdir())
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    assert kdedge("verify", bundle).code == 2
    run("run", "--quiet")  # lays a whole one over it
    assert kdedge("verify", bundle, "--files-only").code == 0


def test_a_device_that_is_not_there_is_named_before_anything_runs(run: Program) -> None:
    ended = run("run", "--on", "jetson-lab-2")
    assert (ended.code, ended.out) == (2, "")
    assert "jetson-lab-2" in ended.err
