"""Asking models about a few hundred training examples, and what they cost."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kdedge.artifact import Encoder, ModelFiles, PreparedData, TeacherFiles
from kdedge.data import open_examples
from kdedge.data.encode import encode
from kdedge.distill.batches import augmented
from kdedge.distill.doctor.size_of_models import ModelSize
from kdedge.distill.doctor.trials import Ask
from kdedge.distill.ensemble import Teacher
from kdedge.distill.seeding import derived
from kdedge.distill.spec import Shown
from kdedge.models.load import Model, count_parameters, load

Int64 = npt.NDArray[np.int64]
Inputs = dict[str, Tensor]

# Enough to know an accuracy within about 4 points; fewer where a model is slow, but never too few to tell right from wrong.
MOST, FEWEST = 256, 64
# A pass over the examples may take about so long, in seconds.
_PATIENCE = 1.5
_CHUNK = 64
_TIMED = 16


@dataclass(frozen=True)
class Sample:
    """Seeded training examples: their places in the split and labels."""

    places: Int64
    labels: Int64

    def first(self, count: int) -> Sample:
        """The first of them: as fair a sample, as they are in random order."""
        return Sample(self.places[:count], self.labels[:count])


class Probe:
    """A teacher (or a student that is given), asked about training examples.

    Raises:
        ModelError, TrainingError: as `kdedge.distill.ensemble.Teacher`.
    """

    def __init__(self, files: TeacherFiles, data: PreparedData) -> None:
        self.files, self._data = files, data
        self._task = data.task.load()
        self._teacher = Teacher(files, self._task.logits)
        self._teacher.check(data)
        self._examples = open_examples(data.splits["train"])

    def sample(self, seed: int) -> Sample:
        """Some hundred training examples, as many as the model is fast enough for."""
        order = np.random.RandomState(derived(seed, "doctor")).permutation(len(self._examples)).astype(np.int64)[:MOST]
        chosen = Sample(order, self._examples.labels[order])
        _, seconds = self._timed(chosen.first(_TIMED))
        affordable = int(_PATIENCE * min(_TIMED, len(order)) / max(seconds, 1e-9))
        return chosen.first(max(FEWEST, affordable))

    def logits(self, sample: Sample, shown: Shown | None = None) -> Tensor:
        """[n, C] for the examples as they are, or as they are `shown` in the first view."""
        return torch.cat([self._asked(sample.places[start : start + _CHUNK], shown) for start in range(0, len(sample.places), _CHUNK)])

    def milliseconds(self, sample: Sample) -> float:
        """The time for an example, the best of three passes over a few, encoding included."""
        few = sample.first(_TIMED)
        return 1e3 * min(self._timed(few)[1] for _ in range(3)) / len(few.places)

    def inputs(self, sample: Sample) -> Inputs:
        """The examples as the first member's encoder makes them."""
        encoder = self.files.members[0].encoder
        return {name: torch.tensor(array) for name, array in encode(encoder, self._examples.raw(sample.places)).items()}

    def ask(self) -> Ask:
        """Logits for inputs of the first member's encoder."""

        def logits(inputs: Mapping[str, Tensor]) -> Tensor:
            count = len(next(iter(inputs.values())))
            return torch.cat(
                [
                    self._teacher.outputs({self.files.members[0].encoder: {name: tensor[start : start + _CHUNK] for name, tensor in inputs.items()}})[
                        self._task.logits
                    ]
                    for start in range(0, count, _CHUNK)
                ]
            )

        return logits

    def _asked(self, places: Int64, shown: Shown | None) -> Tensor:
        raw: Any = self._examples.raw(places) if shown is None else augmented(self._examples, self._task, places, 0, shown)
        encoders: tuple[Encoder, ...] = tuple(dict.fromkeys(self._teacher.encoders))
        placed = {encoder: {name: torch.tensor(array) for name, array in encode(encoder, raw).items()} for encoder in encoders}
        return self._teacher.outputs(placed)[self._task.logits]

    def _timed(self, sample: Sample) -> tuple[Tensor, float]:
        started = time.monotonic()
        answer = self.logits(sample)
        return answer, time.monotonic() - started


def member(files: TeacherFiles, place: int) -> TeacherFiles:
    """One member of an ensemble as a teacher of its own."""
    here = slice(place, place + 1)
    return TeacherFiles(files.members[here], (1.0,), files.temperatures[here], files.maps[here])


def size_of_teacher(files: TeacherFiles, milliseconds: float, inputs: Mapping[Encoder, Inputs]) -> ModelSize:
    """All members together. An ONNX file does not say what it computes."""
    macs = [0 if each.onnx is not None else macs_of(load(each), each, inputs[each.encoder]) for each in files.members]
    return ModelSize(sum(each.parameters for each in files.members), sum(macs) if all(macs) else 0, milliseconds)


def size_of_student(model: Model, spec: Any, inputs: Inputs) -> ModelSize:
    """A model that was just built, on the same few examples."""
    model.eval()
    given = [inputs[each.name] for each in spec.inputs]
    seconds = []
    with torch.no_grad():
        for _ in range(3):
            started = time.monotonic()
            model(*given)
            seconds.append(time.monotonic() - started)
    return ModelSize(count_parameters(model), macs_of(model, spec, inputs), 1e3 * min(seconds) / len(given[0]))


def macs_of(model: Model, spec: ModelFiles | Any, inputs: Inputs) -> int:
    """Multiply-accumulates for one example of `inputs`: of its convolutions and matrix products."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(*(inputs[each.name][:1] for each in spec.inputs))
    return int(counter.get_total_flops()) // 2
