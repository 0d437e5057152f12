"""`kdedge tune` from the command line, on a recipe of 48 tiny images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_recipes import Plain, kdedge, refused, run, write, write_texts

from kdedge.distill import tune as tune_module
from kdedge.recipe_file import load_recipe
from kdedge.workspace import Workspace

OPTIONS = ("--trials", 2, "--epochs", 1)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with its workspace beside it, shared by the tests as by the commands of one person."""
    return write(tmp_path_factory.mktemp("tuned"))


def last(out: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def test_a_second_search_finds_the_trials_done_and_the_tuned_recipe_runs(recipe: Path) -> None:
    ended = run(recipe, *OPTIONS, "--json", command="tune")
    assert ended.code == 0, ended.err
    first = last(ended.out)
    assert first["trials"] == {"total": 2, "added": 2, "complete": 2, "pruned": 0, "diverged": 0, "running": 0}
    assert "trials: 2 of 2 (2 now)" in ended.out
    assert "the recipe's own: accuracy" in ended.out
    folder = recipe.parent / "workspace" / "runs" / "small"
    assert [first[name] for name in ("tuned", "report", "log")] == [str(folder / name) for name in ("tuned.yaml", "tuning.html", "trials.jsonl")]
    assert len((folder / "trials.jsonl").read_text().splitlines()) == 2
    again = last(run(recipe, *OPTIONS, "--json", command="tune").out)
    assert again["trials"]["added"] == 0
    assert again["best"] == first["best"]
    assert ", 1 epoch each, " in " ".join((folder / "tuned.yaml").read_text().replace("#", " ").split())
    tuned = load_recipe(folder / "tuned.yaml")
    assert tuned.distill is not None
    assert list(tuned.distill.losses) == first["best"]["losses"]
    ran = kdedge("distill", folder / "tuned.yaml", "--workspace", recipe.parent / "workspace")
    assert ran.code == 0, ran.err
    silent = run(recipe, *OPTIONS, "--quiet", command="tune")
    assert (silent.code, silent.out, silent.err) == (0, "", "")


def test_what_the_teacher_said_in_a_search_is_read_again_by_a_run_of_the_tuned_recipe(tmp_path: Path) -> None:
    def with_views(content: Plain) -> None:
        content["data"]["augment"] = ["crop1", "flip"]
        content["distill"] |= {"epochs": 3, "views": 2, "cache": {"use": "always"}}

    workspace = tmp_path / "workspace"
    ended = run(write(tmp_path, with_views), "--trials", 1, "--epochs", 2, "--json", command="tune")
    assert ended.code == 0, ended.err
    asked = sorted((workspace / "stages").glob("cache.fill-*"))
    assert len(asked) == 2
    ran = kdedge("distill", last(ended.out)["tuned"], "--workspace", workspace)
    assert ran.code == 0, ran.err
    assert sorted((workspace / "stages").glob("cache.fill-*")) == asked


def test_test_data_cannot_be_opened_and_is_not_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Workspace.stage
    gone: list[Path] = []

    def without_test_data(self: Workspace, function: str, *inputs: Any, **named: Any) -> Any:
        made = real(self, function, *inputs, **named)
        if function == "kdedge.tasks.prepare:prepare":
            for value in made.splits["test"].arguments.values():
                if isinstance(value, Path):
                    value.unlink()
                    gone.append(value)
        else:
            assert not [path for path in gone if path.exists()]
        return made

    monkeypatch.setattr(Workspace, "stage", without_test_data)
    ended = run(write(tmp_path), *OPTIONS, "--json", command="tune")
    assert ended.code == 0, ended.err
    assert gone
    assert last(ended.out)["trials"]["complete"] == 2


def test_ctrl_c_keeps_and_shows_what_was_found(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tune_module._try
    calls: list[int] = []

    def second_is_interrupted(*arguments: Any) -> int:
        calls.append(1)
        if len(calls) == 2:
            arguments[1].give_back(arguments[0])
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(tune_module, "_try", second_is_interrupted)
    ended = run(recipe, "--trials", 3, "--epochs", 2, "--json", command="tune")
    assert ended.code == 2
    assert "interrupted" in ended.err
    found = last(ended.out)
    assert (found["trials"]["complete"], found["interrupted"]) == (1, True)
    assert Path(found["tuned"]).is_file()


@pytest.mark.slow
def test_two_processes_share_one_file(recipe: Path) -> None:
    storage = f"sqlite:///{recipe.parent / 'shared.db'}"
    command = [sys.executable, "-m", "kdedge", "tune", str(recipe), "--workspace", str(recipe.parent / "workspace"), "--trials", "4"]
    command += ["--epochs", "1", "--storage", storage, "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    ended = [process.communicate(timeout=200) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    found = [last(out) for out, _ in ended]
    assert sum(each["trials"]["added"] for each in found) == 4
    assert max(sum(each["trials"][name] for name in ("complete", "pruned")) for each in found) == 4
    assert {each["study"] for each in found} == {found[0]["study"]}


def with_a_layer_term(content: Plain) -> None:
    content["distill"]["losses"] = [{"ce": 1.0}, {"kd": 1.0}, {"rkd": 1.0, "layers": ["layers.0"]}]


def test_what_cannot_be_kept_of_a_teacher_of_texts_is_asked_in_every_trial(tmp_path: Path) -> None:
    recipe = write_texts(tmp_path, with_a_layer_term)
    ended = run(recipe, "--trials", 1, "--epochs", 2, "--json", command="tune")
    assert ended.code == 0, ended.err
    assert "the teacher is asked in every step of every trial: what its layers give for a text (layers.0)" in " ".join(ended.err.split())
    found = last(ended.out)
    assert (found["trials"]["complete"], found["views"]) == (1, 1)
    always = ("--set", "distill.cache.use=always", "--set", "distill.views=2")
    refused(run(recipe, "--trials", 1, *always, command="tune"), "distill.cache.use: `always`, and the teacher's answers cannot be kept")


def test_answers_of_a_teacher_that_reads_the_mask_are_kept_for_all_trials(tmp_path: Path) -> None:
    ended = run(write_texts(tmp_path), "--trials", 1, "--epochs", 2, "--json", command="tune")
    assert ended.code == 0, ended.err
    assert "cache.fill view 1/1" in ended.err
    assert last(ended.out)["views"] == 1  # nothing changes a text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("teacher=null", "has no teacher"),
        ("distill.stages=[{epochs: 1}]", "distill.stages: the search is for the losses of one training run"),
        ("distill.learn_from=unlabelled", "unlabelled"),
    ],
)
def test_a_recipe_that_has_nothing_to_search_is_refused(recipe: Path, change: str, said: str) -> None:
    sets = ("--set", change, *(("--set", "distill.losses=[{ce: 1.0}]") if change.startswith("teacher") else ()))
    refused(run(recipe, *OPTIONS, *sets, command="tune"), said)


def test_a_storage_that_cannot_be_used_is_refused_in_a_sentence(recipe: Path) -> None:
    refused(run(recipe, *OPTIONS, "--storage", "nonsense", command="tune"), "workspace error", "the storage of trials nonsense cannot be opened")
