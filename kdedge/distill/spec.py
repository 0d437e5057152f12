"""How a training run is described between recipe and trainer. Light: nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kdedge.artifact import ImportPath
from kdedge.distill.layers import ALL_PAIRS, FORMS, LayerPair
from kdedge.distill.schedule import Schedule
from kdedge.models.spec import ModelSpec
from kdedge.recipe import TrainSection

# What a loss may ask for by the names of its arguments, besides `student_OUTPUT` and `teacher_OUTPUT` for any output of the models, what
# layers give (`kdedge.distill.layers`), and what the learned part of the loss gives (`learned_...`).
PLAIN_TENSORS = ("labels", "label_losses", "samples", "peer_logits", "peer_label_losses")
# Those of them that are made from labels.
LABELS = ("labels", "label_losses", "peer_label_losses")


@dataclass(frozen=True)
class TermSpec:
    """One term of the loss: what it is called in logs, its function, its weight over the run, and the function's parameters.

    `tensors` are the arguments that the training step hands in: `student_logits`, `teacher_logits`, `labels`, `label_losses` (the task's
    label loss, [N]), `samples`, `student_OUTPUT` / `teacher_OUTPUT` for any other output, and what the `layers` give. `parameters` are plain
    values, or a `Schedule` or `LearnedTemperature`. `learned` makes the term's own trained part, from its `learned_parameters`; it takes
    `learned_tensors` and gives further ones. The term is computed from `start` to `stop`, fractions of the run.
    """

    name: str
    function: ImportPath
    weight: Schedule
    tensors: tuple[str, ...]
    parameters: dict[str, Any] = field(default_factory=dict)
    layers: tuple[LayerPair, ...] = ()
    learned: ImportPath | None = None
    learned_tensors: tuple[str, ...] = ()
    learned_parameters: dict[str, Any] = field(default_factory=dict)
    start: float = 0.0
    stop: float = 1.0

    @property
    def needs_teacher(self) -> bool:
        """Whether the term compares with a teacher."""
        return any(name.startswith("teacher_") for name in self.asked)

    @property
    def needs_peers(self) -> bool:
        """Whether the term looks at models that learn beside the student."""
        return any(name.startswith("peer_") for name in self.asked)

    @property
    def asked(self) -> tuple[str, ...]:
        """All tensors that the step hands to the term: to its function and to its learned part."""
        return tuple(dict.fromkeys((*self.tensors, *self.learned_tensors)))

    @property
    def all_pairs(self) -> bool:
        """Whether the loss takes the layers of all pairs at once, instead of one pair after the other."""
        return any(name in (f"student_{ALL_PAIRS}", f"teacher_{ALL_PAIRS}") for name in self.asked)

    def active(self, progress: float) -> bool:
        """Whether the term is computed when `progress` of the run is done."""
        return self.start <= progress < self.stop and self.weight.at(progress) > 0


@dataclass(frozen=True)
class Shown:
    """How an example looks when it is shown: the names of its augmentations, what they are drawn from, and whether it is mixed with another."""

    augment: tuple[str, ...] = ()
    seed: int = 0
    mixup: bool = False


@dataclass(frozen=True)
class TrainingSpec:
    """A training run: the recipe's section, its loss terms, and the names of the augmentations (of the recipe's `data` section).

    `view_seed` is what augmented views are drawn from (None: the run's seed): it stays the same where runs differ in their own seed, so that
    they share what a teacher said about the views. `peers` learn beside the model. `mixup` mixes examples in pairs. `snapshots` keeps the
    weights after each epoch beside the final ones.
    """

    section: TrainSection
    terms: tuple[TermSpec, ...]
    augment: tuple[str, ...] = ()
    view_seed: int | None = None
    peers: tuple[ModelSpec, ...] = ()
    mixup: bool = False
    snapshots: bool = False

    @property
    def views(self) -> int | None:
        """How many views of an example there are: what the section says, or 1 where nothing changes an example; None: a new one in each epoch."""
        return self.section.views if self.augment or self.mixup else 1

    def shown(self, seed: int) -> Shown:
        """How examples look in this run, of which `seed` is the seed."""
        return Shown(self.augment, self.view_seed if self.view_seed is not None else seed, self.mixup)


@dataclass(frozen=True)
class TeacherSpec:
    """A member of the teacher: its model, how it is trained (None: its weights are given), what it counts in the ensemble, and what its logits
    are divided by. Its classes are those of its model."""

    model: ModelSpec
    training: TrainingSpec | None = None
    weight: float = 1.0
    temperature: float = 1.0


def wanted_of(term: TermSpec) -> tuple[str, ...]:
    """What a term asks of the teacher: output names, and `FORM:LAYER` for what layers give."""
    wanted: list[str] = []
    for name in term.asked:
        who, _, what = name.partition("_")
        if who != "teacher":
            continue
        if what in FORMS or what == ALL_PAIRS:
            form = "feature" if what == ALL_PAIRS else what
            wanted += [f"{form}:{pair.teacher}" for pair in term.layers]
        else:
            wanted.append(what)
    return tuple(dict.fromkeys(wanted))


def wanted_of_all(terms: tuple[TermSpec, ...]) -> tuple[str, ...]:
    """What the terms ask of the teacher together. The logits are called `logits` here, whatever the task calls them."""
    return tuple(dict.fromkeys(what for term in terms for what in wanted_of(term)))
