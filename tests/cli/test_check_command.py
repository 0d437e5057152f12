"""`kdedge check` from its words to its exit code: every state, every way to ask for something wrong, files for CI, baselines and history."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from command_line import Program
from regression_world import World, make_world, model

# Launches of made-up times cost nothing, so that the usual ones are taken.
BOTH = ("before.onnx", "after.onnx", "--size", "batch=1")


@pytest.fixture
def world(kdedge: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The folder in which `kdedge` runs."""
    return make_world(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("device", "code", "says"),
    [
        ("same", 0, "equivalent on same: median is not slower by 3 %"),
        ("slower", 1, "regressed on slower: median is slower by more than 3 %"),
        ("loud", 3, "inconclusive on loud: median cannot be told from 3 %"),
        ("hot", 4, "the CPU throttled because of heat"),
    ],
)
def test_the_exit_code_is_the_verdict(device: str, code: int, says: str, kdedge: Program, world: World) -> None:
    ended = kdedge("check", *BOTH, "--on", device, "--history", "none")
    assert ended.code == code
    assert says in ended.out
    assert "Traceback" not in ended.err


def test_what_became_faster_passes(kdedge: Program, world: World) -> None:
    ended = kdedge("check", "after.onnx", "before.onnx", "--size", "batch=1", "--on", "slower", "--history", "none")
    assert ended.code == 0
    assert ended.out.startswith("improved on slower")


def test_throttling_is_no_regression_even_where_the_candidate_is_slower(kdedge: Program, world: World) -> None:
    (world.folder / "devices.yaml").write_text("hot: {transport: 'simulated:throttle', set: {milliseconds: 2.0, throttle_at: 0.0}}")
    ended = kdedge("check", *BOTH, "--on", "hot", "--history", "none", "--json", "--quiet")
    assert ended.code == 4
    assert json.loads(ended.out)["state"] == "invalid"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((*BOTH, "--margin", "fast"), "--margin fast: a share such as 3% or 0.03"),
        ((*BOTH, "--margin", "0%"), "--margin 0%"),
        ((*BOTH, "--alpha", "0.7"), "--alpha 0.7: it lies between 0 and 0.5"),
        ((*BOTH, "--pairs", "7"), "--pairs 7: an even number"),
        ((*BOTH, "--pairs", "4"), "the fewest that can decide"),
        ((*BOTH, "--looks", "0"), "--looks 0: at least 1"),
        ((*BOTH, "--seed", "-1"), "--seed -1: a whole number from 0"),
        ((*BOTH, "--time-budget", "soon"), "--time-budget soon: a time such as 60s"),
        ((*BOTH, "--on", "nowhere:x"), "nowhere"),
        (("before.onnx", "absent.onnx"), "absent.onnx: there is no such file, bundle or folder of a run, no baseline of this name"),
        (("released", "after.onnx"), "released: there is no such file"),
        (("released", "after.onnx"), "set a baseline by `kdedge baseline set released ARTIFACT`"),
        (("before.onnx", "wide.onnx", "--size", "batch=1"), "input `x`"),
    ],
)
def test_what_cannot_be_done_is_a_sentence_and_exit_code_2(arguments: tuple[str, ...], says: str, kdedge: Program, world: World) -> None:
    model(world.folder / "wide.onnx", 1.0, width=5)
    ended = kdedge("check", "--history", "none", *(("--on", "same") if "--on" not in arguments else ()), *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert says in ended.err
    assert "Traceback" not in ended.err


def test_other_options_are_refused_as_invalid_unless_allowed(kdedge: Program, world: World) -> None:
    assert kdedge("baseline", "set", "released", "before.onnx", "--size", "batch=1", "--on", "same").code == 0
    record = world.folder / ".kdedge" / "baselines" / "released" / "baseline.json"
    changed = json.loads(record.read_text())
    changed["options"]["threads"] = 2
    record.write_text(json.dumps(changed))
    refused = kdedge("check", "released", "after.onnx", "--size", "batch=1", "--on", "same", "--history", "none")
    assert refused.code == 4
    assert "option threads: 2 and 1" in refused.out
    allowed = kdedge("check", "released", "after.onnx", "--size", "batch=1", "--on", "same", "--history", "none", "--allow-env-mismatch")
    assert allowed.code == 0
    assert "which was allowed" in allowed.out


def test_files_for_ci_agree_with_the_json(kdedge: Program, world: World) -> None:
    files = ("--junit", "out/junit.xml", "--markdown", "out/summary.md", "--html", "out/check.html")
    ended = kdedge("check", *BOTH, "--on", "slower", "--history", "none", "--json", "--quiet", *files)
    told = json.loads(ended.out)
    assert (told["schema"], told["state"], told["exit_code"], ended.code) == (1, "regressed", 1, 1)
    assert [test["metric"] for test in told["cells"][0]["first"]["metrics"]] == ["latency_median", "latency_p90"]
    suite = ElementTree.parse(world.folder / "out" / "junit.xml").getroot()
    assert (suite.get("failures"), suite.get("errors"), suite.get("skipped")) == ("1", "0", "0")
    assert "## kdedge check: regressed" in (world.folder / "out" / "summary.md").read_text()
    page = (world.folder / "out" / "check.html").read_text()
    assert "its times are made up" in page  # of a simulated device


def test_a_check_that_is_broken_off_writes_its_files_all_the_same(kdedge: Program, world: World) -> None:
    (world.folder / "devices.yaml").write_text("dead: {transport: 'simulated:disconnects', set: {disconnect_share: 1.0, milliseconds: 2.0}}")
    files = ("--junit", "out/junit.xml", "--markdown", "out/summary.md", "--html", "out/check.html")
    ended = kdedge("check", *BOTH, "--on", "dead", *files)
    assert ended.code == 4
    assert "invalid on dead: the baseline before cannot be launched: device `dead`: the connection broke" in ended.out
    suite = ElementTree.parse(world.folder / "out" / "junit.xml").getroot()
    assert (suite.get("failures"), suite.get("errors"), suite.get("skipped")) == ("0", "1", "0")
    assert "## kdedge check: invalid" in (world.folder / "out" / "summary.md").read_text()
    assert (world.folder / "out" / "check.html").is_file()


def test_several_devices_are_one_family_with_the_worst_state(kdedge: Program, world: World) -> None:
    ended = kdedge("check", *BOTH, "--on", "same", "--on", "hot", "--history", "none", "--json", "--quiet")
    told = json.loads(ended.out)
    assert [(cell["device"], cell["state"]) for cell in told["cells"]] == [("same", "equivalent"), ("hot", "invalid")]
    assert ended.code == 4


def test_a_baseline_is_kept_listed_shown_and_run_again(kdedge: Program, world: World) -> None:
    assert kdedge("baseline", "set", "released", "before.onnx", "--size", "batch=1", "--on", "same").code == 0
    world.before.unlink()  # what was kept is the artifact itself
    assert kdedge("baseline", "list").out.startswith("released: before set ")
    shown = json.loads(kdedge("baseline", "show", "released", "--json").out)
    assert (shown["artifact"], shown["device"], shown["batch"]) == ("before", "same", 1)
    ended = kdedge("check", "released", "after.onnx", "--size", "batch=1", "--on", "slower", "--history", "none")
    assert ended.code == 1
    assert kdedge("baseline", "show", "absent").code == 2


def test_the_history_knows_the_noise_of_the_next_check(kdedge: Program, world: World) -> None:
    first = json.loads(kdedge("check", *BOTH, "--on", "same", "--json", "--quiet").out)
    second = json.loads(kdedge("check", *BOTH, "--on", "same", "--json", "--quiet").out)
    assert first["cells"][0]["first"]["detectable_before"] is None
    assert 0.03 < second["cells"][0]["first"]["detectable_before"] < 0.06
    shown = json.loads(kdedge("history", "after", "--json").out)
    assert [len(trend["points"]) for trend in shown] == [2]
    assert shown[0]["key"]["device"] == "same"


def test_a_budget_that_is_too_short_says_how_long_it_takes(kdedge: Program, world: World) -> None:
    ended = kdedge("check", *BOTH, "--on", "same", "--history", "none", "--time-budget", "1s", "--json", "--quiet")
    told = json.loads(ended.out)["cells"][0]["first"]
    assert ended.code == 3
    assert "are too short: the fewest pairs that can decide are" in told["reason"]


@pytest.mark.parametrize(
    ("history", "kept"), [("h.sqlite", "its finished pairs of launches are kept in the history"), ("none", "nothing of it is kept")]
)
def test_an_interrupted_check_says_what_is_kept_of_it(
    history: str, kept: str, kdedge: Program, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kdedge.latency.check.run_launch", stopped)
    ended = kdedge("check", *BOTH, "--on", "same", "--history", history)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.endswith(f"interrupted: there is no verdict; {kept}; the same command checks anew\n")
    assert kdedge("compare", *BOTH, "--on", "same").err.endswith("interrupted: nothing of it is kept; the same command compares anew\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_file_that_cannot_be_written_costs_no_verdict(kdedge: Program, world: World) -> None:
    ended = kdedge("check", *BOTH, "--on", "slower", "--history", "none", "--junit", "/dev/full", "--json")
    assert ended.code == 2
    assert ended.out.startswith("regressed on slower: ")
    assert json.loads(ended.out.splitlines()[-1])["state"] == "regressed"
    assert ended.err.endswith("workspace error: /dev/full cannot be written: No space left on device\n")


def test_a_reader_that_has_gone_costs_no_file(kdedge: Program, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("kdedge.regression.outputs.lines_of", gone)
    monkeypatch.setattr("kdedge.cli.errors.unread", lambda: sys.exit(2))  # it would silence the tests too
    assert kdedge("check", *BOTH, "--on", "slower", "--history", "none", "--junit", "junit.xml").code == 2
    assert "regressed" in (world.folder / "junit.xml").read_text()


def test_where_no_history_can_be_kept_it_says_how_to_do_without(kdedge: Program, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    ended = kdedge("check", *BOTH, "--on", "same")
    assert (ended.code, ended.out) == (2, "")
    assert "a history of launches (`--history none` does without) needs `sqlalchemy`" in ended.err
    assert "pip install 'kdedge[history]'" in ended.err
    assert kdedge("check", *BOTH, "--on", "same", "--history", "none").code == 0


def test_a_job_that_ci_ends_leaves_what_ctrl_c_leaves(kdedge: Program, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[object] = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("not kdedge"))  # else the signal would end the tests
    monkeypatch.setattr("kdedge.latency.check.run_launch", lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        for command in ("check", "compare"):
            ended = kdedge(command, *BOTH, "--on", "same")
            assert (ended.code, heard) == (2, [])
            assert "interrupted: " in ended.err
        signal.raise_signal(signal.SIGTERM)  # the handler of before is back
        assert heard == ["not kdedge"]
    finally:
        signal.signal(signal.SIGTERM, before)
