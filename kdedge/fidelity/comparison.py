"""Students with and without a teacher, over several training seeds: what each scores, how far seeds differ, and whether the gain is proven."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from kdedge.artifact import PreparedData
from kdedge.data import open_examples
from kdedge.data.examples import Examples
from kdedge.errors import KdedgeError
from kdedge.estimate import FRACTION, Estimate
from kdedge.fidelity.forward import model_outputs
from kdedge.fidelity.scoring import checked_logits, task_scores
from kdedge.intervals import is_share, mean_over_runs
from kdedge.tasks.contract import Task
from kdedge.trained import ArmScores, ComparedArm, ComparedStudent, Comparison, SeedScores

TOOLS = ("numpy", "torch")

SPLIT = "test"
FEWEST_SEEDS = 3
"""With two seeds one number stands for the whole spread: whatever the interval says, nothing is called proven."""


def evaluate(arms: tuple[ComparedArm, ...], data: PreparedData, *, folder: Path) -> Comparison:
    """Stage: run all students over the test split, as they were after each epoch, and compare the first arm with the second.

    Called once, when all training is done: the test split is opened once, and nothing that is trained can depend on it. What counts is the
    last epoch. The interval of the gain speaks of training seeds on these test examples, not of other examples.

    Raises:
        ModelError: a student cannot be run, or has broken logits.
        KdedgeError: no arm, or arms of other seeds.
    """
    task: Task = data.task.load()
    examples = open_examples(data.splits[SPLIT])
    seen: set[bool] = set()
    scored = [(arm.name, tuple(_seed_scores(task, arm.name, student, examples, seen) for student in arm.students)) for arm in arms]
    # Shares are percent where every score of every student was 0 or 1.
    return compare(task.metric, FRACTION if seen == {True} else "", len(examples), scored)


def compare(metric: str, unit: str, examples: int, scored: Sequence[tuple[str, tuple[SeedScores, ...]]]) -> Comparison:
    """The figures of arms that were scored: (name, scores of each seed). The gain is that of the first arm over the second, if there is one.

    Raises:
        KdedgeError: no arm, an arm without students, or arms of other seeds, which cannot be paired.
    """
    if not scored or not all(seeds for _, seeds in scored):
        raise KdedgeError("a comparison needs at least one arm, and at least one student in each")
    arms = tuple(_arm(metric, unit, name, seeds) for name, seeds in scored)
    if len(arms) == 1:
        return Comparison(metric, examples, arms, reason=_alone(arms[0]))
    first, second = arms[:2]
    if [each.seed for each in first.seeds] != [each.seed for each in second.seeds]:
        raise KdedgeError(f"`{first.name}` and `{second.name}` were trained from other seeds: their students cannot be paired")
    differences = tuple(one.last - other.last for one, other in zip(first.seeds, second.seeds, strict=True))
    gain = mean_over_runs("gain", differences, unit)
    decided, reason = _decision(first.name, second.name, gain)
    return Comparison(metric, examples, arms, gain, differences, decided, reason)


def _seed_scores(task: Task, arm: str, student: ComparedStudent, examples: Examples, seen: set[bool]) -> SeedScores:
    means = []
    labels = np.asarray(examples.labels)
    for epoch, weights in enumerate(student.epochs, 1):
        who = f"{arm}, seed {student.seed}, epoch {epoch}/{len(student.epochs)}"
        outputs = model_outputs(replace(student.model, weights=weights), examples, f"compare: {who}")
        checked_logits(outputs[task.logits], who, len(examples))
        scores = task_scores(task, outputs, labels)
        seen.add(is_share(scores))
        means.append(float(scores.mean()))
    return SeedScores(student.seed, tuple(means))


def _arm(metric: str, unit: str, name: str, seeds: tuple[SeedScores, ...]) -> ArmScores:
    last = [seed.last for seed in seeds]
    deviation = float(np.std(last, ddof=1)) if len(last) > 1 else None
    return ArmScores(name, seeds, mean_over_runs(metric, last, unit), mean_over_runs(metric, [seed.best for seed in seeds], unit), deviation)


def _alone(arm: ArmScores) -> str:
    count = len(arm.seeds)
    return f"{count} seed{'s' if count > 1 else ''}, and no students without a teacher to compare with (compare.baseline: true)"


def _decision(first: str, second: str, gain: Estimate) -> tuple[bool, str]:
    """Whether the seeds prove a difference, and the sentence that says so."""
    pair = f"`{first}` over `{second}`: {gain.in_points}"
    if gain.n == 1:
        return False, f"{pair}: undecided, one seed says nothing of how far seeds differ"
    if gain.interval is None:
        return False, f"{pair}: undecided, all {gain.n} seeds differ by the same, so that their spread cannot be told"
    if gain.n < FEWEST_SEEDS:
        return False, f"{pair}: undecided, {gain.n} seeds are too few to know their spread (compare.seeds: {FEWEST_SEEDS} or more)"
    low, high = gain.interval
    if low <= 0 <= high:
        return False, f"{pair}: undecided, the spread over {gain.n} seeds is too large for this difference (more seeds narrow it)"
    return True, f"{pair}: {'better' if low > 0 else 'worse'}, by Student's t interval over {gain.n} paired seeds"
