"""What a search for losses leaves: a page for a person, a line a trial for a machine, and the tuned recipe."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

from kdedge.distill.candidates import ALPHA, BETA, STANDARDIZE, TEMPERATURE, Entries, written, written_entry
from kdedge.distill.tuning import TrialRecord, Tuning, conclusion
from kdedge.estimate import FRACTION
from kdedge.recipe import Recipe
from kdedge.recipe_file.editing import with_losses
from kdedge.report.figures import interval, split
from kdedge.report.layout import Block, Commands, Facts, Page, Plot, Prose, Section, Table, TableCell, Tile
from kdedge.report.page import render
from kdedge.report.plots import NARROW, WIDE
from kdedge.report.search_plots import best_so_far, importance_bars, surface

_COMMENT = 138
PAGE, LOG, TUNED = "tuning.html", "trials.jsonl", "tuned.yaml"


def publish_tuning(tuning: Tuning, recipe: Recipe, source: Path | None, folder: Path) -> Tuning:
    """Write `trials.jsonl`, `tuned.yaml` (where a trial went to its end) and `tuning.html` into `folder`, each whole or not at all.

    The caller sees to it that nobody else does so at the same time.

    Raises:
        MissingExtra: jinja2 or matplotlib is not installed; the log and the recipe are written by then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tuning = tuning.having(log=folder / LOG)
    _replace(folder / LOG, "".join(json.dumps(trial_json(trial)) + "\n" for trial in tuning.trials))
    if tuning.best is not None:
        entries = [written_entry(entry) for entry in tuning.best.losses]
        _replace(folder / TUNED, with_losses(recipe, source, entries, comment(tuning, recipe, source), folder / TUNED))
        tuning = tuning.having(tuned=folder / TUNED)
    _replace(folder / PAGE, render(page_of(tuning)))
    return tuning.having(report=folder / PAGE)


def comment(tuning: Tuning, recipe: Recipe, source: Path | None) -> list[str]:
    """How the losses were found, for the head of the tuned recipe."""
    assert tuning.best is not None
    lines = [
        f"distill.losses were found by kdedge tune{f' from {source.name}' if source is not None else ''}: trial {tuning.best.number} of "
        f"{len(tuning.trials)} ({tuning.count('pruned')} given up early), {_epochs(tuning)} each, "
        f"{tuning.metric} {interval(tuning.best_score)} on {tuning.held_out} training examples held out. Test data was not looked at.",
        _sentence(conclusion(tuning)),
    ]
    if source is not None and names_code_beside(recipe, source.absolute().parent):
        lines.append(f"It names code that lies beside {source.name}: run it with PYTHONPATH={source.absolute().parent}.")
    return [short for line in lines for short in textwrap.wrap(line, _COMMENT, break_long_words=False, break_on_hyphens=False)]


def names_code_beside(recipe: Recipe, folder: Path) -> bool:
    """Whether a recipe names a module (`module:function`) that lies in `folder`, from where the tuned recipe is not run."""
    modules = set(re.findall(r'"(?:python:)?(\w+)(?:\.\w+)*:\w', recipe.model_dump_json()))
    return any((folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file() for name in modules)


def trial_json(trial: TrialRecord) -> dict[str, Any]:
    """One line of `trials.jsonl`."""
    return {
        "number": trial.number,
        "origin": trial.origin,
        "outcome": trial.outcome,
        "value": trial.value,
        "epochs": trial.epochs,
        "values": list(trial.values),
        "losses": list(trial.losses),
        "parameters": trial.parameters,
        "seconds": trial.seconds,
        "reason": trial.reason,
    }


def tuning_json(tuning: Tuning) -> dict[str, Any]:
    """The object that `--json` prints last on standard output."""
    difference = tuning.difference
    return {
        "recipe": tuning.recipe,
        "study": tuning.study,
        "storage": tuning.storage,
        "trials": {
            "total": tuning.total,
            "added": tuning.added,
            **{name: tuning.count(name) for name in ("complete", "pruned", "diverged", "running")},
        },
        "epochs": tuning.epochs,
        "views": tuning.views,
        "learned_from": tuning.learned_from,
        "held_out": tuning.held_out,
        "best": _trial_with_figure(tuning.best, tuning.best_score.as_json() if tuning.best_score else None),
        "own": _trial_with_figure(tuning.own, tuning.own_score.as_json() if tuning.own_score else None),
        "difference": {**difference.estimate.as_json(), "p_value": difference.p_value} if difference else None,
        "conclusion": conclusion(tuning),
        "importances": tuning.importances,
        "interrupted": tuning.interrupted,
        "tuned": str(tuning.tuned) if tuning.tuned else None,
        "report": str(tuning.report) if tuning.report else None,
        "log": str(tuning.log) if tuning.log else None,
    }


def _trial_with_figure(trial: TrialRecord | None, figure: dict[str, Any] | None) -> dict[str, Any] | None:
    return {"number": trial.number, "losses": list(trial.losses), "metric": figure} if trial else None


# ---- the page


def page_of(tuning: Tuning) -> Page:
    """What the page says, as plain values."""
    best, own = split(tuning.best_score), split(tuning.own_score)
    difference = split(tuning.difference.estimate) if tuning.difference else ("-", "")
    p_value = tuning.difference.p_value if tuning.difference else None
    tiles = (
        Tile(f"best, {tuning.metric} held out", *best, note=_note(tuning.best)),
        Tile("the recipe's own losses", *own, note=_note(tuning.own)),
        Tile("difference", *difference, note=f"p = {p_value:.2g}, McNemar's exact test" if p_value is not None else ""),
        Tile("trials", str(len(tuning.trials)), note=_counts(tuning)),
    )
    return Page(
        title=f"{tuning.recipe}: losses found", outcome="", headline=_sentence(conclusion(tuning)), tiles=tiles, sections=tuple(_sections(tuning))
    )


def _sections(tuning: Tuning) -> list[Section]:
    found: list[Section] = []
    if tuning.best is not None:
        blocks: list[Block] = [Commands((f"losses: {written(tuning.best.losses)}",))]
        found.append(
            Section("found", "What was found", "It stands in `tuned.yaml` beside this page, with the rest of the recipe as it was.", tuple(blocks))
        )
    plots = [plot for plot in (_curve(tuning), _surface(tuning), _importance(tuning)) if plot is not None]
    for anchor, title, lead, block in plots:
        found.append(Section(anchor, title, lead, (block,)))
    found.append(_table(tuning))
    found.append(_how(tuning))
    return found


_Shown = tuple[str, str, str, Block]


def _curve(tuning: Tuning) -> _Shown | None:
    if tuning.best is None:
        return None
    wide, narrow = (best_so_far(tuning, name, size) for name, size in (("curve-wide", WIDE), ("curve-narrow", NARROW)))
    where = "hollow ones were given up, and stand where their averaged weights were then"
    caption = f"Each point is a trial; {where}. The line is the best that went to its end."
    return "progress", "How the search went", "", Plot("the best trial so far", wide, narrow, caption)


def _surface(tuning: Tuning) -> _Shown | None:
    if sum(ALPHA in trial.parameters for trial in tuning.trials) < 2:
        return None
    wide, narrow = (surface(tuning, name, size) for name, size in (("surface-wide", WIDE), ("surface-narrow", NARROW)))
    caption = (
        "Both axes are logarithmic. The shade is smoothed over the trials that went to their end, of all losses together; where there are few points "
        "it says little. Hollow points were given up."
    )
    lead = "Alpha is the weight of the teacher's term over the weight of the labels'."
    return "surface", "Alpha and temperature", lead, Plot("held-out figure by alpha and temperature", wide, narrow, caption)


def _importance(tuning: Tuning) -> _Shown | None:
    if not tuning.importances:
        text = "Too few trials went to their end, or all were equally good: nothing can be said."
        return "importances", "What mattered", "", Prose((text,))
    wide, narrow = (importance_bars(tuning.importances, name, size) for name, size in (("importance-wide", WIDE), ("importance-narrow", NARROW)))
    caption = f"PED-ANOVA over {tuning.count('complete')} complete trials: a rough order, not a measurement, below some forty."
    return "importances", "What mattered", "How much of what sets good trials apart each choice explains.", Plot("importances", wide, narrow, caption)


def _table(tuning: Tuning) -> Section:
    ranked = sorted(tuning.trials, key=lambda trial: (trial.outcome != "complete", -(trial.value or 0.0), trial.number))
    rows = tuple(tuple(TableCell(text, kind="prose" if place == 1 else "") for place, text in enumerate(row(trial, tuning))) for trial in ranked)
    lead = f"Best first. The figures are of {tuning.held_out} examples; trials that differ by less than the interval above may be equally good."
    return Section("trials", "All trials", lead, (Table(("trial", "losses", "origin", tuning.metric, "epochs", "outcome"), rows),))


def row(trial: TrialRecord, tuning: Tuning) -> tuple[str, ...]:
    """A trial as people see it: number, losses, origin, figure, epochs, outcome."""
    figure = "-" if trial.value is None else f"{100 * trial.value:.2f} %" if _percent(tuning) else f"{trial.value:.4g}"
    outcome = "given up" if trial.outcome == "pruned" else trial.outcome
    best = " (best)" if tuning.best is not None and trial.number == tuning.best.number else ""
    return (f"{trial.number}{best}", losses_shown(trial.losses), trial.origin, figure, f"{trial.epochs}/{tuning.epochs}", outcome)


def losses_shown(losses: Entries) -> str:
    """The entries on one line, without the outer brackets."""
    return written(losses)[1:-1]


def _percent(tuning: Tuning) -> bool:
    return tuning.best_score is not None and tuning.best_score.unit == FRACTION


def _how(tuning: Tuning) -> Section:
    items = (
        ("training data", (f"{tuning.learned_from} examples to learn from, {tuning.held_out} held out, a share of each class",)),
        ("test data", ("not looked at",)),
        ("one trial", (f"{_epochs(tuning)}, {_views(tuning)} of each example, the same first weights and batches for all",)),
        ("given up", ("the worse half after a quarter of the epochs and after half of them; never what was tried first",)),
        ("tried first", ("the recipe's own losses, then those that the authors of the losses publish",)),
        ("searched", (f"loss, {ALPHA}, {TEMPERATURE}, {STANDARDIZE}, DKD's {BETA}: by TPE, jointly",)),
        ("study", (tuning.study, tuning.storage)),
    )
    lead = "What the figures are of. The best of many is chosen on the examples that it is scored on, so its figure is too good by some."
    return Section("how", "How it was searched", lead, (Facts(items),))


def _views(tuning: Tuning) -> str:
    return f"{tuning.views or 'new'} view{'s' if tuning.views != 1 else ''}"


def _epochs(tuning: Tuning) -> str:
    return f"{tuning.epochs} epoch{'s' if tuning.epochs > 1 else ''}"


def _note(trial: TrialRecord | None) -> str:
    return f"trial {trial.number}: {losses_shown(trial.losses)}" if trial else "not tried to the end"


def _counts(tuning: Tuning) -> str:
    names = {"complete": "complete", "pruned": "given up", "diverged": "diverged", "running": "running elsewhere"}
    return ", ".join(f"{tuning.count(name)} {text}" for name, text in names.items() if tuning.count(name))  # type: ignore[arg-type]


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
