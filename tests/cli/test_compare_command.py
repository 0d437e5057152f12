"""`kdedge compare`: two artifacts side by side, judged by nobody."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from command_line import Program
from regression_world import SLOWER, World, make_world, model

from kdedge import devices
from kdedge.errors import DeviceGone


@pytest.fixture
def world(kdedge: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return make_world(tmp_path, monkeypatch)


def test_outputs_latency_and_sizes_stand_side_by_side_and_a_slow_down_fails_nothing(kdedge: Program, world: World) -> None:
    rows = np.array([[1.0, 2.0, 3.0], [-4.0, 0.0, 0.5]], np.float32)
    np.savez(world.folder / "x.npz", x=rows)
    ended = kdedge("compare", "before.onnx", "after.onnx", "--on", "slower", "--inputs", "x.npz", "--json")
    assert ended.code == 0
    told = json.loads(ended.out.splitlines()[-1])
    (output,) = told["outputs"]
    # before gives x + (0, 1, 2), after gives 2 x + (0, 1, 2): they differ by x, at most by 4.
    assert (output["name"], output["largest_difference"], told["examples"]) == ("y", 4.0, 2)
    signal, error = float(np.square(rows + np.arange(3)).sum()), float(np.square(rows).sum())
    assert output["sqnr"]["value"] == pytest.approx(10 * math.log10(signal / error), abs=1e-5)
    assert output["agreement"]["value"] == 1.0  # the last entry is the largest in both rows of both
    assert [told["sides"][side]["size_bytes"] for side in "ab"] == [world.before.stat().st_size, world.after.stat().st_size]
    (median, p90) = told["latency"]["metrics"]
    assert median["effect"]["low"] < 100 * SLOWER < median["effect"]["high"]
    assert p90["metric"] == "latency_p90"
    assert told["milliseconds"]["b"] / told["milliseconds"]["a"] == pytest.approx(1 + SLOWER, rel=0.01)
    assert "median latency: slower by" in ended.out
    assert "y [3]: largest difference 4" in ended.out


def test_equal_outputs_of_several_names_are_equal(kdedge: Program, world: World) -> None:
    model(world.folder / "one.onnx", 1.5, outputs=("y", "z"))
    ended = kdedge("compare", "one.onnx", "one.onnx", "--on", "same", "--size", "batch=3", "--json", "--quiet")
    outputs = {output["name"]: output for output in json.loads(ended.out)["outputs"]}
    assert sorted(outputs) == ["y", "z"]
    assert {output["largest_difference"] for output in outputs.values()} == {0.0}


def test_single_outputs_go_together_whatever_they_are_called(kdedge: Program, world: World) -> None:
    model(world.folder / "other.onnx", 1.0, outputs=("logits",))
    ended = kdedge("compare", "before.onnx", "other.onnx", "--on", "same", "--size", "batch=1", "--json", "--quiet")
    assert json.loads(ended.out)["outputs"][0]["largest_difference"] == 0.0


@pytest.mark.parametrize(
    ("second", "says"),
    [("absent.onnx", "absent.onnx: there is no such file"), ("wide.onnx", "input `x`"), ("two.onnx", "the outputs are y and ")],
)
def test_what_cannot_be_put_side_by_side_is_a_sentence(second: str, says: str, kdedge: Program, world: World) -> None:
    model(world.folder / "wide.onnx", 1.0, width=5)
    model(world.folder / "two.onnx", 1.0, outputs=("y", "z"))
    ended = kdedge("compare", "before.onnx", second, "--on", "same", "--size", "batch=1")
    assert (ended.code, ended.out) == (2, "")
    assert says in ended.err
    assert "Traceback" not in ended.err


def test_a_machine_that_throttled_gives_no_latency(kdedge: Program, world: World) -> None:
    ended = kdedge("compare", "before.onnx", "after.onnx", "--on", "hot", "--size", "batch=1")
    assert ended.code == 4
    assert "latency: invalid: " in ended.out
    assert "y [3]: largest difference" in ended.out


def test_a_device_that_is_lost_is_an_invalid_measurement_also_while_outputs_are_compared(
    kdedge: Program, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise DeviceGone("the board is gone")

    monkeypatch.setattr("kdedge.regression.comparing.run_job", lost)
    ended = kdedge("compare", "before.onnx", "after.onnx", "--on", "same", "--size", "batch=1")
    assert (ended.code, ended.out) == (4, "")
    assert ended.err.endswith("measurement error: before cannot be run on same: the board is gone\n")


def test_a_kept_baseline_is_compared_by_its_name_on_its_own_inputs(kdedge: Program, world: World) -> None:
    np.savez(world.folder / "x.npz", x=np.full((1, 3), 5, np.float32))
    assert kdedge("baseline", "set", "released", "before.onnx", "--inputs", "x.npz", "--on", "same").code == 0
    ended = kdedge("compare", "released", "after.onnx", "--on", "same", "--size", "batch=1", "--json", "--quiet")
    assert json.loads(ended.out)["outputs"][0]["largest_difference"] == 5.0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("check", "before.onnx", "after.onnx", "--inputs", "x.npz"), "the inputs are those of --inputs x.npz, and none are drawn: leave out one of"),
        (("compare", "before.onnx", "after.onnx", "--inputs", "x.npz"), "the inputs are those of --inputs x.npz, and none are drawn"),
        (("baseline", "set", "other", "before.onnx", "--inputs", "x.npz"), "the inputs are those of --inputs x.npz, and none are drawn"),
        (("check", "released", "released"), "drawn for .onnx files that come alone; released and released are no such files: leave it out"),
        (("compare", "released", "released"), "drawn for .onnx files that come alone; released and released are no such files: leave it out"),
        (("baseline", "set", "other", "released"), "drawn for .onnx files that come alone; released is no such file: leave it out"),
    ],
)
def test_a_size_of_which_no_use_is_made_is_refused(words: tuple[str, ...], says: str, kdedge: Program, world: World) -> None:
    np.savez(world.folder / "x.npz", x=np.full((1, 3), 5, np.float32))
    assert kdedge("baseline", "set", "released", "before.onnx", "--on", "same").code == 0
    ended = kdedge(*words, "--on", "same", "--size", "batch=2")
    assert (ended.code, ended.out) == (2, "")
    assert "--size batch=2: " in ended.err
    assert says in ended.err


def test_a_board_is_let_go_when_the_work_on_it_is_done(kdedge: Program, world: World) -> None:
    """What was set on it is undone, and others may have it."""
    for words in (("compare", "before.onnx", "after.onnx"), ("baseline", "set", "released", "before.onnx")):
        assert kdedge(*words, "--size", "batch=1", "--on", "same").code == 0
        assert not devices._opened
