"""A check from two names to a verdict: what is paired with what, a family of cells, and what the history keeps and gives."""

from __future__ import annotations

import errno
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from regression_world import SLOW, World, checked, make_world, model, sha256

from kdedge.errors import DeviceGone, KdedgeError, WorkspaceError
from kdedge.latency.check import Arm, Checked, CheckSettings
from kdedge.latency.history.store import History, open_history
from kdedge.latency.launches import run_launch
from kdedge.latency.looks import Looks
from kdedge.latency.pairs import MEDIAN, Pair, Timed
from kdedge.latency.power import detectable
from kdedge.latency.verdicts import CheckRule, judge
from kdedge.regression import checking
from kdedge.regression.arms import WHOLE, Given, arms_of
from kdedge.regression.baselines import set_baseline
from kdedge.regression.checking import CheckReport, run_check
from kdedge.regression.junit import junit_xml
from kdedge.regression.markdown import markdown
from kdedge.regression.outputs import lines_of
from kdedge.runtimes.job import LaunchRule

QUICK = CheckSettings(pairs=20, looks=1, launch=LaunchRule(warmup_seconds=0.0, warmup_iterations=1, min_seconds=0.0, min_iterations=64))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return make_world(tmp_path / "world", monkeypatch)


def run(
    world: World, *devices: str, history: History | None = None, sides: tuple[str, str] | None = None, settings: CheckSettings = QUICK
) -> CheckReport:
    work = world.folder / f"work-{len(list(world.folder.glob('work-*')))}"
    names = sides or (str(world.before), str(world.after))
    drawn = any(name.endswith(".onnx") for name in names)
    given = Given(sizes=("batch=1",) if drawn else ())
    return run_check(*names, devices, settings, work, given=given, store=world.folder / "store", history=history)


def a_run(folder: Path, bundle: Path, *cells: tuple[str, str]) -> Path:
    """A run's folder with a bundle for each target and precision."""
    from kdedge.bundle.manifest import manifest_bytes

    for number, (target, precision) in enumerate(cells):
        root = folder / "bundles" / f"bundle-{number}"
        shutil.copytree(bundle, root)
        manifest = json.loads((root / "manifest.json").read_text())
        manifest["artifact"].update(target=target, precision=precision)
        (root / "manifest.json").write_bytes(manifest_bytes(manifest))
    return folder


def test_two_artifacts_are_compared_whatever_they_are_called(world: World) -> None:
    report = run(world, "slower")
    assert [(cell.key, cell.device, cell.kind, cell.state) for cell in report.cells] == [(WHOLE, "slower", "simulated", "regressed")]
    assert (report.exit_code, report.missing) == (1, ())
    told = json.loads(json.dumps(report.as_json()))
    assert (told["schema"], told["state"], told["exit_code"]) == (1, "regressed", 1)
    assert told["cells"][0]["first"]["baseline"]["name"] == "before"


def test_a_flagged_cell_among_several_is_measured_again(world: World) -> None:
    report = run(world, "same", "slower")
    same, slower = report.cells
    assert (same.state, same.again) == ("equivalent", None)
    assert slower.again is not None
    assert slower.state == "regressed"
    assert slower.decisive is slower.again
    assert "flagged, and measured again: regressed" in slower.notes
    effect = slower.first.verdict.tests[0].effect
    assert f"the first measurement: latency_median slower by {effect}, p {slower.adjusted_p:.2g} by Holm over 2 cells" in slower.notes
    assert slower.adjusted_p <= 2 * slower.first.verdict.p_regressed
    assert report.exit_code == 1


def test_a_clear_slow_down_is_found_among_many_cells_at_the_first_look(world: World) -> None:
    report = run(world, "same", "slower", settings=replace(QUICK, pairs=16, looks=2, alpha=0.01))
    same, slower = report.cells
    assert (same.state, slower.state) == ("equivalent", "regressed")
    # Both looks and both metrics of both cells share alpha.
    assert slower.first.verdict.rule.looks.alpha == pytest.approx(0.005)
    assert slower.adjusted_p <= 0.01


def measured(monkeypatch: pytest.MonkeyPatch, *signs: str) -> list[CheckSettings]:
    """Let checks find pairs beyond (`+`) and within (`-`) a margin of 3 %, the nearest first: a check a string. Returns what each was asked for."""
    asked: list[CheckSettings] = []

    def found(device: object, baseline: Arm, candidate: Arm, settings: CheckSettings, *_: object, **__: object) -> Checked:
        beyond = [sign * (0.01 + 0.001 * number) for number, sign in enumerate(1 if letter == "+" else -1 for letter in signs[len(asked)])]
        asked.append(settings)
        looks = Looks((len(beyond),), settings.alpha, 1)
        pairs = [Pair(number, ("AB", "BA")[number % 2], Timed(1.0), Timed(1.03 * math.exp(value))) for number, value in enumerate(beyond)]
        return Checked(judge(pairs, CheckRule(looks, settings.margin, (MEDIAN,))), "made up", baseline, candidate, (), 1.0)

    monkeypatch.setattr(checking, "check", found)
    return asked


@pytest.mark.parametrize(("again", "state"), [("+" * 8, "regressed"), ("-" * 8, "inconclusive")])
def test_beside_a_clear_cell_a_weaker_one_is_flagged_by_holm(again: str, state: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight pairs: 1/256 where all are beyond the margin, 2/256 where all but the nearest are. Of two cells at 1 % the one is below 1 % / 2, and once
    it is rejected the other is held against 1 %."""
    asked = measured(monkeypatch, "+" * 8, "-" + "+" * 7, "+" * 8, again)
    report = run(world, "same", "slower")
    assert [cell.adjusted_p for cell in report.cells] == [2 / 256, 2 / 256]
    assert [cell.first.verdict.state for cell in report.cells] == ["regressed", "inconclusive"]
    assert [cell.state for cell in report.cells] == ["regressed", state]
    # A repeat is a check of its own: at the whole alpha, and another seed says who begins.
    assert [(settings.alpha, settings.seed) for settings in asked] == [(0.005, 0), (0.005, 0), (0.01, 1), (0.01, 1)]


def test_without_a_clear_cell_a_weaker_one_is_not_flagged(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, "-" * 8, "-" + "+" * 7)
    report = run(world, "same", "slower")
    assert [(cell.state, cell.again) for cell in report.cells] == [("equivalent", None), ("inconclusive", None)]
    assert report.cells[1].adjusted_p == 4 / 256


def test_cells_that_are_too_many_for_their_pairs_are_refused_before_anything_runs(world: World) -> None:
    with pytest.raises(KdedgeError, match=r"2 cells share alpha 0.01, and with 8 pairs none could be decided: the fewest are 10") as error:
        run(world, "same", "slower", settings=replace(QUICK, pairs=8))
    assert error.value.exit_code == 2
    assert run(world, "same", settings=replace(QUICK, pairs=8)).state == "equivalent"


def test_the_worst_cell_is_the_state_of_all(world: World) -> None:
    assert run(world, "same", "hot").state == "invalid"
    assert run(world, "same", "loud").state == "inconclusive"
    assert run(world, "hot", "slower").exit_code == 1


def test_bundles_of_runs_are_paired_by_target_and_precision(whole_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(tmp_path / "world", monkeypatch)
    (world.folder / "devices.yaml").write_text("same: {transport: 'simulated:quiet', set: {milliseconds: 2.0}}")
    cpu, gpu = ("onnxruntime-x86", "fp32"), ("onnxruntime-x86", "int8")
    before, after = a_run(tmp_path / "before", whole_bundle, cpu, gpu), a_run(tmp_path / "after", whole_bundle, cpu, ("openvino", "fp32"))
    report = run(world, "same", sides=(str(before), str(after)))
    assert [cell.key for cell in report.cells] == ["onnxruntime-x86/fp32"]
    assert report.missing == (
        f"onnxruntime-x86/int8 stands in {before} only",
        f"openvino/fp32 stands in {after} only",
    )
    assert (report.lost, report.cells[0].state) == (("onnxruntime-x86/int8",), "equivalent")


def test_an_artifact_that_is_lost_is_never_fine_and_one_that_is_new_is(whole_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(tmp_path / "world", monkeypatch)
    (world.folder / "devices.yaml").write_text("same: {transport: 'simulated:quiet', set: {milliseconds: 2.0}}")
    one, two = ("onnxruntime-x86", "fp32"), ("onnxruntime-x86", "int8")
    small, large = a_run(tmp_path / "small", whole_bundle, one), a_run(tmp_path / "large", whole_bundle, one, two)
    assert run(world, "same", sides=(str(small), str(large))).exit_code == 0
    report = run(world, "same", sides=(str(large), str(small)))
    assert (report.state, report.exit_code) == ("inconclusive", 3)
    assert '<skipped message="the candidate has no onnxruntime-x86/int8, which the baseline has" />' in junit_xml(report)


def test_a_run_of_the_workspace_is_known_by_its_name(whole_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(tmp_path / "world", monkeypatch)
    (world.folder / "devices.yaml").write_text("same: {transport: 'simulated:quiet', set: {milliseconds: 2.0}}")
    cpu, gpu = ("onnxruntime-x86", "fp32"), ("onnxruntime-x86", "int8")
    before, after = a_run(tmp_path / "before", whole_bundle, cpu, gpu), a_run(tmp_path / "after", whole_bundle, cpu)
    a_run(world.folder / "runs" / "kept", whole_bundle, cpu)
    assert run(world, "same", sides=("kept", str(before / "bundles" / "bundle-0"))).state == "equivalent"
    with pytest.raises(KdedgeError, match="and no run with bundles of it"):
        run(world, "same", sides=("../runs/kept/..", str(after)))
    apart = a_run(tmp_path / "apart", whole_bundle, ("tensorrt", "fp16"), ("tensorrt", "int8"))
    with pytest.raises(KdedgeError, match="have nothing in common: onnxruntime-x86/fp32, onnxruntime-x86/int8 and tensorrt/fp16, tensorrt/int8"):
        run(world, "same", sides=(str(before), str(apart)))


def test_a_bundle_is_held_against_its_own_kind_in_a_run(whole_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(tmp_path / "world", monkeypatch)
    one, two = ("onnxruntime-x86", "fp32"), ("onnxruntime-x86", "int8")
    large = a_run(tmp_path / "large", whole_bundle, one, two)
    bundle = str(large / "bundles" / "bundle-1")
    set_baseline("released", arms_of(Path(bundle), Given(), world.folder / "in")[WHOLE], "same", {}, world.folder / "store")
    for sides in ((bundle, str(large)), (str(large), bundle), ("released", str(large))):
        report = run(world, "same", sides=sides)
        assert [(cell.key, cell.state) for cell in report.cells] == [("onnxruntime-x86/int8", "equivalent")]
        assert (report.missing, report.lost, report.exit_code) == ((), (), 0)
    with pytest.raises(KdedgeError, match=r"nothing in common: before and onnxruntime-x86/fp32, .*; name a single bundle to compare it with"):
        run(world, "same", sides=(str(world.before), str(large)))


def test_a_baseline_that_was_set_elsewhere_runs_again_and_the_report_says_what_is_other(world: World) -> None:
    arm = arms_of(world.before, Given(sizes=("batch=1",)), world.folder / "in")[WHOLE]
    set_baseline("released", arm, "other", {"cpu": "another"}, world.folder / "store")
    report = run(world, "same", sides=("released", str(world.after)))
    assert report.state == "equivalent"
    assert any(note.startswith("the baseline was set with cpu another, here it is ") for note in report.cells[0].notes)
    with pytest.raises(KdedgeError, match=r"no baseline of this name \(released\)"):
        run(world, "same", sides=("absent", str(world.after)))


def test_inputs_of_the_baseline_time_both(world: World) -> None:
    model(world.folder / "wide.onnx", 1.0, width=4)
    with pytest.raises(KdedgeError, match="input `x`"):
        run(world, "same", sides=(str(world.before), str(world.folder / "wide.onnx")))


def test_the_history_keeps_every_launch_and_tells_the_next_check_its_noise(world: World) -> None:
    history = open_history(str(world.folder / "history.sqlite"))
    first = run(world, "same", history=history)
    assert first.cells[0].first.verdict.detectable_before is None
    (session,) = history.sessions(kind="check")
    assert session.verdict == "equivalent"
    assert len(session.launches) == 40
    assert {launch.arm for launch in session.launches} == {"A", "B"}
    assert session.told["candidate"] == first.cells[0].first.candidate.sha256
    second = run(world, "same", history=history)
    noise = first.cells[0].first.verdict.noise
    assert noise is not None
    known = detectable(noise, 20, 0.03, first.cells[0].first.verdict.rule.looks.share)
    assert second.cells[0].first.verdict.detectable_before == pytest.approx(known)
    # Another device says nothing of this one, and another line nothing of this line.
    assert run(world, "slower", history=history).cells[0].first.verdict.detectable_before is None
    backwards = run(world, "same", history=history, sides=(str(world.after), str(world.folder / "before.onnx")))
    assert backwards.cells[0].first.verdict.detectable_before is not None


class Ends:
    """In place of `run_launch`: after some launches, this happens instead."""

    def __init__(self, launches: int, how: BaseException) -> None:
        self.left, self.how, self.run = launches, how, run_launch

    def __call__(self, *arguments: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise self.how
        return self.run(*arguments)


@pytest.mark.parametrize(
    ("how", "ends", "says"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt, "interrupted"),
        (OSError(errno.ENOSPC, "No space left on device"), WorkspaceError, "a launch cannot be kept in .*: No space left on device; make room there"),
    ],
)
def test_a_check_that_is_broken_off_keeps_the_launches_that_had_ended(
    how: BaseException, ends: type[BaseException], says: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = open_history(str(world.folder / "history.sqlite"))
    monkeypatch.setattr("kdedge.latency.check.run_launch", Ends(8, how))  # two pilots and three pairs
    with pytest.raises(ends):
        run(world, "same", history=history)
    (session,) = history.sessions()
    assert (session.verdict, len(session.launches)) == ("invalid", 6)
    assert re.match(says, session.told["reason"])
    assert all(samples is not None for samples in history.samples(session.id))


@pytest.mark.parametrize("how", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_check_that_is_broken_off_and_cannot_be_kept_says_so(how: BaseException, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise WorkspaceError("the history is full")

    history = open_history(str(world.folder / "history.sqlite"))
    monkeypatch.setattr(type(history), "add", full)
    monkeypatch.setattr("kdedge.latency.check.run_launch", Ends(8, how))
    with pytest.raises((WorkspaceError, KeyboardInterrupt)) as ended:  # a KeyboardInterrupt would end the tests
        run(world, "same", history=history)
    assert re.search(r"(^interrupted|make room there.*); this check is not kept: the history is full$", str(ended.value))


def test_launches_of_a_file_that_was_changed_are_not_kept_either_where_the_check_is_broken_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    class Replaced(Ends):
        def __call__(self, *arguments: Any) -> Any:
            if self.left == 0:
                model(world.after, 3.0)
            return super().__call__(*arguments)

    history = open_history(str(world.folder / "history.sqlite"))
    monkeypatch.setattr("kdedge.latency.check.run_launch", Replaced(8, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        run(world, "same", history=history)
    (session,) = history.sessions()
    assert session.launches == ()
    assert session.told["reason"] == "after.onnx was changed while it was checked: nobody knows which of its versions was timed"


def test_a_check_whose_device_is_lost_keeps_the_launches_that_had_ended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    history = open_history(str(world.folder / "history.sqlite"))
    monkeypatch.setattr("kdedge.latency.check.run_launch", Ends(8, DeviceGone("the board is gone")))
    report = run(world, "same", history=history)
    assert (report.state, report.cells[0].first.verdict.counted) == ("invalid", ())
    assert "the device was lost after 3 pairs" in report.cells[0].first.verdict.reason
    assert len(report.cells[0].first.launches) == len(history.sessions()[0].launches) == 6


def test_a_metric_that_is_too_skewed_to_be_flagged_is_not_named_as_what_was() -> None:
    found = checked(SLOW)
    median, p90 = found.verdict.tests
    found = replace(found, verdict=replace(found.verdict, tests=(median, replace(p90, p_regressed=0.0, slower=3, faster=7))))
    assert checking._flag(found, 0.001, 2).startswith("the first measurement: latency_median slower by ")


def test_a_device_that_is_asked_for_twice_is_one_cell(world: World) -> None:
    report = run(world, "slower", "slower")
    assert [(cell.device, cell.again) for cell in report.cells] == [("slower", None)]


def test_the_example_of_the_page_is_what_is_printed(world: World) -> None:
    page = (Path(__file__).parents[2] / "docs" / "latency.md").read_text(encoding="utf-8")
    (setting,) = re.findall(r"`(bench: .+)`", page)
    (shown,) = re.findall(r"\$ kdedge check .+ --pairs 24\n(.+?)\n```", page, re.DOTALL)
    (plot,) = re.findall(r"```text\n( +-2\.2 %.+?)\n```", page, re.DOTALL)
    (world.folder / "devices.yaml").write_text(setting.replace("RELEASED", sha256(world.before)).replace("REBUILT", sha256(world.after)))
    report = run(world, "bench", settings=CheckSettings(pairs=24))
    assert "\n".join(lines_of(report)) == shown
    assert plot in markdown(report)


def test_a_device_that_is_lost_costs_its_own_cell_alone(world: World) -> None:
    devices = (world.folder / "devices.yaml").read_text()
    (world.folder / "devices.yaml").write_text(
        devices + "\ndead: {transport: 'simulated:disconnects', set: {disconnect_share: 1.0, milliseconds: 2.0}}"
    )
    report = run(world, "dead", "same")
    assert [(cell.device, cell.state) for cell in report.cells] == [("dead", "invalid"), ("same", "equivalent")]
    assert "the baseline before cannot be launched" in report.cells[0].first.verdict.reason
    assert report.exit_code == 4
    json.dumps(report.as_json())


def test_a_board_that_is_away_when_a_check_begins_costs_its_own_cell_alone_and_no_launch(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(name: str, settings: object) -> None:
        raise DeviceGone(f"device `{name}`: there is no host of that name")

    monkeypatch.setattr("kdedge.devices.ssh.open_device", away)
    history = open_history(str(world.folder / "history.sqlite"))
    report = run(world, "ssh:nano", "same", history=history)
    assert [(cell.device, cell.kind, cell.state) for cell in report.cells] == [("ssh:nano", "ssh", "invalid"), ("same", "simulated", "equivalent")]
    reason = "not reached when the run began (gone): device `ssh:nano`: there is no host of that name"
    assert report.cells[0].first.verdict.reason == reason
    assert report.exit_code == 4
    assert [session.device for session in history.sessions()] == ["same"]  # of a machine that is not known nothing is kept
    assert reason in junit_xml(report)
    json.dumps(report.as_json())
    with pytest.raises(DeviceGone, match=r"^device `ssh:nano`: there is no host of that name$"):
        run(world, "ssh:nano")


def test_a_history_that_is_gone_costs_no_verdict(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    history = open_history(str(world.folder / "history.sqlite"))

    def lost(session: object) -> None:
        raise WorkspaceError("the history cannot be reached")

    monkeypatch.setattr(history, "add", lost)
    report = run(world, "slower", history=history)
    assert report.state == "regressed"
    assert report.cells[0].notes == ("this check is not kept: the history cannot be reached",)


def test_a_history_that_cannot_be_read_costs_no_verdict_either(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may hold it for longer than anybody waits, after the first cells were measured for minutes."""
    history = open_history(str(world.folder / "history.sqlite"))

    def locked(**_: object) -> None:
        raise WorkspaceError("the history: database is locked")

    monkeypatch.setattr(history, "sessions", locked)
    report = run(world, "same", "slower", history=history)
    assert [cell.state for cell in report.cells] == ["equivalent", "regressed"]
    assert "the noise of earlier checks is not known: the history: database is locked" in report.cells[0].notes
    monkeypatch.undo()
    assert len(history.sessions()) == 3


def test_a_folder_of_the_name_of_a_baseline_does_not_hide_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    arm = arms_of(world.before, Given(sizes=("batch=1",)), world.folder / "in")[WHOLE]
    set_baseline("released", arm, "same", {}, world.folder / "store")
    (world.folder / "released").mkdir()
    monkeypatch.chdir(world.folder)
    assert run(world, "same", sides=("released", str(world.after))).state == "equivalent"


def test_a_kept_baseline_brings_the_inputs_of_both(world: World) -> None:
    np.savez(world.folder / "x.npz", x=np.zeros((1, 3), np.float32))
    arm = arms_of(world.before, Given(world.folder / "x.npz"), world.folder / "in")[WHOLE]
    set_baseline("released", arm, "same", {}, world.folder / "store")
    (world.folder / "net.xml").write_text("<net/>")
    (world.folder / "net.bin").write_bytes(b"weights")
    settings = replace(QUICK, allow_mismatch=True)
    # An OpenVINO file tells no inputs to draw: it gets the baseline's.
    report = run(world, "same", sides=("released", str(world.folder / "net.xml")), settings=settings)
    assert report.state == "equivalent"
    with pytest.raises(KdedgeError, match="released brings its own inputs"):
        run_check(
            "released",
            str(world.after),
            ("same",),
            QUICK,
            world.folder / "w",
            given=Given(world.folder / "x.npz"),
            store=world.folder / "store",
        )


@pytest.mark.parametrize("how", ["written", "replaced", "removed"])
def test_a_model_that_is_built_anew_while_it_is_checked_gets_no_verdict(how: str, world: World) -> None:
    def build(sentence: str) -> None:
        if how == "replaced":
            model(world.folder / "new.onnx", 3.0).replace(world.after)
        elif how == "written":
            model(world.after, 3.0)
        else:
            world.after.unlink()

    given = Given(sizes=("batch=1",))
    report = run_check(
        str(world.before), str(world.after), ("same",), QUICK, world.folder / "work", given=given, store=world.folder / "store", told=build
    )
    assert (report.state, report.exit_code) == ("invalid", 4)
    assert "after.onnx was changed while it was checked" in report.cells[0].first.verdict.reason
    assert report.cells[0].first.launches == ()
