"""`kdedge check` on the bundles of a digits run: equal to themselves, slower with one convolution doubled, and invalid where the device throttles.

The devices are simulated, with what an iteration takes measured here: the fastest of hundreds of iterations in two processes, which a busy machine
leaves as it is, while launches that wait for a core would rightly be no launches. The student is wide, so that its widest convolution is most of its
work: doubled, it takes about half as long again, and the margin of 15 % is far below that.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from command_line import Ended
from onnx import helper, numpy_helper
from small_recipes import kdedge

ROOT = Path(__file__).parents[2]
SMALL = (
    "data.limit_train=128",
    "data.limit_test=64",
    "data.calibration=32",
    "teacher.arguments.width=8",
    "teacher.train.epochs=1",
    "student.arguments={width: 64, depth: 0, stages: 2}",
    "distill.epochs=1",
    "export=[{target: onnxruntime-x86, precision: [fp32]}, {target: openvino, precision: [fp16]}]",
    "profile={launches: 1, warmup_seconds: 0.05, min_seconds: 0.1}",
    "gate={size: '<= 5 MB'}",
)
FP32 = "onnxruntime-x86-fp32"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small digits run, with two bundles."""
    workspace = tmp_path_factory.mktemp("digits")
    changes = [word for change in SMALL for word in ("--set", change)]
    ended = kdedge("run", ROOT / "examples" / "digits.yaml", "--workspace", workspace, "--json", "--quiet", *changes)
    assert ended.code == 0, ended.err + ended.out
    bundles = [Path(bundle) for bundle in json.loads(ended.out.splitlines()[-1])["bundles"]]
    assert len(bundles) == 2
    return bundles[0].parents[1]


def check(run: Path, *arguments: object, on: str = "simulated:quiet", margin: str = "15%") -> tuple[Ended, dict[str, Any]]:
    ended = kdedge("check", *arguments, "--on", on, "--margin", margin, "--workspace", run / "checks", "--json", "--quiet")
    assert "Traceback" not in ended.err
    return ended, json.loads(ended.out)


def bundle(run: Path) -> Path:
    (found,) = (run / "bundles").glob(f"*{FP32}")
    return found


def doubled(source: Path, target: Path) -> None:
    """The model with the convolution of most weights done twice, W = 3/4 W + 1/4 W: equal twins a runtime would do once."""
    model = onnx.load(source)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    place, node = max(
        ((place, node) for place, node in enumerate(model.graph.node) if node.op_type == "Conv"), key=lambda each: weights[each[1].input[1]].size
    )
    parts = []
    for name, share in (("most", 0.75), ("rest", 0.25)):
        inputs = [node.input[0]]
        for weight in node.input[1:]:
            model.graph.initializer.append(numpy_helper.from_array(weights[weight] * np.float32(share), f"{weight}.{name}"))
            inputs.append(f"{weight}.{name}")
        part = helper.make_node("Conv", inputs, [f"{node.output[0]}.{name}"], name=f"{node.name}.{name}")
        part.attribute.extend(node.attribute)
        parts.append(part)
    added = helper.make_node("Add", [part.output[0] for part in parts], list(node.output), name=f"{node.name}.added")
    nodes = [*model.graph.node[:place], *parts, added, *model.graph.node[place + 1 :]]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, target)


def answers(model: Path, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: image})
    return np.asarray(found)


def test_the_bundles_of_a_run_are_equivalent_to_themselves(run: Path) -> None:
    ended, told = check(run, run, run, margin="3%")
    assert ended.code == 0, told
    assert [(cell["key"], cell["state"]) for cell in told["cells"]] == [
        ("onnxruntime-x86/fp32", "equivalent"),
        ("openvino/fp16", "equivalent"),
    ]


def test_a_convolution_that_is_doubled_is_a_regression(run: Path, tmp_path: Path) -> None:
    (source,) = (bundle(run) / "artifact").glob("*.onnx")
    heavier = tmp_path / "heavier.onnx"
    doubled(source, heavier)
    image = np.random.default_rng(0).random((1, *onnxruntime.InferenceSession(str(source)).get_inputs()[0].shape[1:]), dtype=np.float32)
    np.testing.assert_allclose(answers(heavier, image), answers(source, image), rtol=1e-3, atol=1e-4)

    ended, told = check(run, bundle(run), heavier)
    assert (ended.code, told["state"]) == (1, "regressed"), told["cells"][0]["first"]["reason"]
    median = told["cells"][0]["first"]["metrics"][0]
    assert (median["metric"], median["state"]) == ("latency_median", "regressed")
    assert median["bounds"][0] > 15
    # The other way round it is no regression.
    ended, told = check(run, heavier, bundle(run))
    assert (ended.code, told["state"]) == (0, "improved")


def test_a_device_that_throttles_gives_no_verdict(run: Path) -> None:
    ended, told = check(run, bundle(run), bundle(run), on="simulated:throttle")
    assert (ended.code, told["state"]) == (4, "invalid")
    assert "throttled" in told["cells"][0]["first"]["reason"]
