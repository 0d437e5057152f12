"""One training step: a batch becomes named terms. The losses know tensors; this knows where the tensors come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from kdedge.artifact import Encoder, TensorSpec
from kdedge.distill.batches import Batch
from kdedge.distill.spec import TermSpec
from kdedge.errors import KdedgeError, ModelError, TrainingError
from kdedge.tasks.contract import Task

Placed = Mapping[Encoder, Mapping[str, Tensor]]


class Guide(Protocol):
    """What a step needs of a teacher: its outputs for a batch, by output name, without gradient."""

    def outputs(self, inputs: Placed) -> dict[str, Tensor]:
        """`inputs`: the batch as each encoder made it, on the device."""


class Step:
    """Forward student and teacher, and evaluate the terms of the loss. `name` is what errors call the model that is trained.

    Raises:
        TrainingError: a term asks for an output that a model does not have, fails, or returns anything but one number, or no term depends on
            the model.
        ModelError: the model fails.
    """

    def __init__(
        self,
        terms: Sequence[TermSpec],
        task: Task,
        encoder: Encoder,
        inputs: Sequence[TensorSpec],
        teacher: Guide | None,
        name: str = "the model",
    ) -> None:
        self._name = name
        self._terms = [(term, _loaded(term)) for term in terms]
        self._task, self._encoder, self._teacher = task, encoder, teacher
        self._inputs = [spec.name for spec in inputs]
        self._wanted = {name for term in terms for name in term.tensors}

    def __call__(self, model: nn.Module, inputs: Placed, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted sum of the terms (with gradient), and the terms before weighting [terms] (without)."""
        available = self._tensors(model, inputs, labels)
        values = [self._evaluate(term, function, available) for term, function in self._terms]
        weights = [term.weight for term, _ in self._terms]
        total = torch.stack([weight * value for weight, value in zip(weights, values, strict=True)]).sum()
        if not total.requires_grad:
            names = ", ".join(f"`{term.name}`" for term, _ in self._terms)
            raise TrainingError(f"no gradient leads from the loss ({names}) to `{self._name}`: it must be computed from the model's outputs")
        return total, torch.stack([value.detach() for value in values])

    def _tensors(self, model: nn.Module, inputs: Placed, labels: Tensor) -> dict[str, Tensor]:
        student = self._run(model, {name: inputs[self._encoder][name] for name in self._inputs})
        available = {"labels": labels}
        if "label_losses" in self._wanted:
            available["label_losses"] = self._task.label_loss(student, labels)
        available.update(self._named("student", student))
        if self._teacher is not None:
            available.update(self._named("teacher", self._teacher.outputs(inputs)))
        return available

    def _run(self, model: nn.Module, given: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        try:
            outputs: Mapping[str, Tensor] = model(*given.values())
        except KdedgeError:
            raise
        except Exception as error:  # a model may be anybody's code
            raise ModelError(f"model `{self._name}` failed in training on {_shapes(given)}: {type(error).__name__}: {error}") from error
        return outputs

    def _named(self, who: str, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {f"{who}_{'logits' if name == self._task.logits else name}": value for name, value in outputs.items()}

    def _evaluate(self, term: TermSpec, function: Callable[..., Tensor], available: Mapping[str, Tensor]) -> Tensor:
        for name in term.tensors:
            if name not in available:
                raise TrainingError(f"the loss term `{term.name}` asks for `{name}`, which is not there (there are: {', '.join(sorted(available))})")
        try:
            value = function(**{name: available[name] for name in term.tensors}, **term.parameters)
        except KdedgeError:
            raise
        except Exception as error:  # a loss may be anybody's code
            shapes = _shapes({name: available[name] for name in term.tensors})
            raise TrainingError(f"the loss term `{term.name}` failed on {shapes}: {type(error).__name__}: {error}") from error
        if not isinstance(value, Tensor) or value.ndim != 0:
            found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise TrainingError(f"the loss term `{term.name}` returned {found}: a loss returns one number, the mean over the batch")
        return value


def place(batch: Batch, encoders: Sequence[Encoder], device: torch.device, channels_last: bool) -> tuple[dict[Encoder, dict[str, Tensor]], Tensor]:
    """The arrays of a batch as tensors on `device`, by encoder, and the labels. Images are laid out channels last if asked."""
    inputs = {
        encoder: {name: _tensor(array, device, channels_last) for name, array in arrays.items()}
        for encoder, arrays in zip(encoders, batch.inputs, strict=True)
    }
    return inputs, torch.tensor(batch.labels, device=device)


def _shapes(tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())


def _tensor(array: npt.NDArray[Any], device: torch.device, channels_last: bool) -> Tensor:
    # A copy, because torch aligns its own memory: numpy's alignment varies from run to run, and with it the last bits of some kernels.
    layout = torch.channels_last if channels_last and array.ndim == 4 else torch.contiguous_format
    return torch.from_numpy(np.ascontiguousarray(array)).clone(memory_format=layout).to(device, non_blocking=True)


def _loaded(term: TermSpec) -> Callable[..., Tensor]:
    function: Callable[..., Tensor] = term.function.load()
    return function
