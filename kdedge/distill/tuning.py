"""What a search for losses is about, and what it found: plain values. No torch and no Optuna here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from kdedge.artifact import ImportPath, PreparedData, SplitSource, TeacherFiles
from kdedge.distill.candidates import ALPHAS, BETAS, SEARCHED, TEMPERATURES, Entries, Space
from kdedge.distill.losses import LOSSES
from kdedge.distill.spec import TeacherSpec, TrainingSpec
from kdedge.estimate import Estimate
from kdedge.intervals import PairedDifference
from kdedge.models.spec import ModelSpec
from kdedge.recipe import CacheSection
from kdedge.record import digest_of
from kdedge.source import closure_of
from kdedge.trained import CachedView

HELD_OUT = 0.2
"""The share of the training data on which students are compared, and on which none of them is trained."""
VIEWS = 5
"""How many views of each example trials see at most, where the recipe does not say: what the teacher says about them is asked once for all."""
SIGNIFICANT = 0.05

Outcome = Literal["complete", "pruned", "diverged", "running"]


@dataclass(frozen=True)
class Search:
    """What is searched: the student, how it is trained (losses aside), who teaches it, on which data, and how many trials there are in all.

    `whole` is the training data; `data` has the part to learn from as its training split, `held_out` is the other part. `cache`: what the teacher
    said about the views of the whole, which a run with the tuned recipe reads again.
    """

    recipe: str
    student: ModelSpec
    training: TrainingSpec
    teacher: TeacherFiles
    whole: PreparedData
    data: PreparedData
    held_out: SplitSource
    space: Space
    own: Entries
    wanted: tuple[str, ...]
    cache: tuple[CachedView, ...]
    seed: int
    trials: int
    about: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialRecord:
    """One trial. `value`: the mean of the metric on the held-out part after the last of `epochs` epochs; `values`: after each of them.
    `origin`: `drawn`, or what was tried first. `parameters`: the numbers that the search drew or that stand for the losses."""

    number: int
    origin: str
    losses: Entries
    parameters: dict[str, Any]
    outcome: Outcome
    epochs: int
    value: float | None
    values: tuple[float, ...]
    seconds: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Tuning:
    """What a search found. `added`: trials that this call made; `trials`: all of the study, whoever made them, without those that died.

    `best`: the complete trial with the largest value (the earliest of equals); `own`: the recipe's own losses; `difference`: of the best from
    the recipe's own, on the same held-out examples.
    """

    recipe: str
    metric: str
    study: str
    storage: str
    total: int
    added: int
    epochs: int
    views: int | None
    learned_from: int
    held_out: int
    trials: tuple[TrialRecord, ...]
    best: TrialRecord | None = None
    best_score: Estimate | None = None
    own: TrialRecord | None = None
    own_score: Estimate | None = None
    difference: PairedDifference | None = None
    importances: dict[str, float] = field(default_factory=dict)
    interrupted: bool = False
    tuned: Path | None = None
    report: Path | None = None
    log: Path | None = None

    def having(self, **changes: Any) -> Tuning:
        """A copy with more of it known."""
        return replace(self, **changes)

    def count(self, outcome: Outcome) -> int:
        """How many trials ended so."""
        return sum(trial.outcome == outcome for trial in self.trials)


def for_trials(training: TrainingSpec, epochs: int, *, views: int | None) -> TrainingSpec:
    """How trials are trained: as the student, for `epochs` epochs of `views` views, keeping nothing on the way."""
    changes = {"epochs": epochs, "views": views, "tensorboard": None, "checkpoint_seconds": 1e9}
    return replace(training, section=training.section.model_copy(update=changes), snapshots=False)


def about(search: Search, teacher: tuple[TeacherSpec, ...], file_digest: Callable[[Path], str]) -> dict[str, str]:
    """Digests of what the figures of trials depend on: another one begins another search.

    A teacher counts by how it is made, not by its bytes, which may differ between two machines that share a search.
    """
    training = search.training
    plain = training.section.model_copy(update={"losses": (), "cache": CacheSection()})
    code = [ImportPath(LOSSES[name]) for name in SEARCHED] + [ImportPath("kdedge.distill.loop:train"), ImportPath("kdedge.distill.tune:search")]
    parts: dict[str, Any] = {
        "teacher": teacher,
        "student": search.student,
        "data": (search.data.splits["train"].fingerprint, search.held_out.fingerprint, search.data.classes, training.augment),
        "training": (plain, training.peers, training.mixup, training.view_seed, search.seed),
        "search space": (search.space, SEARCHED, ALPHAS, TEMPERATURES, BETAS),
        "code": code,
    }
    return {name: digest_of(part, file_digest, lambda module: closure_of(module).digest)[:16] for name, part in parts.items()}


def conclusion(tuning: Tuning) -> str:
    """What the held-out figures say about the best trial and the recipe's own losses, in one or two sentences."""
    best, own, difference = tuning.best, tuning.own, tuning.difference
    if best is None:
        return "no trial went to its end, so nothing was found"
    chosen = f"the best of {tuning.count('complete')} is chosen on these same {tuning.held_out} examples, so its figure is too good by some"
    if own is None or difference is None:
        return f"the recipe's own losses were not tried to the end, so nothing is known of what was gained; {chosen}"
    if best.number == own.number:
        return "no trial was better than the recipe's own losses on the held-out examples: they stay"
    low = difference.estimate.low
    sure = (low is not None and low > 0) if difference.p_value is None else difference.p_value < SIGNIFICANT
    p = f", p = {difference.p_value:.2g}" if difference.p_value is not None else ""
    if sure:
        return f"better than the recipe's own losses on the held-out examples ({difference.estimate}{p}); {chosen}"
    return (
        f"the difference from the recipe's own losses ({difference.estimate}{p}) is within the noise of {tuning.held_out} held-out examples: "
        f"it may be none; {chosen}"
    )
