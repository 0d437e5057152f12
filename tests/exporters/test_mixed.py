"""The search for `mixed` with a real target: candidates are built, validated and launched here; and what happens when it is killed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_graphs import calibrated, readers, residual

from kdedge.artifact import (
    CalibratedRanges,
    Dimension,
    FloatGraph,
    ImageEncoder,
    ImportPath,
    Lineage,
    ModelFiles,
    PreparedData,
    SplitSource,
    TensorSpec,
)
from kdedge.errors import Disconnected, ExportError
from kdedge.exporters.asked import reasons_in
from kdedge.exporters.build import build
from kdedge.exporters.dialects import DIALECTS
from kdedge.exporters.model_file import content_hash, load_model, save_model
from kdedge.exporters.quantize import mixed as module
from kdedge.exporters.quantize.bench import Bench, Timed
from kdedge.exporters.quantize.distance import WORST
from kdedge.exporters.quantize.journal import Journal
from kdedge.exporters.quantize.mixed import _examples, _Judged, find_mixed
from kdedge.exporters.quantize.ranges import read_table, write_table
from kdedge.exporters.shapes import fix_shapes
from kdedge.measured import DeviceIdentity
from kdedge.recipe import ExportSection, MixedSection, ProfileSection, QuantizeSection
from kdedge.targets import TARGETS
from kdedge.workspace import Workspace

HERE = DeviceIdentity("local", "local", ("x86_64",), {})
TIMING = ProfileSection(launches=1, warmup_seconds=0.0, warmup_iterations=1, min_seconds=0.01, min_iterations=4, max_seconds=1.0)
BATCH = Dimension("N", 1, 4, 64)
CLASSES = tuple(f"class{number}" for number in range(10))
ENCODER = ImageEncoder(size=(16, 16))
TARGET = TARGETS["onnxruntime-x86"]


class World:
    """A residual network without training, its ranges and its calibration images."""

    def __init__(self, folder: Path) -> None:
        path = residual(folder / "float.onnx")
        specs = (TensorSpec("image", "float32", (BATCH, 3, 16, 16)),), (TensorSpec("logits", "float32", (BATCH, 10)),)
        self.graph = FloatGraph(path, content_hash([path]), *specs, ENCODER, CLASSES, 18, 0, 0.0)
        self.student = ModelFiles("small", None, {}, None, path, specs[0], ("logits",), ENCODER, CLASSES)
        write_table(calibrated(path), folder / "ranges.json")
        self.ranges = CalibratedRanges(folder / "ranges.json", "minmax", 64, self.graph.sha256)
        rng = np.random.default_rng(3)
        np.savez(folder / "data.npz", images=rng.integers(0, 256, (40, 16, 16, 3), np.uint8), labels=np.arange(40) % 10)
        task = ImportPath("kdedge.tasks.image_classification:TASK")
        self.data = PreparedData(task, {"train": _split(folder / "data.npz")}, CLASSES, tuple(range(40)), ENCODER)
        self.folder = folder

    def search(
        self, *, device: DeviceIdentity | None = None, target: str = TARGET.name, folder: Path | None = None, **budget: Any
    ) -> CalibratedRanges:
        made = folder or self.folder / "stage"
        made.mkdir(exist_ok=True)
        row = TARGETS[target]
        settings = QuantizeSection(mixed=MixedSection.model_validate(budget) if budget else None)
        export, dialect = ExportSection(target=target, precision=("mixed",)), ImportPath(DIALECTS[row.dialect])
        return find_mixed(row, dialect, self.graph, self.student, self.ranges, self.data, export, settings, device, TIMING, folder=made)


def _split(path: Path) -> SplitSource:
    arguments = {"path": str(path), "images": "images", "labels": "labels"}
    return SplitSource(ImportPath("test_mixed:opened"), arguments, 40, "fingerprint")


def opened(path: str, images: str, labels: str) -> Any:
    held = np.load(path)
    return _Images(held[images], held[labels])


class _Images:
    def __init__(self, images: Any, labels: Any) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def raw(self, indices: Any) -> Any:
        return self.images[indices]


@pytest.fixture(name="world")
def _world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return World(tmp_path)


def test_a_real_search_keeps_layers_float_until_the_budget_is_met_and_the_artifact_has_them_float(world: World) -> None:
    integers = world.search(kl_student="<= 1000").trials[0]
    assert integers.kept == ()
    assert integers.kl > 0
    half = integers.kl / 2
    found = world.search(device=HERE, folder=world.folder / "real", kl_student=f"<= {half:.3e}", trials=10)
    chosen = next(trial for trial in found.trials if trial.chosen)
    assert chosen.kept
    assert chosen.kl <= half
    assert all(trial.latency_ms is not None and trial.latency_ms > 0 for trial in found.trials)
    assert len(found.trials) <= 10
    table = read_table(found.table)
    assert set(chosen.kept) <= set(table.keep_float)
    step = found.steps[-1]
    assert (step.name, step.kept, step.before, step.after) == ("mixed precision", True, found.trials[0].kl, chosen.kl)
    assert "is met" in step.note
    assert not (world.folder / "real" / "work").exists()

    (world.folder / "artifact").mkdir()
    export, lineage = ExportSection(target=TARGET.name, precision=("mixed",)), Lineage("", "", "", "", "")
    dialect = ImportPath(DIALECTS[TARGET.dialect])
    artifact = build(TARGET, "mixed", dialect, world.graph, world.student, found, export, lineage, folder=world.folder / "artifact")
    assert artifact.precision == "mixed"
    assert artifact.trials == found.trials
    reasons = reasons_in(artifact.notes)
    assert {reasons[name] for name in chosen.kept} == {"chosen by the search for `mixed`"}
    assert {node.name for node in artifact.asked if node.precision == "fp32"} >= set(chosen.kept)
    assert any(node.precision == "int8" for node in artifact.asked)
    wired = readers(artifact.main.files[0])
    integer = {node.name for node in artifact.asked if node.precision == "int8"}
    assert {
        name for name in wired if wired[name][1:] and wired[name][1].startswith("dq(") and name in dict.fromkeys(n.name for n in artifact.asked)
    } == integer


def test_a_target_that_ships_no_float_artifact_has_its_layers_timed_beside_one_all_the_same(world: World) -> None:
    assert "fp32" not in TARGETS["onnxruntime-x86-avx2"].precisions
    found = world.search(device=HERE, target="onnxruntime-x86-avx2", kl_student="<= 1000")
    assert "layers were not timed" not in found.steps[-1].note
    assert found.trials[0].latency_ms is not None


def test_without_a_device_only_fidelity_is_measured_and_the_note_says_so(world: World) -> None:
    found = world.search(target="tensorrt", agreement_student=">= 1", kl_student="<= 0", trials=3)
    assert all(trial.latency_ms is None for trial in found.trials)
    assert "candidates were not timed: no device of this run belongs to the target" in found.steps[-1].note
    assert "multiply-accumulates" in found.steps[-1].note
    assert found.dialect == "tensorrt"


def test_a_budget_that_cannot_be_met_still_gives_ranges_and_says_so(world: World) -> None:
    found = world.search(kl_student="<= -1", trials=3)
    assert "is not met" in found.steps[-1].note
    assert found.table.is_file()
    assert 1 < len(found.trials) <= 3


class Killed(BaseException):
    """What ends a process in the middle."""


def test_a_killed_search_goes_on_and_measures_nothing_twice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = world.search(folder=world.folder / "whole", kl_student="<= 0", trials=5)
    measured: list[tuple[str, ...]] = []
    plain = module._trial

    def dies_at(most: int) -> Callable[..., dict[str, Any]]:
        def trial(kept: tuple[str, ...], *rest: Any) -> dict[str, Any]:
            if len(measured) == most:
                raise Killed
            measured.append(kept)
            return plain(kept, *rest)

        return trial

    for most in (1, 3):
        monkeypatch.setattr(module, "_trial", dies_at(most))
        with pytest.raises(Killed):
            world.search(folder=world.folder / "killed", kl_student="<= 0", trials=5)
    journal = world.folder / "killed" / "trials.jsonl"
    assert sum(json.loads(line)["asked"][0] == "trial" for line in journal.read_text().splitlines()) == 3
    with journal.open("a") as handle:  # torn in the middle of a line
        handle.write('{"asked": ["trial", "st')
    monkeypatch.setattr(module, "_trial", dies_at(99))
    resumed = world.search(folder=world.folder / "killed", kl_student="<= 0", trials=5)
    assert resumed.trials == whole.trials
    assert len(measured) == len(set(measured)) == len(whole.trials)
    assert resumed.table.read_bytes() == whole.table.read_bytes()
    assert module.RESUMABLE


def test_a_torn_line_of_the_journal_is_cut_off_and_what_stood_before_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    first = Journal(path)
    assert first.once(["distance", "a"], lambda: 0.25) == 0.25
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"asked": ["distance", "b"], "fou')
    second = Journal(path)
    assert path.read_bytes() == whole
    assert second.once(["distance", "a"], lambda: pytest.fail("it was asked before")) == 0.25
    assert second.once(["distance", "b"], lambda: [1, None]) == [1, None]
    assert Journal(path).answers == {'["distance", "a"]': 0.25, '["distance", "b"]': [1, None]}


def test_a_candidate_is_timed_as_a_ratio_to_the_integers_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The machine halves its speed after the first candidate: how much longer it takes stays what it was. One launch is disturbed.
    bench = Bench(HERE, ProfileSection(), tmp_path / "bench", [{"image": np.zeros((2, 1), np.float32)}])
    speed = [1.0]
    launched: list[Any] = []

    def launch(artifact: Any) -> float:
        launched.append(artifact)
        return {"integer": 2.0, "candidate": 3.0}[artifact] * speed[0] * (9.0 if len(launched) == 8 else 1.0)

    monkeypatch.setattr(bench, "_launch", launch)
    monkeypatch.setattr(bench, "_outputs", lambda artifact: {})
    integer: Any = "integer"
    candidate: Any = "candidate"
    first = bench.measure(integer, integer, None)
    assert first == Timed({}, 2.0)
    assert bench.measure(candidate, integer, first.latency_ms).latency_ms == 3.0
    speed[0] = 2.0
    assert bench.measure(candidate, integer, first.latency_ms).latency_ms == 3.0
    assert launched[:8] == ["integer"] * 6 + ["integer", "candidate"]


def test_a_runtime_that_does_not_start_leaves_fidelity_and_a_reason(world: World, tmp_path: Path) -> None:
    bench = Bench(DeviceIdentity("local", "local", ("x86_64",), {}), TIMING, tmp_path / "bench", [{"image": np.zeros((2, 3, 16, 16), np.float32)}])
    (tmp_path / "broken").mkdir()
    export, lineage = ExportSection(target=TARGET.name, precision=("fp32",)), Lineage("", "", "", "", "")
    artifact = build(TARGET, "fp32", None, world.graph, world.student, None, export, lineage, folder=tmp_path / "broken")
    whole = artifact.main.files[0].read_bytes()
    artifact.main.files[0].write_bytes(b"no model")
    broken = bench.measure(artifact, artifact, None)
    assert broken == Timed(None, None, broken.why_not)
    assert "model.onnx" in broken.why_not
    # What one candidate could not do is no reason of the next.
    artifact.main.files[0].write_bytes(whole)
    assert bench.measure(artifact, artifact, None).why_not == ""


@pytest.mark.parametrize("at", ["_outputs", "_latency"])
def test_a_device_that_is_lost_ends_the_search_and_is_no_property_of_a_candidate(at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept in the journal it would be believed for ever."""

    def lost(*arguments: Any) -> Any:
        raise Disconnected("the board is gone")

    bench = Bench(HERE, ProfileSection(), tmp_path / "bench", [{"image": np.zeros((2, 1), np.float32)}])
    monkeypatch.setattr(bench, "_outputs", lambda artifact: {})
    monkeypatch.setattr(bench, at, lost)
    artifact: Any = "candidate"
    with pytest.raises(Disconnected):
        bench.measure(artifact, artifact, None)


def test_logits_that_are_not_finite_are_as_far_away_as_can_be() -> None:
    judged = _Judged((), np.array([[1.0, 0.0], [0.0, 2.0]], np.float32))
    broken = np.array([[1.0, 0.0], [np.nan, np.inf]], np.float32)
    assert judged.kl(broken) == judged.error(broken) == WORST
    assert judged.kl(judged.reference) == judged.error(judged.reference) == 0.0


def test_a_graph_of_one_batch_size_is_searched_in_whole_batches(world: World) -> None:
    fixed = fix_shapes(load_model(world.graph.path), {"N": 8})
    save_model(fixed, world.folder / "fixed.onnx")
    specs = (TensorSpec("image", "float32", (8, 3, 16, 16)),), (TensorSpec("logits", "float32", (8, 10)),)
    graph = replace(world.graph, path=world.folder / "fixed.onnx", inputs=specs[0], outputs=specs[1])
    learn, judge = _examples(graph, world.data, "logits")
    assert [len(feed["image"]) for feed in (*learn.feeds, *judge.feeds)] == [8] * 4  # of 2 x 20 examples
    with pytest.raises(ExportError, match="takes 8 at once, and there are 15"):
        _examples(graph, replace(world.data, calibration=tuple(range(15))), "logits")


def test_one_candidate_that_was_not_timed_is_counted_and_the_others_are_not_called_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def measure(self: Bench, artifact: Any, beside: Any, reference_ms: float | None) -> Timed:
        calls.append(artifact)
        return Timed(None, None, "the worker was killed") if len(calls) == 2 else Timed(None, 1.0)

    monkeypatch.setattr(Bench, "measure", measure)
    found = world.search(kl_student="<= 0", trials=3)
    assert [trial.latency_ms for trial in found.trials] == [1.0, None, 1.0]
    assert "; 1 of 3 candidates were not timed: the worker was killed" in found.steps[-1].note


def test_mixed_without_a_budget_says_what_to_write(world: World) -> None:
    with pytest.raises(ExportError, match=r"give quantize\.mixed, such as"):
        world.search()


def test_the_stage_is_kept_with_its_trials_and_read_again(world: World) -> None:
    workspace = Workspace(world.folder / "workspace")
    settings = QuantizeSection(mixed=MixedSection(kl_student="<= 0", trials=2))
    export, dialect = ExportSection(target=TARGET.name, precision=("mixed",)), ImportPath(DIALECTS[TARGET.dialect])
    inputs = (TARGET, dialect, world.graph, world.student, world.ranges, world.data, export, settings, None, TIMING)
    first = workspace.stage("kdedge.exporters.quantize.mixed:find_mixed", *inputs)
    assert workspace.stage("kdedge.exporters.quantize.mixed:find_mixed", *inputs) == first
    assert [event.cached for event in workspace.events] == [False, True]
    assert len(first.trials) == 2
    assert first.table.is_file()
