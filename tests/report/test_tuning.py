"""What a search leaves, from made figures."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdedge.distill.tuning import Outcome, TrialRecord, Tuning, conclusion
from kdedge.intervals import mean_estimate, paired_difference
from kdedge.recipe_file import load_recipe
from kdedge.report.search_plots import best_so_far, importance_bars, smoothed, surface
from kdedge.report.tuning import publish_tuning, trial_json, tuning_json

WIDE = (10.4, 4.2)
OUTCOMES: tuple[Outcome, Outcome] = ("complete", "pruned")
RECIPE = """\
name: made
task: image-classification
data: {train: "sklearn:digits", test: "sklearn:digits"}
teacher: {model: "kdedge:cnn", train: {epochs: 1}}
student: {model: "kdedge:cnn"}
distill: {epochs: 8, losses: [{ce: 0.1}, {kd: 1.0}]}  # mine
"""


def trial(number: int, value: float | None, outcome: Outcome = "complete", origin: str = "drawn", **parameters: Any) -> TrialRecord:
    drawn = {"loss": "kd", "alpha": 0.5 * (number + 1) ** 2, "temperature": 1.5 + number, "standardize": number % 2 == 0, **parameters}
    losses = ({"ce": 0.1}, {"kd": 0.5, "temperature": 1.5 + number})
    values = () if value is None else (value / 2, value)
    return TrialRecord(number, origin, losses, drawn, outcome, len(values), value, values, 1.5, "given up: 0.4" if outcome == "pruned" else "")


@pytest.fixture
def tuning() -> Tuning:
    trials = (
        trial(0, 0.50, origin="the recipe's own"),
        trial(1, 0.55),
        trial(2, 0.40, "pruned"),
        trial(3, 0.60),
        trial(4, 0.58, loss="dist"),
        trial(5, 0.52, loss="dkd"),
        trial(6, 0.2, "diverged"),
        trial(7, None, "running"),
    )
    best, own = np.array([1.0] * 60 + [0.0] * 40), np.array([0.0] * 50 + [1.0] * 50)
    return Tuning(
        recipe="made",
        metric="accuracy",
        study="made-0123",
        storage="sqlite:///trials.db",
        total=8,
        added=8,
        epochs=8,
        views=5,
        learned_from=400,
        held_out=100,
        trials=trials,
        best=trials[3],
        best_score=mean_estimate("accuracy", best),
        own=trials[0],
        own_score=mean_estimate("accuracy", own),
        difference=paired_difference("accuracy", best, own),
        importances={"alpha": 0.7, "temperature": 0.2, "loss": 0.1},
    )


def published(tuning: Tuning, folder: Path) -> Tuning:
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "made.yaml"
    source.write_text(RECIPE)
    return publish_tuning(tuning, load_recipe(source), source, folder / "runs")


def test_the_log_holds_a_line_a_trial_with_the_epoch_and_figure_at_which_it_was_given_up(tuning: Tuning, tmp_path: Path) -> None:
    found = published(tuning, tmp_path)
    assert found.log == tmp_path / "runs" / "trials.jsonl"
    lines = [json.loads(line) for line in found.log.read_text().splitlines()]
    assert lines == json.loads(json.dumps([trial_json(each) for each in tuning.trials]))
    given_up = lines[2]
    assert (given_up["outcome"], given_up["epochs"], given_up["value"], given_up["values"]) == ("pruned", 2, 0.4, [0.2, 0.4])


def test_the_tuned_recipe_is_the_recipe_with_the_best_losses_and_says_how_they_were_found(tuning: Tuning, tmp_path: Path) -> None:
    found = published(tuning, tmp_path)
    assert found.tuned is not None
    assert load_recipe(found.tuned).distill.losses == ({"ce": 0.1}, {"kd": 0.5, "temperature": 4.5})  # type: ignore[union-attr]
    text = found.tuned.read_text()
    lines = [line for line in text.splitlines() if line.startswith("#")]
    comment = " ".join(line.removeprefix("# ") for line in lines)
    assert text == "".join(f"{line}\n" for line in lines) + RECIPE.replace("[{ce: 0.1}, {kd: 1.0}]", "[{ce: 0.1}, {kd: 0.5, temperature: 4.5}]")
    for said in (
        "from made.yaml",
        "trial 3 of 8",
        "1 given up early",
        "60.0 % [50.2, 69.1] on 100 training examples held out",
        "Test data was not looked at",
    ):
        assert said in comment


def test_the_page_says_what_was_found_and_how_sure_that_is_and_repeats_its_bytes(tuning: Tuning, tmp_path: Path) -> None:
    pages = []
    for name in ("first", "second"):
        report = published(tuning, tmp_path / name).report
        assert report is not None
        pages.append(report.read_text())
    assert pages[0] == pages[1]
    said = conclusion(tuning)
    assert said[0].upper() + said[1:] in pages[0].replace("&#39;", "'")
    assert "too good by some" in said
    assert pages[0].count("<svg") == 6  # three plots, each for a wide and a narrow screen
    ids = re.findall(r' id="([^"]+)"', pages[0])
    assert len(ids) == len(set(ids))
    for text in ("60.0 %", "[50.2, 69.1]", "given up", "diverged", "running elsewhere", "McNemar", "2/8"):
        assert text in pages[0]


def test_without_a_complete_trial_there_is_a_page_and_no_recipe(tuning: Tuning, tmp_path: Path) -> None:
    none = {"best": None, "best_score": None, "own": None, "own_score": None, "difference": None}
    found = published(tuning.having(trials=(trial(0, None, "running"),), importances={}, **none), tmp_path)
    assert found.tuned is None
    assert found.report is not None
    assert "No trial went to its end" in found.report.read_text()
    assert tuning_json(found)["best"] is None


def test_json_holds_every_figure_with_its_interval(tuning: Tuning) -> None:
    found = json.loads(json.dumps(tuning_json(tuning)))
    assert found["trials"] == {"total": 8, "added": 8, "complete": 5, "pruned": 1, "diverged": 1, "running": 1}
    assert found["best"]["metric"]["low"] == pytest.approx(0.502, abs=1e-3)
    assert found["difference"]["value"] == pytest.approx(0.1)
    assert 0 < found["difference"]["p_value"] < 1
    assert found["best"]["losses"] == [{"ce": 0.1}, {"kd": 0.5, "temperature": 4.5}]


def test_trials_that_were_given_up_are_hollow(tuning: Tuning) -> None:
    for draw in (best_so_far, surface):
        texts = [draw(tuning.having(best=None, trials=(trial(0, 0.5), trial(1, 0.4, outcome))), "plot", WIDE) for outcome in OUTCOMES]
        complete, given_up = (text.count("fill-opacity: 0; stroke") for text in texts)
        assert complete == 0
        assert given_up > 0


def test_bars_are_ordered_by_what_they_explain() -> None:
    text = importance_bars({"alpha": 0.2, "loss": 0.8}, "bars", WIDE)
    assert "80 %" in text
    assert text.index(">alpha<") < text.index(">loss<")  # drawn from below


def test_the_surface_goes_through_what_is_known_and_stays_within_it(tuning: Tuning) -> None:
    trials = [trial(number, value) for number, value in enumerate((0.2, 0.4, 0.9, 0.3, 0.5))]
    values = np.array([each.value or 0.0 for each in trials])
    alphas, temperatures, heights = smoothed(trials, values)
    assert heights.shape == (temperatures.size, alphas.size)
    assert values.min() <= heights.min() < heights.max() <= values.max()
    # Far from all others a trial speaks alone.
    alone = [trial(0, 0.2, alpha=0.3, temperature=1.0), trial(1, 0.9, alpha=300.0, temperature=20.0)]
    corner = smoothed(alone, np.array([0.2, 0.9]))[2]
    assert (corner[0, 0], corner[-1, -1]) == (pytest.approx(0.2), pytest.approx(0.9))
    assert smoothed(alone, np.array([0.2, 0.9]))[2][-1, 0] == pytest.approx(0.55)
