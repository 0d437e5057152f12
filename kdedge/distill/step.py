"""One training step: a batch becomes named terms. The losses know tensors; this knows where the tensors come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from kdedge.artifact import Encoder
from kdedge.distill.batches import Batch
from kdedge.distill.compiling import compiled
from kdedge.distill.layers import ALL_PAIRS, FORMS, LayerPair
from kdedge.distill.learned import TapShapes
from kdedge.distill.learned.temperature import Temperature
from kdedge.distill.schedule import LearnedTemperature, Moment, Schedule
from kdedge.distill.spec import TermSpec, TrainingSpec, wanted_of
from kdedge.distill.taps import Taps
from kdedge.errors import KdedgeError, ModelError, TrainingError
from kdedge.models.load import Model
from kdedge.models.spec import ModelSpec
from kdedge.tasks.contract import Task

Placed = Mapping[Encoder, Mapping[str, Tensor]]
Tensors = dict[str, Any]


@dataclass(frozen=True)
class Scene:
    """What a step looks at: the batch's tensors by encoder, its labels [N] and places in the split [N], and what the teacher answered."""

    inputs: Placed
    labels: Tensor
    samples: Tensor
    answers: Mapping[str, Tensor]


class Step(nn.Module):
    """Student, peers and the trained parts of the losses as one module, so that several processes share all their gradients; its forward pass
    evaluates the terms. Only `student` outlives the training.

    Raises:
        TrainingError: a term asks for an output or layer that a model does not have, fails, or returns anything but one number, or no term
            depends on the model.
        ModelError: the model fails.
    """

    def __init__(self, training: TrainingSpec, task: Task, spec: ModelSpec, student: Model, peers: Sequence[Model] = ()) -> None:
        super().__init__()
        self.student = student
        self.peers = nn.ModuleList(peers)
        self.learned = nn.ModuleDict()
        self.terms = training.terms
        self._functions = [_loaded(term) for term in training.terms]
        self._task, self._specs = task, (spec, *training.peers)
        self._asked = {name for term in training.terms for name in term.asked}
        self._taps = Taps(student.inner, (pair.student for term in training.terms for pair in term.layers), f"`{spec.name}`")
        # Not an attribute of the module: a compiled student must not be registered beside the student.
        self._compiled: list[Callable[..., Any]] = [compiled(student, spec)] if training.section.compile else []

    def wanted(self, moment: Moment) -> tuple[str, ...]:
        """What the terms that count at `moment` ask of the teacher."""
        return tuple(dict.fromkeys(what for term in self.terms if term.active(moment.progress) for what in wanted_of(term)))

    def weights(self, moment: Moment) -> tuple[float, ...]:
        """The weight of each term at `moment`; 0 where it is not computed."""
        return tuple(term.weight.at(moment.progress) if term.active(moment.progress) else 0.0 for term in self.terms)

    @torch.no_grad()
    def dry_run(self, scene: Scene, samples: int) -> None:
        """Run the student on a few examples without training it, and make the trained parts of the losses in the sizes that come out.

        `samples` is the size of the training split.
        """
        training = self.student.training
        # In eval, so that batch norm keeps its statistics.
        self.student.eval()
        available = self._available(scene, self.student)
        self.student.train(training)
        classes = int(available["student_logits"].shape[1])
        for place, term in enumerate(self.terms):
            parts = nn.ModuleDict()
            if term.learned is not None:
                groups = [self._group_tensors(term, group, available, term.learned_tensors) for group in _groups(term)]
                parts["parts"] = nn.ModuleList(_made(term, _tap_shapes(term, group, samples, classes)) for group in groups)
            if isinstance(term.parameters.get("temperature"), LearnedTemperature):
                parts["temperature"] = Temperature(term.parameters["temperature"])
            if parts:
                self.learned[str(place)] = parts

    def forward(self, scene: Scene, moment: Moment) -> tuple[Tensor, Tensor]:
        """The weighted sum of the terms (with gradient), and the terms before weighting [terms] (without), 0 where one does not count now."""
        available = self._available(scene, self._compiled[0] if self._compiled else self.student)
        weights = self.weights(moment)
        # What a loss computes is worth its full precision, whatever the model runs in.
        with torch.autocast(scene.labels.device.type, enabled=False):
            values = [
                self._evaluate(place, available, moment) if weight > 0 else scene.labels.new_zeros((), dtype=torch.float32)
                for place, weight in enumerate(weights)
            ]
        total = torch.stack([weight * value.float() for weight, value in zip(weights, values, strict=True)]).sum()
        self._taps.clear()
        if not total.requires_grad:
            names = ", ".join(f"`{term.name}`" for term, weight in zip(self.terms, weights, strict=True) if weight > 0) or "no term counts now"
            raise TrainingError(f"no gradient leads from the loss ({names}) to `{self._specs[0].name}`: it must be computed from the model's outputs")
        return total, torch.stack([value.detach().float() for value in values])

    # ---- tensors

    def _available(self, scene: Scene, student: Callable[..., Any]) -> Tensors:
        outputs = self._run(student, self._specs[0], scene)
        available: Tensors = {"labels": scene.labels, "samples": scene.samples}
        if "label_losses" in self._asked:
            available["label_losses"] = self._task.label_loss(outputs, scene.labels)
        available.update(self._named("student", outputs))
        available.update({f"teacher_{name}": value for name, value in scene.answers.items()})
        if self.peers:
            found = [self._run(peer, spec, scene) for peer, spec in zip(self.peers, self._specs[1:], strict=True)]
            available["peer_logits"] = [self._named("peer", each)["peer_logits"] for each in found]
            available["peer_label_losses"] = [self._task.label_loss(each, scene.labels) for each in found]
        return available

    def _run(self, model: Callable[..., Any], spec: ModelSpec, scene: Scene) -> Mapping[str, Tensor]:
        given = {each.name: scene.inputs[spec.encoder][each.name] for each in spec.inputs}
        try:
            outputs: Mapping[str, Tensor] = model(*given.values())
        except KdedgeError:
            raise
        except Exception as error:  # a model may be anybody's code
            raise ModelError(f"model `{spec.name}` failed in training on {_shapes(given)}: {type(error).__name__}: {error}") from error
        return {name: _at_least_float32(value) for name, value in outputs.items()}

    def _named(self, who: str, outputs: Mapping[str, Tensor]) -> Tensors:
        return {f"{who}_{'logits' if name == self._task.logits else name}": value for name, value in outputs.items()}

    def _group_tensors(self, term: TermSpec, group: tuple[LayerPair, ...], available: Tensors, names: Sequence[str]) -> Tensors:
        return {name: self._tensor(term, group, available, name) for name in names}

    def _tensor(self, term: TermSpec, group: tuple[LayerPair, ...], available: Tensors, name: str) -> Any:
        who, _, what = name.partition("_")
        if who in ("student", "teacher") and what in (*FORMS, ALL_PAIRS) and group:
            form = "feature" if what == ALL_PAIRS else what
            each = [self._layer(who, pair, form, available) for pair in group]
            return each if what == ALL_PAIRS else each[0]
        if name not in available:
            there = ", ".join(sorted(key for key in available if ":" not in key))
            raise TrainingError(f"the loss term `{term.name}` asks for `{name}`, which is not there (there are: {there})")
        return available[name]

    def _layer(self, who: str, pair: LayerPair, form: str, available: Tensors) -> Tensor:
        if who == "student":
            return _at_least_float32(self._taps.take(pair.student, form))
        found: Tensor = available[f"teacher_{form}:{pair.teacher}"]
        return found

    # ---- terms

    def _evaluate(self, place: int, available: Tensors, moment: Moment) -> Tensor:
        term = self.terms[place]
        parameters = self._settings(place, moment)
        values = [self._one(place, number, group, available, parameters) for number, group in enumerate(_groups(term))]
        return values[0] if len(values) == 1 else torch.stack(values).sum()

    def _one(self, place: int, number: int, group: tuple[LayerPair, ...], available: Tensors, parameters: Mapping[str, Any]) -> Tensor:
        term = self.terms[place]
        learned: Mapping[str, Any] = {}
        if term.learned is not None:
            part = self.learned[str(place)]["parts"][number]  # type: ignore[index]
            learned = _called(term, part, self._group_tensors(term, group, available, term.learned_tensors), group)
        # What the learned part gives stands before what the layers gave: an adapter's output has the name of what it adapts.
        given = {name: learned[name] if name in learned else self._tensor(term, group, available, name) for name in term.tensors}
        value = _called(term, self._functions[place], {**given, **parameters}, group)
        if not isinstance(value, Tensor) or value.ndim != 0:
            found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise TrainingError(f"the loss term `{term.name}` returned {found}: a loss returns one number, the mean over the batch")
        return value

    def _settings(self, place: int, moment: Moment) -> dict[str, Any]:
        return {name: self._setting(place, value, moment) for name, value in self.terms[place].parameters.items()}

    def _setting(self, place: int, value: Any, moment: Moment) -> Any:
        if isinstance(value, Schedule):
            return value.at(moment.progress)
        if isinstance(value, LearnedTemperature):
            return self.learned[str(place)]["temperature"](value.strength(moment.epoch))  # type: ignore[index]
        return value


def place(batch: Batch, encoders: Sequence[Encoder], device: torch.device, channels_last: bool) -> tuple[dict[Encoder, dict[str, Tensor]], Tensor]:
    """The arrays of a batch as tensors on `device`, by encoder, and the labels. Images are laid out channels last if asked."""
    inputs = {
        encoder: {name: _placed(array, device, channels_last) for name, array in arrays.items()}
        for encoder, arrays in zip(encoders, batch.inputs, strict=True)
    }
    return inputs, torch.tensor(batch.labels, device=device)


def _groups(term: TermSpec) -> list[tuple[LayerPair, ...]]:
    """The pairs that one evaluation of the term looks at: all at once, one after the other, or none."""
    if not term.layers or term.all_pairs:
        return [term.layers]
    return [(pair,) for pair in term.layers]


def _tap_shapes(term: TermSpec, tensors: Tensors, samples: int, classes: int) -> TapShapes:
    shapes: dict[str, list[tuple[int, ...]]] = {"student": [], "teacher": []}
    for name, value in tensors.items():
        who, _, what = name.partition("_")
        if what in (*FORMS, ALL_PAIRS) and term.layers:
            shapes[who] += [tuple(each.shape[1:]) for each in (value if isinstance(value, list) else [value])]
    return TapShapes(tuple(shapes["student"]), tuple(shapes["teacher"]), samples, classes)


def _made(term: TermSpec, shapes: TapShapes) -> nn.Module:
    assert term.learned is not None
    try:
        # The shapes were found without gradient; what is made for them is trained.
        with torch.enable_grad():
            part = term.learned.load()(shapes, **term.learned_parameters)
    except KdedgeError:
        raise
    except Exception as error:  # it may be anybody's code
        raise TrainingError(
            f"the learned part of `{term.name}` (`{term.learned.value}`) failed for {shapes}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(part, nn.Module):
        raise TrainingError(f"the learned part of `{term.name}` (`{term.learned.value}`) is a {type(part).__name__}, not a torch.nn.Module")
    return part


def _called(term: TermSpec, function: Callable[..., Any], given: Mapping[str, Any], group: tuple[LayerPair, ...]) -> Any:
    where = f" ({', '.join(f'{pair.student} - {pair.teacher}' if pair.teacher else pair.student for pair in group)})" if group else ""
    try:
        return function(**given)
    except KdedgeError as error:
        raise TrainingError(f"the loss term `{term.name}`{where}: {error}") from error
    except Exception as error:  # a loss may be anybody's code
        raise TrainingError(f"the loss term `{term.name}`{where} failed on {_shapes(given)}: {type(error).__name__}: {error}") from error


def _shapes(tensors: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items() if isinstance(tensor, Tensor) and tensor.ndim)


def _at_least_float32(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() and value.element_size() < 4 else value


def _placed(array: npt.NDArray[Any], device: torch.device, channels_last: bool) -> Tensor:
    # A copy, because torch aligns its own memory: numpy's alignment varies from run to run, and with it the last bits of some kernels.
    layout = torch.channels_last if channels_last and array.ndim == 4 else torch.contiguous_format
    return torch.from_numpy(np.ascontiguousarray(array)).clone(memory_format=layout).to(device, non_blocking=True)


def _loaded(term: TermSpec) -> Callable[..., Tensor]:
    function: Callable[..., Tensor] = term.function.load()
    return function
