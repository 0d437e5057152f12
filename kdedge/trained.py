"""What training leaves behind, as plain data: the lessons of a student, what was kept of its teacher, and the students that are compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kdedge.artifact import ModelFiles
from kdedge.estimate import Estimate


@dataclass(frozen=True)
class CachedView:
    """What a teacher said about one augmented view of the training split, kept on disk (`kdedge.distill.cache` reads it).

    `manifest` says what was asked of whom; `shards` hold the answers. What it cost to ask lies beside them, in `cost.json`: a measurement, on
    which nothing that is trained depends.
    """

    view: int
    samples: int
    manifest: Path
    shards: tuple[Path, ...]


@dataclass(frozen=True)
class CacheChoice:
    """Whether a teacher's answers are kept for a training run, why, and the figures behind that: the teacher's time for an example and the
    time to read its answers back (ms), the size of the answers about one view (bytes), and in how many epochs a loss asks the teacher."""

    use: bool
    reason: str
    teacher_ms: float = 0.0
    read_ms: float = 0.0
    view_bytes: int = 0
    epochs: int = 0


@dataclass(frozen=True)
class TrainedLesson:
    """One training run on the way to the student: its model, the lines of its metrics, and what was kept of its teacher."""

    label: str
    model: ModelFiles
    epochs: int
    views: int | None
    choice: CacheChoice | None = None
    cache: tuple[CachedView, ...] = ()

    @property
    def metrics(self) -> Path:
        """The file of its metrics, a line of JSON every hundred steps."""
        assert self.model.weights is not None
        return self.model.weights.with_name("metrics.jsonl")

    @property
    def snapshots(self) -> tuple[Path, ...]:
        """The weights after each epoch, where they were kept; the last are the model's own."""
        assert self.model.weights is not None
        return tuple(self.model.weights.with_name("epochs") / f"{epoch:04d}.safetensors" for epoch in range(1, self.epochs + 1))


@dataclass(frozen=True)
class ComparedStudent:
    """One student of a comparison: its training seed, the model, and its weights after each epoch (the last are the model's own)."""

    seed: int
    model: ModelFiles
    epochs: tuple[Path, ...]


@dataclass(frozen=True)
class ComparedArm:
    """Students that were trained alike and differ in their training seed alone."""

    name: str
    students: tuple[ComparedStudent, ...]


@dataclass(frozen=True)
class SeedScores:
    """The task metric of one student on the test data after each epoch of its training."""

    seed: int
    epochs: tuple[float, ...]

    @property
    def last(self) -> float:
        """After the last epoch: what ships, and what counts."""
        return self.epochs[-1]

    @property
    def best(self) -> float:
        """After the best epoch. Chosen on the test data, so it promises more than a student keeps."""
        return max(self.epochs)

    @property
    def best_epoch(self) -> int:
        """The first epoch (from 1) after which the metric was at its best."""
        return self.epochs.index(self.best) + 1


@dataclass(frozen=True)
class ArmScores:
    """The students of one arm. `last` and `best`: means over seeds with Student's t interval; `deviation`: the sample standard deviation of
    `last` over seeds (None for one seed)."""

    name: str
    seeds: tuple[SeedScores, ...]
    last: Estimate
    best: Estimate
    deviation: float | None

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest of the students after their last epoch."""
        found = [seed.last for seed in self.seeds]
        return min(found), max(found)


@dataclass(frozen=True)
class Comparison:
    """Students with and without a teacher, on the same test examples, over several seeds.

    `gain`: the mean over seeds of (first arm - second arm) after the last epoch, paired by seed, with Student's t interval; `differences` are
    those of each seed. Both are empty with one arm. `decided`: whether the seeds prove a difference, for which `reason` is the sentence.
    """

    metric: str
    examples: int
    arms: tuple[ArmScores, ...]
    gain: Estimate | None = None
    differences: tuple[float, ...] = ()
    decided: bool = False
    reason: str = ""


@dataclass(frozen=True)
class TrainingCost:
    """What the students of one arm cost, in seconds: a measurement, kept apart from what it bought. `seconds`: the training of each, with all
    models on the way to it (None where it was interrupted); `teacher_seconds`: for the answers of teachers that all of them share."""

    name: str
    seconds: tuple[float | None, ...]
    teacher_seconds: float | None = None
