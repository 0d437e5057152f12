"""The teacher as a student sees it: asked for its outputs, never trained, saved or exported."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from kdedge.artifact import Encoder, ModelFiles, PreparedData, TeacherFiles
from kdedge.data import open_examples
from kdedge.data.encode import encode
from kdedge.distill.step import Placed
from kdedge.errors import KdedgeError, ModelError, TrainingError
from kdedge.models.load import load
from kdedge.runtimes.errors import RuntimeFailure
from kdedge.runtimes.onnxruntime import open_session

# Enough to see that a teacher answers, and in which form.
_EXAMPLES = 2


class Teacher:
    """One model or an ensemble, frozen and in eval by construction.

    It is no `nn.Module` and hands out no module, so that nothing that trains, saves or exports a student can reach it. It answers in float32
    whatever the student's precision. `logits` names the output that holds a distribution over classes; `encoders` are the members'.

    Raises:
        ModelError: a member cannot be opened.
    """

    def __init__(self, files: TeacherFiles, logits: str) -> None:
        self.name = "teacher " + " + ".join(f"`{member.name}`" for member in files.members)
        self.encoders: tuple[Encoder, ...] = tuple(member.encoder for member in files.members)
        self._logits = logits
        self._members = [_open(member) for member in files.members]
        self._weights = files.weights

    def move(self, device: torch.device, channels_last: bool = False) -> None:
        """Answer on `device` from now on."""
        for member in self._members:
            member.move(device, channels_last)

    def outputs(self, inputs: Placed) -> dict[str, Tensor]:
        """Outputs by name, float32, without gradient.

        One member: all its outputs as they are. Several: log-probabilities [N, C] of the weighted mean of the members' softmax.
        `inputs`: tensors by input name, for each member's encoder.

        Raises:
            ModelError: members differ in their class counts, or one cannot be run.
        """
        with torch.no_grad():
            answers = [member.outputs(inputs[encoder]) for member, encoder in zip(self._members, self.encoders, strict=True)]
            return answers[0] if len(answers) == 1 else {self._logits: self._mean([answer[self._logits] for answer in answers])}

    def check(self, data: PreparedData) -> None:
        """Ask about the first training examples, before an hour is spent on what the teacher says.

        Raises:
            ModelError: it has no logits of the form [examples, classes], or they are not finite.
            TrainingError: its class count is not the data's; names both.
        """
        examples = open_examples(data.splits["train"])
        raw = examples.raw(np.arange(min(_EXAMPLES, len(examples)), dtype=np.int64))
        answer = self.outputs({encoder: {name: torch.tensor(array) for name, array in encode(encoder, raw).items()} for encoder in self.encoders})
        if self._logits not in answer:
            raise ModelError(f"{self.name} has no output `{self._logits}` (its outputs: {', '.join(answer) or 'none'})")
        logits = answer[self._logits]
        if logits.ndim != 2:
            raise ModelError(f"{self.name} gives logits of shape {list(logits.shape)}; a distribution over classes is [examples, classes]")
        if logits.shape[1] != len(data.classes):
            shown = ", ".join(data.classes[:10])
            raise TrainingError(f"{self.name} gives {logits.shape[1]} classes, the data (and the student) has {len(data.classes)} ({shown})")
        if not bool(torch.isfinite(logits).all()):
            raise ModelError(f"{self.name} gives logits that are not finite on the first training examples: are weights and normalisation right?")

    def owns(self, addresses: set[int]) -> bool:
        """Whether a parameter of the teacher lies at any of these addresses (`Tensor.data_ptr`)."""
        return any(member.owns(addresses) for member in self._members)

    def _mean(self, logits: list[Tensor]) -> Tensor:
        counts = [int(each.shape[1]) for each in logits]
        if len(set(counts)) > 1:
            raise ModelError(f"{self.name}: the members give {', '.join(map(str, counts))} classes; an ensemble averages one label space")
        weighted = [torch.log_softmax(each, dim=1) + math.log(weight) for each, weight in zip(logits, self._weights, strict=True)]
        return torch.logsumexp(torch.stack(weighted), dim=0)


class _Member(Protocol):
    def move(self, device: torch.device, channels_last: bool) -> None: ...

    def outputs(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]: ...

    def owns(self, addresses: set[int]) -> bool: ...


def _open(files: ModelFiles) -> _Member:
    return _TorchMember(files) if files.onnx is None else _OnnxMember(files)


class _TorchMember:
    def __init__(self, files: ModelFiles) -> None:
        self._name = f"teacher `{files.name}`"
        self._module = load(files).float().requires_grad_(False).eval()
        self._inputs = [spec.name for spec in files.inputs]

    def move(self, device: torch.device, channels_last: bool) -> None:
        self._module.to(device=device)
        if channels_last:
            self._module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def outputs(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        given = [inputs[name] for name in self._inputs]
        with torch.autocast(given[0].device.type, enabled=False):
            answer: dict[str, Tensor] = self._run(given)
        return {name: value.float() for name, value in answer.items()}

    def owns(self, addresses: set[int]) -> bool:
        return any(parameter.data_ptr() in addresses for parameter in self._module.parameters())

    def _run(self, given: list[Tensor]) -> dict[str, Tensor]:
        try:
            answer: dict[str, Tensor] = self._module(*given)
        except KdedgeError:
            raise
        except Exception as error:  # the model may be anybody's code
            shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in zip(self._inputs, given, strict=True))
            raise ModelError(f"{self._name} cannot be run on {shapes}: {type(error).__name__}: {error}") from error
        return answer


class _OnnxMember:
    """A teacher that nobody has the source of: run by ONNX Runtime on the CPU, in this process. A graph with a fixed batch gets chunks."""

    def __init__(self, files: ModelFiles) -> None:
        self._name = f"teacher `{files.name}`"
        try:
            self._session = open_session([str(files.onnx)], {"threads": torch.get_num_threads(), "spinning": False})
        except RuntimeFailure as error:
            raise ModelError(f"{self._name}: {error}") from error
        self._inputs = files.inputs
        batch = files.inputs[0].shape[0]
        self._batch = batch if isinstance(batch, int) else None
        self._device = torch.device("cpu")

    def move(self, device: torch.device, channels_last: bool) -> None:
        self._device = device

    def outputs(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        arrays = {spec.name: np.ascontiguousarray(inputs[spec.name].cpu().numpy().astype(spec.dtype, copy=False)) for spec in self._inputs}
        size = len(next(iter(arrays.values())))
        parts = [self._run(chunk) for chunk in self._chunks(arrays, size)]
        answer = {name: np.concatenate([part[name] for part in parts])[:size] for name in parts[0]}
        return {name: torch.tensor(value, dtype=torch.float32, device=self._device) for name, value in answer.items()}

    def owns(self, addresses: set[int]) -> bool:
        return False

    def _run(self, arrays: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._session.run(arrays)
        except Exception as error:  # ONNX Runtime's error classes have no base but Exception
            shapes = ", ".join(f"{name} {array.dtype} {list(array.shape)}" for name, array in arrays.items())
            raise ModelError(f"{self._name}: ONNX Runtime cannot run it on {shapes}: {error}") from error

    def _chunks(self, arrays: dict[str, Any], size: int) -> list[dict[str, Any]]:
        if self._batch is None:
            return [arrays]
        # The last chunk is filled up with the last example; what it gives for the filling is cut off.
        places = [np.minimum(np.arange(start, start + self._batch), size - 1) for start in range(0, size, self._batch)]
        return [{name: array[place] for name, array in arrays.items()} for place in places]
