"""The first step of a training run, taken on a copy and thrown away: what each term weighs, where gradients go, what it does to the teacher."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from kdedge.artifact import PreparedData
from kdedge.data import open_examples
from kdedge.distill.batches import Batch, Batches, Plan
from kdedge.distill.doctor.gradient_flow import Flow, Steadiness
from kdedge.distill.doctor.term_balance import TermScale
from kdedge.distill.ensemble import Teacher
from kdedge.distill.schedule import Moment, Schedule
from kdedge.distill.seeding import derived, seed_everything
from kdedge.distill.spec import TermSpec, TrainingSpec, wanted_of_all
from kdedge.distill.step import Scene, Step, place
from kdedge.errors import TrainingError
from kdedge.models.load import build
from kdedge.models.spec import ModelSpec
from kdedge.recipe import TrainSection

# Examples of the step: enough for batch statistics and for losses that compare examples, few enough to take no time.
EXAMPLES = 32
_FEW = 2
_START = Moment(0.0, 0.0)


class FirstStep:
    """What the first step of `training` would see: student and trained parts as the run would begin with them, and the teacher's answers.

    Every term counts, with its largest weight, also one that begins later in the run. The step has as many examples as go through the model at once
    in the run, at most `examples`.

    Raises:
        TrainingError, ModelError: as `kdedge.distill.step.Step`, or a gradient cannot be computed.
    """

    def __init__(
        self, model: ModelSpec, training: TrainingSpec, data: PreparedData, guide: Teacher | None, seed: int, examples: int = EXAMPLES
    ) -> None:
        section = training.section.model_copy(update={"compile": False})
        self.training = replace(training, section=section, terms=tuple(_counting(term) for term in training.terms))
        self.seed = section.seed if section.seed is not None else seed
        self.model, self.guide = model, guide
        self._task, self._examples = data.task.load(), open_examples(data.splits["train"])
        encoders = (model.encoder, *(peer.encoder for peer in training.peers), *(guide.encoders if guide is not None else ()))
        plan = Plan(min(at_once(section), examples), self.seed, training.shown(seed), training.views)
        batches = Batches(self._examples, self._task, encoders, plan)
        self._encoders = batches.encoders
        self.batch: Batch = next(batches.from_step(0, 1))
        self.wanted = wanted_of_all(self.training.terms)
        self._answers = self._asked(self.batch)

    def take(self) -> None:
        """A whole step, for the errors that it meets."""
        self._backward(self._step(self.training), self.training)

    def scales(self) -> list[TermScale]:
        """Each term alone: its value and the norm of its gradient with regard to the student, both before weighting."""
        found = []
        for term, counted in zip(self.training.terms, self._alone(), strict=True):
            step = self._step(counted)
            value = self._backward(step, counted)
            gradients = [parameter.grad for parameter in step.student.parameters() if parameter.grad is not None]
            norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients))
            found.append(TermScale(term.name, term.weight.largest, value, norm))
        return found

    def flows(self) -> list[Flow]:
        """Which parameters of the student, the peers and the trained parts of the losses get a gradient in a whole step."""
        step = self._step(self.training)
        self._backward(step, self.training)
        parts: dict[str, nn.Module] = {"the student": step.student}
        parts |= {f"peer {number + 1}": peer for number, peer in enumerate(step.peers)}
        parts |= {f"the trained part of {self.training.terms[int(place)].name}": part for place, part in step.learned.items()}
        flows = [_flow(whose, part) for whose, part in parts.items()]
        return [flow for flow in flows if flow.parameters]

    def steadiness(self) -> Steadiness:
        """How the teacher answers before and after the student takes a step."""
        assert self.guide is not None
        asked = tuple(dict.fromkeys((*self.wanted, "logits")))
        before, again = self._asked(self.batch, asked), self._asked(self.batch, asked)
        whole = before["logits"]
        parts = self._asked(self.batch.first(max(1, len(whole) // 4)), ("logits",))["logits"]
        step = self._step(self.training)
        shares = self.guide.owns({parameter.data_ptr() for parameter in step.student.parameters() if parameter.numel()})
        self._backward(step, self.training)
        torch.optim.SGD(step.parameters(), lr=0.1).step()
        after = self._asked(self.batch, asked)
        return Steadiness(
            repeats=_equal(before, again),
            alone=float((whole[: len(parts)] - parts).abs().max() / whole.std().clamp(min=1e-12)) if len(parts) < len(whole) else 0.0,
            unchanged=_equal(before, after),
            gradient=any(answer.requires_grad for answer in before.values()),
            shares=shares,
        )

    def pairs(self) -> list[tuple[TermSpec, int]]:
        """Each term that looks at layers, run on them, with the number of parameters that it trains.

        Raises:
            TrainingError: a layer is missing, or the loss cannot compare what the layers give.
        """
        found = []
        for term, counted in zip(self.training.terms, self._alone(), strict=True):
            if term.layers:
                step = self._step(counted)
                self._backward(step, counted)
                found.append((term, sum(parameter.numel() for parameter in step.learned.parameters())))
        return found

    def _alone(self) -> list[TrainingSpec]:
        ones = Schedule(((0.0, 1.0),))
        return [replace(self.training, terms=(replace(term, weight=ones),)) for term in self.training.terms]

    def _step(self, training: TrainingSpec) -> Step:
        """The step as a run begins it: all that is drawn comes from the run's seed."""
        seed_everything(derived(self.seed, "weights"))
        student = build(self.model)
        peers = []
        for number, peer in enumerate(training.peers):
            seed_everything(derived(self.seed, "peer", number))
            peers.append(build(peer))
        seed_everything(derived(self.seed, "learned"))
        step = Step(training, self._task, self.model, student, peers)
        few = self.batch.first(_FEW)
        step.dry_run(self._scene(few, self._asked(few)), len(self._examples))
        return step.train()

    def _backward(self, step: Step, training: TrainingSpec) -> float:
        wanted = wanted_of_all(training.terms)
        scene = self._scene(self.batch, {what: self._answers[what] for what in wanted})
        seed_everything(derived(self.seed, "step", 0, 0))
        loss, values = step(scene, _START)
        try:
            loss.backward()
        except RuntimeError as error:  # a loss may be anybody's code
            raise TrainingError(f"the gradient of the loss cannot be computed in step 1: {error}") from error
        return float(values.sum())

    def _scene(self, batch: Batch, answers: dict[str, Tensor]) -> Scene:
        inputs, labels = place(batch, self._encoders, torch.device("cpu"), False)
        return Scene(inputs, labels, torch.tensor(batch.samples), answers)

    def _asked(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Tensor]:
        wanted = self.wanted if wanted is None else wanted
        if self.guide is None or not wanted:
            return {}
        inputs, _ = place(batch, self._encoders, torch.device("cpu"), False)
        return self.guide.answers(inputs, batch, wanted)


def at_once(section: TrainSection) -> int:
    """How many examples go through the model at once: a batch, or a piece of one."""
    return -(-section.batch_size // section.accumulate)


def _counting(term: TermSpec) -> TermSpec:
    return replace(term, weight=Schedule(((0.0, term.weight.largest),)), start=0.0, stop=1.0)


def _flow(whose: str, part: nn.Module) -> Flow:
    parameters = dict(part.named_parameters())
    names = {name: name.removeprefix("inner.") for name in parameters}
    frozen = tuple(names[name] for name, parameter in parameters.items() if not parameter.requires_grad)
    without = tuple(names[name] for name, parameter in parameters.items() if parameter.requires_grad and parameter.grad is None)
    return Flow(whose, tuple(names.values()), frozen, without)


def _equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(answer, second[name]) for name, answer in first.items())
