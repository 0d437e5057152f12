"""A recipe with `compare`, run for real on tiny images: both arms cost the same, and nothing sees the test data before all are trained."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_recipes

from kdedge.api import run
from kdedge.costs import seconds_of
from kdedge.errors import RecipeError
from kdedge.report.result import RunResult
from kdedge.workspace import StageEvent, Workspace

pytest.importorskip("torch")

# Whether answers are kept is measured, and students of two workspaces are compared to the bit.
DISTILL = {"epochs": 2, "batch_size": 16, "losses": [{"ce": 0.1}, {"kd": 9.0, "temperature": 2}], "checkpoint_seconds": 0, "cache": {"use": "never"}}
TRAINED = "trainer.distill"


def write(folder: Path, **sections: Any) -> Path:
    return small_recipes.write(folder, **{"distill": DISTILL, "compare": {"seeds": 2}, **sections})


def augmented(content: small_recipes.Plain) -> None:
    content["data"]["augment"] = ["crop1", "flip"]


def made(recipe: Path, events: list[StageEvent] | None = None) -> RunResult:
    return run(recipe, workspace=recipe.parent / "workspace", until="distill", on_stage=events.append if events is not None else None)


def trainings(events: list[StageEvent]) -> list[str]:
    return [event.name.removeprefix(TRAINED).strip() for event in events if event.name.startswith(TRAINED)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunResult, list[StageEvent]]:
    events: list[StageEvent] = []
    recipe = write(tmp_path_factory.mktemp("compared"))
    return recipe, made(recipe, events), events


Finished = tuple[Path, RunResult, list[StageEvent]]


def metrics(recipe: Path) -> list[list[dict[str, Any]]]:
    files = sorted((recipe.parent / "workspace" / "stages").glob(f"{TRAINED}-*/metrics.jsonl"))
    return [[json.loads(line) for line in file.read_text().splitlines()] for file in files]


def test_both_arms_are_trained_from_every_seed_and_no_student_twice(finished: Finished) -> None:
    _, result, events = finished
    assert trainings(events) == ["", "seed 1", "no teacher, seed 0", "no teacher, seed 1"]
    assert result.comparison is not None
    assert [(arm.name, [seed.seed for seed in arm.seeds]) for arm in result.comparison.arms] == [("distilled", [0, 1]), ("no teacher", [0, 1])]


def test_both_arms_cost_the_same_steps_at_the_same_rates(finished: Finished) -> None:
    recipe, _, _ = finished
    courses = metrics(recipe)
    assert len(courses) == 4
    assert len({tuple((line["step"], line["epoch"], line["lr"]) for line in course) for course in courses}) == 1
    assert sorted(tuple(course[0]["terms"]) for course in courses) == [("ce",), ("ce",), ("ce", "kd"), ("ce", "kd")]
    alone = [course for course in courses if set(course[0]["terms"]) == {"ce"}]
    assert all(line["terms"]["ce"]["weighted"] == line["terms"]["ce"]["raw"] for course in alone for line in course)


def test_the_student_that_ships_is_the_first_of_the_comparison(finished: Finished) -> None:
    _, result, _ = finished
    assert result.comparison is not None
    assert result.references.scores["student"].value == pytest.approx(result.comparison.arms[0].seeds[0].last)
    assert [len(seed.epochs) for arm in result.comparison.arms for seed in arm.seeds] == [2] * 4
    # After the last epoch it is what ships, byte for byte.
    (lesson,) = result.training
    assert lesson.snapshots[-1].read_bytes() == lesson.metrics.with_name("model.safetensors").read_bytes()
    assert lesson.snapshots[0].read_bytes() != lesson.snapshots[1].read_bytes()


def test_a_student_is_the_same_with_and_without_a_comparison(finished: Finished, tmp_path: Path) -> None:
    _, compared, _ = finished
    plain = made(write(tmp_path, compare=None))
    assert plain.comparison is None
    assert plain.student.weights is not None
    assert compared.student.weights is not None
    assert plain.student.weights.read_bytes() == compared.student.weights.read_bytes()


def test_a_finished_comparison_makes_nothing_again_and_remembers_what_it_cost(finished: Finished) -> None:
    recipe, first, _ = finished
    events: list[StageEvent] = []
    second = made(recipe, events)
    assert [event.name for event in events if not event.cached] == []
    assert second == first.having(record=second.record)
    assert [len(cost.seconds) for cost in second.costs] == [2, 2]
    assert all(seconds is not None and seconds > 0 for cost in second.costs for seconds in cost.seconds)


def test_no_key_holds_what_training_cost(finished: Finished) -> None:
    recipe, _, events = finished
    kept = recipe.parent / "workspace" / "seconds"
    before = {path: path.read_text() for path in kept.iterdir()}
    assert len(before) == 4
    for path in before:
        path.write_text(json.dumps({"seconds": 1e6}))
    again: list[StageEvent] = []
    slow = made(recipe, again)
    for path, text in before.items():
        path.write_text(text)
    assert [event.name for event in again if not event.cached] == []
    assert [event.key for event in again] == [event.key for event in events]
    assert {seconds for cost in slow.costs for seconds in cost.seconds} == {1e6}


def test_test_data_is_opened_for_the_comparison_once_when_all_students_are_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, int]] = []
    for name in ("distill.loop", "distill.cache", "fidelity.references", "fidelity.comparison"):
        module = importlib.import_module(f"kdedge.{name}")
        monkeypatch.setattr(module, "open_examples", spy(name, module.open_examples, opened))
    made(write(tmp_path))
    # 48 training images, 24 test images; the teacher is trained too.
    assert opened[:5] == [("distill.loop", 48)] * 5
    assert sorted(opened[5:]) == [("fidelity.comparison", 24), ("fidelity.references", 24)]


def spy(name: str, real: Callable[[Any], Any], opened: list[tuple[str, int]]) -> Callable[[Any], Any]:
    def opens(source: Any) -> Any:
        opened.append((name, source.size))
        return real(source)

    return opens


def test_without_a_baseline_the_seeds_alone_are_compared(tmp_path: Path) -> None:
    events: list[StageEvent] = []
    result = made(write(tmp_path, teacher=None, distill={**DISTILL, "losses": [{"ce": 1.0}]}, compare={"seeds": 2, "baseline": False}), events)
    assert trainings(events) == ["", "seed 1"]
    assert result.comparison is not None
    assert (len(result.comparison.arms), result.comparison.gain) == (1, None)


def test_stages_and_generations_are_repeated_whole_for_each_seed(tmp_path: Path) -> None:
    distill = {**DISTILL, "epochs": 1, "stages": [{"losses": [{"ce": 1.0}]}, {"epochs": 2}], "generations": {"count": 2}}
    events: list[StageEvent] = []
    result = made(write(tmp_path, distill=distill), events)
    one = [f"generation {number} stage {stage}" for number in (1, 2) for stage in (1, 2)]
    alone = [f"no teacher, seed {seed}, stage {stage}" for seed in (0, 2) for stage in (1, 2)]
    assert trainings(events) == [*one, *(f"seed 2, {label}" for label in one), *alone]
    assert result.comparison is not None
    # The epochs of both stages of the student itself, in both arms.
    assert [len(seed.epochs) for arm in result.comparison.arms for seed in arm.seeds] == [3] * 4


def test_all_students_of_an_arm_are_taught_by_the_same_answers(tmp_path: Path) -> None:
    events: list[StageEvent] = []
    result = made(write(tmp_path, change=augmented, distill={**DISTILL, "epochs": 4, "views": 2, "cache": {"use": "always"}}), events)
    assert [event.name for event in events if event.name.startswith("cache.fill") and not event.cached] == [
        "cache.fill view 1/2",
        "cache.fill view 2/2",
    ]
    assert len({event.key for event in events if event.name.startswith("cache_choice")}) == 1
    taught, alone = result.costs
    assert taught.teacher_seconds is not None
    assert taught.teacher_seconds > 0
    assert alone.teacher_seconds is None


def test_a_comparison_of_nothing_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    events: list[StageEvent] = []
    with pytest.raises(RecipeError, match="its own baseline"):
        made(write(tmp_path, teacher=None, distill={**DISTILL, "losses": [{"ce": 1.0}]}), events)
    assert events == []


def test_the_time_of_a_training_that_was_interrupted_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = importlib.import_module("kdedge.distill.loop")
    recipe, real = write(tmp_path), loop.write_weights

    def killed(state: Any, path: Path) -> None:
        real(state, path)
        if path.parent.name == "epochs" and len(list((tmp_path / "workspace" / "stages").glob(f"{TRAINED}-*"))) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "write_weights", killed)
    with pytest.raises(KeyboardInterrupt):
        made(recipe)
    monkeypatch.setattr(loop, "write_weights", real)
    result = made(recipe)
    taught, alone = result.costs
    assert all(seconds is not None for seconds in taught.seconds)
    assert (alone.seconds[0], alone.seconds[1] is not None) == (None, True)
    assert seconds_of(Workspace(tmp_path / "workspace"), tmp_path / "elsewhere") is None
    assert len(result.training[0].snapshots) == 2
