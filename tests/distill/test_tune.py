"""The search itself: on tiny images, with a storage in the test's folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from distill_world import image_data, made, spec, training
from optuna.trial import TrialState
from sqlalchemy import event

from kdedge import progress
from kdedge.artifact import SplitSource
from kdedge.data import held_out, open_examples
from kdedge.data.held_out import hold_out
from kdedge.distill import study as studies
from kdedge.distill.cache import fill
from kdedge.distill.candidates import OWN, PUBLISHED, SEARCHED, Entries, space_around, written
from kdedge.distill.spec import TeacherSpec
from kdedge.distill.study import Study
from kdedge.distill.teacher import obtain
from kdedge.distill.terms import terms_of
from kdedge.distill.tune import HeldOut, packed, search, unpacked
from kdedge.distill.tuning import Search, Tuning, about, conclusion, for_trials
from kdedge.errors import RecipeError, TrainingError, WorkspaceError
from kdedge.intervals import mean_estimate, paired_difference
from kdedge.recipe import DistillSection, GenerationsSection, OptimizerSection, StageSection
from kdedge.recipe_file.yaml_tree import parse

SEED = 7
OWN_LOSSES: Entries = ({"ce": 0.5}, {"kd": 1.0, "temperature": 3.0})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Search:
    """A search of four epochs a trial, whose teacher has answered about two views."""
    folder = tmp_path_factory.mktemp("world")
    whole = image_data(folder / "data", size=60)
    teacher = obtain((TeacherSpec(spec(width=8), training(epochs=2)),), whole, SEED, folder=made(folder / "teacher"))
    rest, held = hold_out(whole.splits["train"], 0.4, SEED)
    data = replace(whole, splits={"train": rest})
    section = DistillSection(losses=OWN_LOSSES, epochs=4, batch_size=16, optimizer=OptimizerSection(lr=0.05))
    lesson = replace(training(), section=section, terms=terms_of(section, True))
    how = for_trials(lesson, 4, views=2)
    kept = tuple(fill(teacher, ("logits",), whole, how.shown(SEED), view, None, folder=made(folder / f"view{view}")) for view in range(2))
    what = Search("made", spec(dropout=0.0), how, teacher, whole, data, held, space_around(section), OWN_LOSSES, ("logits",), kept, SEED, trials=7)
    return replace(what, about=about(what, (TeacherSpec(spec(width=8), training(epochs=2)),), lambda path: "a file"))


def sqlite(folder: Path) -> str:
    return f"sqlite:///{folder / 'trials.db'}"


def facts(found: Tuning) -> list[tuple[Any, ...]]:
    return [(trial.number, written(trial.losses), trial.outcome, trial.values) for trial in found.trials]


def states(folder: Path) -> list[str]:
    (summary,) = optuna.get_all_study_summaries(sqlite(folder))
    return [trial.state.name for trial in optuna.load_study(study_name=summary.study_name, storage=sqlite(folder)).get_trials()]


# ---- the search


def test_the_recipes_own_losses_and_the_published_ones_come_first_and_to_their_end(world: Search, tmp_path: Path) -> None:
    found, first = search(world, sqlite(tmp_path)), 1 + len(PUBLISHED)
    assert [trial.origin for trial in found.trials][:first] == [OWN, *(f"published: {name}" for name in PUBLISHED)]
    assert [trial.losses for trial in found.trials][:first] == [OWN_LOSSES, *PUBLISHED.values()]
    assert all(trial.outcome == "complete" and trial.epochs == 4 for trial in found.trials[:first])
    assert (len(found.trials), found.added, found.held_out, found.learned_from) == (7, 7, 24, 36)
    drawn = found.trials[first:]
    assert drawn
    assert all(set(trial.parameters) >= {"loss", "alpha", "temperature"} and trial.parameters["loss"] in SEARCHED for trial in drawn)
    assert found.best is not None
    assert found.best.value is not None
    assert all(found.best.value >= (trial.value or 0) for trial in found.trials[:first])
    assert found.own == found.trials[0]
    # The figures are those of the students themselves.
    assert found.best_score is not None
    assert found.best_score.value == pytest.approx(found.best.value)
    assert found.best_score.n == 24


@pytest.mark.parametrize("at", [4, len(PUBLISHED)])
def test_one_process_comes_to_the_same_trials_also_when_it_was_interrupted(at: int, world: Search, tmp_path: Path) -> None:
    straight = search(world, sqlite(tmp_path / "straight"))

    class Interrupting(progress.Silent):
        ended = 0

        def message(self, text: str) -> None:
            self.ended += 1

        def advance(self, what: str, done: int, total: int, note: str) -> None:
            if self.ended == at:
                raise KeyboardInterrupt

    with progress.listening(Interrupting()):
        first = search(world, sqlite(tmp_path / "broken"))
    assert first.interrupted
    assert facts(first) == facts(straight)[:at]
    assert first.best is not None
    second = search(world, sqlite(tmp_path / "broken"))
    assert (second.added, second.interrupted) == (7 - at, False)
    expected = [fact[1:] for fact in facts(straight)]
    # The one that was broken off stands behind those that were waiting; after it everything is as it would have been.
    waiting = expected[at : 1 + len(PUBLISHED)]
    assert [fact[1:] for fact in facts(second)] == [*expected[:at], *waiting[1:], waiting[0], *expected[1 + len(PUBLISHED) :]]


def test_trials_that_are_done_count_and_more_are_added_to_them(world: Search, tmp_path: Path) -> None:
    first = search(replace(world, trials=3), sqlite(tmp_path))
    again = search(replace(world, trials=3), sqlite(tmp_path))
    assert (first.added, again.added) == (3, 0)
    assert facts(again) == facts(first)
    assert (again.best, again.best_score, again.difference) == (first.best, first.best_score, first.difference)
    more = search(replace(world, trials=5), sqlite(tmp_path))
    assert more.added == 2
    assert facts(more)[:3] == facts(first)


def test_a_trial_that_others_are_better_than_is_given_up_and_recorded_with_its_epoch_and_figure(world: Search, tmp_path: Path) -> None:
    study = Study(sqlite(tmp_path), "made", world.about, world.space, 4, SEED)
    for value in (0.9, 0.8):
        place = study.take(2, ())
        assert place is not None
        assert all(study.report(place, epoch, value) == (value == 0.9) for epoch in (1,))
        if value == 0.9:
            assert all(study.report(place, epoch, value) for epoch in (2, 3, 4))
            study.finish(place, value, packed(np.ones(3)), 1.0)
        else:
            study.give_up(place, "0.8 after 1 of 4 epochs", 1.0)
    found = search(replace(world, trials=2), sqlite(tmp_path))
    assert found.added == 0
    assert [(trial.outcome, trial.epochs, trial.value) for trial in found.trials] == [("complete", 4, 0.9), ("pruned", 1, 0.8)]


def test_what_is_tried_first_is_never_given_up(world: Search, tmp_path: Path) -> None:
    study = Study(sqlite(tmp_path), "made", world.about, world.space, 4, SEED)
    for value in (0.9, 0.1):
        place = study.take(2, world.space.first(OWN_LOSSES))
        assert place is not None
        assert place.to_the_end
        assert all(study.report(place, epoch, value) for epoch in (1, 2, 3, 4))
        study.finish(place, value, packed(np.ones(3)), 1.0)


def test_losses_that_diverge_are_a_poor_trial_and_no_end(world: Search, tmp_path: Path) -> None:
    found = search(replace(world, own=({"ce": 1e38}, {"kd": 1e38}), trials=2), sqlite(tmp_path))
    assert [trial.outcome for trial in found.trials] == ["diverged", "complete"]
    assert found.trials[0].reason.startswith("diverged: ")
    assert found.own is None
    assert "were not tried to the end" in conclusion(found)


def test_a_student_that_cannot_be_trained_ends_the_search_with_its_error(world: Search, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no parameter that can be trained"):
        search(replace(world, student=spec("frozen")), sqlite(tmp_path))
    assert "RUNNING" not in states(tmp_path)


def test_no_test_data_is_opened(world: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(world.data.splits) == {"train"}
    opened: list[str] = []

    def watched(split: SplitSource) -> Any:
        opened.append(split.fingerprint)
        return open_examples(split)

    monkeypatch.setattr(held_out, "open_examples", watched)
    search(replace(world, trials=1), sqlite(tmp_path))
    source = world.held_out.arguments["source"]
    assert set(opened) == {source.fingerprint}


# ---- several processes


def test_a_trial_that_waits_is_taken_by_one_of_two_who_reach_for_it_at_the_same_moment(tmp_path: Path) -> None:
    """SQLite knows no row locks: what is read before it is written must be read under the write lock."""
    section = DistillSection(losses=OWN_LOSSES)
    space = space_around(section)
    one, other = (Study(sqlite(tmp_path), "made", {"data": "one"}, space, 4, SEED) for _ in "ab")
    for loss in ("first", "second"):
        one._study.enqueue_trial({}, {"losses": loss})
    taken: list[int] = []
    reaching = threading.Thread(target=lambda: taken.append(other._study.ask().number))

    def reach(_: object, __: object, statement: str, *___: object) -> None:
        if statement.startswith("UPDATE trials") and reaching.ident is None:
            reaching.start()
            reaching.join(timeout=1.0)  # it waits for the write lock, which this thread holds, or takes the same trial

    event.listen(one._study._storage._backend.engine, "before_cursor_execute", reach)  # type: ignore[attr-defined]
    taken.append(one._study.ask().number)
    reaching.join(timeout=30)
    assert sorted(taken) == [0, 1]


def test_two_processes_on_one_file_share_the_trials_and_lose_none(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import json, sys, time
            from kdedge.distill.candidates import space_around
            from kdedge.distill.study import Study
            from kdedge.distill.tune import packed
            from kdedge.recipe import DistillSection
            import numpy as np
            section = DistillSection(losses={OWN_LOSSES!r})
            space = space_around(section)
            study = Study({sqlite(tmp_path)!r}, "made", {{"data": "one"}}, space, 4, 7)
            mine = []
            while (place := study.take(16, space.first(section.losses))) is not None:
                with study.alive(place):
                    going = all(study.report(place, epoch, 0.5 + 0.01 * place.trial.number) for epoch in range(1, 5))
                    time.sleep(0.02)
                mine.append(place.trial.number)
                study.finish(place, 0.5, packed(np.ones(3)), 0.1) if going else study.give_up(place, "poor", 0.1)
            print(json.dumps(mine))
            """
        )
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) for _ in "ab"
    ]
    outcomes = [worker.communicate(timeout=120) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outcomes
    mine = [json.loads(out.splitlines()[-1]) for out, _ in outcomes]
    assert len(mine[0]) + len(mine[1]) == 16
    assert set(mine[0]).isdisjoint(mine[1])
    (summary,) = optuna.get_all_study_summaries(sqlite(tmp_path))
    trials = optuna.load_study(study_name=summary.study_name, storage=sqlite(tmp_path)).get_trials()
    counted = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert len(counted) == 16
    losses = [trial.user_attrs["losses"] for trial in counted]
    assert sum(written(tuple(json.loads(each))) == written(OWN_LOSSES) for each in losses) == 1
    assert all(sum(tuple(json.loads(each)) == published for each in losses) == 1 for published in PUBLISHED.values())


def test_a_killed_process_gives_its_trial_back_and_it_is_done_again_with_the_same_losses(world: Search, tmp_path: Path) -> None:
    script = tmp_path / "dies.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import os, signal
            from kdedge.distill.candidates import space_around
            from kdedge.distill.study import Study
            from kdedge.recipe import DistillSection
            section = DistillSection(losses={OWN_LOSSES!r})
            study = Study({sqlite(tmp_path)!r}, "made", {dict(world.about)!r}, space_around(section), 4, 7)
            study.take(3, space_around(section).first(section.losses))
            os.kill(os.getpid(), signal.SIGKILL)
            """
        )
    )
    assert subprocess.run([sys.executable, str(script)], check=False).returncode == -9
    assert states(tmp_path)[0] == "RUNNING"
    found = search(replace(world, trials=3), sqlite(tmp_path))
    assert (len(found.trials), found.added) == (3, 3)
    assert sum(trial.losses == OWN_LOSSES for trial in found.trials) == 1
    assert states(tmp_path)[0] == "FAIL"
    assert "RUNNING" not in states(tmp_path)


def test_losses_that_kill_their_process_twice_are_not_tried_again(world: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "is_dead", lambda trial: True)
    first = world.space.first(OWN_LOSSES)[:1]
    study = Study(sqlite(tmp_path), "made", world.about, world.space, 4, SEED)
    taken = [study.take(4, first) for _ in range(3)]
    assert [place is not None and place.origin for place in taken] == [OWN, OWN, "drawn"]


def test_a_worker_on_another_machine_is_dead_when_it_was_silent_for_long(world: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study(sqlite(tmp_path), "made", world.about, world.space, 4, SEED)
    monkeypatch.setattr(studies, "_machine", lambda: "elsewhere")
    place = study.take(1, ())
    assert place is not None
    monkeypatch.undo()
    assert study.take(1, ()) is None
    place.trial.set_user_attr("beat", 0.0)
    again = study.take(1, ())
    assert again is not None
    assert again.losses == place.losses
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        study.report(place, 1, 0.5)


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_any_storage_of_optunas_will_do(world: Search, tmp_path: Path, kind: str) -> None:
    url = f"journal:{tmp_path / 'trials.log'}" if kind == "journal" else sqlite(tmp_path)
    found = search(replace(world, trials=1), url)
    assert found.added == 1
    assert search(replace(world, trials=1), url).added == 0
    assert (tmp_path / ("trials.log" if kind == "journal" else "trials.db")).is_file()


@pytest.mark.parametrize("url", ["nonsense", "sqlite:////proc/nowhere/trials.db", "postgresql://me:secret@localhost:1/kdedge", "journal:/proc/x"])
def test_a_storage_that_cannot_be_opened_is_named_without_its_password(world: Search, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(WorkspaceError) as error:
        Study(url, "made", world.about, world.space, 4, SEED)
    assert "the storage of trials" in str(error.value)
    assert url.partition(":")[0] in str(error.value)
    assert "secret" not in str(error.value)


# ---- what a search is about


def test_other_data_or_another_teacher_or_student_begins_another_search(world: Search, tmp_path: Path) -> None:
    heard: list[str] = []

    class Heard(progress.Silent):
        def message(self, text: str) -> None:
            heard.append(text)

    teacher = (TeacherSpec(spec(width=8), training(epochs=2)),)

    def digest(path: Path) -> str:
        return "a file"

    assert about(world, teacher, digest) == world.about
    others = {
        "teacher": about(world, (TeacherSpec(spec(width=8), training(epochs=3)),), digest),
        "student": about(replace(world, student=spec(width=5)), teacher, digest),
        "data": about(replace(world, held_out=replace(world.held_out, fingerprint="other")), teacher, digest),
        "training": about(replace(world, training=for_trials(world.training, 5, views=2)), teacher, digest),
        "search space": about(replace(world, space=replace(world.space, label_weight=1.0)), teacher, digest),
    }
    Study(sqlite(tmp_path), "made", world.about, world.space, 4, SEED)
    for part, other in others.items():
        assert [name for name in other if other[name] != world.about[name]] == [part]
        with progress.listening(Heard()):
            study = Study(sqlite(tmp_path), "made", other, world.space, 4, SEED)
        assert study.trials() == []
        assert heard[-1].startswith(f"a new search begins, with other {part} than")
    told = len(heard)
    with progress.listening(Heard()):
        Study(sqlite(tmp_path), "made", world.about, world.space, 4, SEED)
    assert len(heard) == told
    # The recipe's own losses are what is searched, and change nothing.
    assert about(replace(world, own=({"ce": 1.0}, {"kd": 2.0})), teacher, digest) == world.about


def test_the_space_keeps_what_is_not_searched() -> None:
    section = DistillSection(
        losses=({"ce": 0.2}, {"dkd": 1.0, "beta": 2.0, "start": 0.1, "temperature": 2.0}, {"at": 1000.0, "layers": {"a": "b"}}, {"nkd": 1.0})
    )
    space = space_around(section)
    assert space.kept == ({"at": 1000.0, "layers": {"a": "b"}},)
    drawn = space.losses({"loss": "dkd", "alpha": 5.0, "temperature": 2.3456, "beta": 3.4567, "standardize": True})
    warmed = {"0": 0.0, "0.0833": 1.0}
    assert drawn == ({"ce": 0.2}, {"dkd": warmed, "temperature": 2.35, "standardize": True, "beta": 3.46, "start": 0.1}, *space.kept)
    assert space.drawn(drawn) == {"loss": "dkd", "alpha": 5.0, "temperature": 2.35, "beta": 3.46, "standardize": True}
    assert "beta" not in space.losses({"loss": "kd", "alpha": 5.0, "temperature": 2.0, "standardize": True})[1]
    assert all(candidate.losses[-1] == space.kept[0] for candidate in space.first(section.losses)[1:])
    assert space.drawn(space.losses({"loss": "dist", "alpha": 5.0, "temperature": 2.0})) == {"loss": "dist", "alpha": 5.0, "temperature": 2.0}
    labels = {"ce": 1.0}
    for taught in ({"kd": 1.0, "temperature": "learned"}, {"kd": 1e6}, {"nkd": 1.0}, {"dkd": warmed, "beta": 0.0}, {"dkd": 1.0}, {"kd": warmed}):
        assert space.drawn((labels, taught)) == {}
    assert space.drawn(({"kd": 1.0},)) == {}


@pytest.mark.parametrize("losses", PUBLISHED.values(), ids=PUBLISHED)
def test_what_the_search_writes_is_read_back_by_the_recipes_reader(losses: Entries) -> None:
    assert parse(f"losses: {written(losses)}", "tuned.yaml").value == {"losses": list(losses)}


@pytest.mark.parametrize(
    "changes",
    [
        {"stages": (StageSection(epochs=1),)},
        {"generations": GenerationsSection(count=2)},
        {"learn_from": "unlabelled"},
        {"mixup": True},
    ],
)
def test_what_is_no_single_training_run_against_labels_is_refused_by_its_key(changes: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=rf"^distill\.{next(iter(changes))}: "):
        space_around(DistillSection(**changes))


# ---- scores


def test_scores_are_kept_as_they_are() -> None:
    bits = np.array([0.0, 1.0, 1.0] * 7)
    assert unpacked(packed(bits)).tolist() == bits.tolist()
    assert len(packed(np.tile(bits, 1000))) < 4000
    rewards = np.array([0.25, -3.5, 2.0])
    assert unpacked(packed(rewards)).tolist() == rewards.tolist()


def test_a_difference_within_the_noise_is_called_so(world: Search, tmp_path: Path) -> None:
    found = search(replace(world, trials=2), sqlite(tmp_path))
    own, best = found.trials
    few, many = np.array([1.0] * 50 + [0.0] * 50), np.array([1.0] * 75 + [0.0] * 25)

    def judged(scores: Any, baseline: Any) -> str:
        figures = {"best_score": mean_estimate("accuracy", scores), "own_score": mean_estimate("accuracy", baseline)}
        return conclusion(found.having(best=best, own=own, difference=paired_difference("accuracy", scores, baseline), **figures))

    assert judged(many, few).startswith("better than the recipe's own losses")
    slightly = np.array([1.0] * 52 + [0.0] * 48)
    assert "within the noise" in judged(slightly, few)
    assert all("figure is too good by some" in judged(each, few) for each in (many, slightly))
    assert "they stay" in conclusion(found.having(best=own, own=own, difference=paired_difference("accuracy", few, few)))


def test_a_student_is_scored_by_its_task_on_the_held_out_part(world: Search) -> None:
    score = HeldOut(world.student, world.data, world.held_out)
    state = {name: value * 0 for name, value in score._model.state_dict().items()}
    # All logits equal: the first class is taken, which a third of the examples have.
    assert score.of(state).mean() == pytest.approx(1 / 3)
