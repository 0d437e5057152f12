"""The teacher as a student sees it: asked for its outputs, never trained, saved or exported."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from kdedge.artifact import Encoder, ModelFiles, PreparedData, TeacherFiles
from kdedge.data import open_examples
from kdedge.data.encode import encode
from kdedge.distill.batches import Batch
from kdedge.distill.step import Placed
from kdedge.distill.taps import Taps
from kdedge.errors import KdedgeError, ModelError, TrainingError
from kdedge.models.load import load
from kdedge.runtimes.errors import RuntimeFailure
from kdedge.runtimes.onnxruntime import open_session

# Enough to see that a teacher answers, and in which form.
_EXAMPLES = 2


class Teacher:
    """One model or an ensemble, frozen and in eval by construction.

    It is no `nn.Module` and hands out no module, so that nothing that trains, saves or exports a student can reach it. It answers in float32
    whatever the student's precision. `logits` names the output that holds a distribution over classes; `encoders` are the members';
    `wanted` is what it will be asked for besides (`FORM:LAYER`, what layers inside it give).

    Raises:
        ModelError: a member cannot be opened.
        TrainingError: layers are wanted of an ensemble or of an ONNX file, which show none, or there is no such layer.
    """

    def __init__(self, files: TeacherFiles, logits: str, wanted: Sequence[str] = ()) -> None:
        self.name = "teacher " + " + ".join(f"`{member.name}`" for member in files.members)
        self.encoders: tuple[Encoder, ...] = tuple(member.encoder for member in files.members)
        self.device = torch.device("cpu")
        self._logits = logits
        self._members = [_open(member) for member in files.members]
        self._weights, self._readings = files.weights, files.readings
        self._own_classes = tuple(len(member.classes) for member in files.members)
        layers = [what.partition(":")[2] for what in wanted if ":" in what]
        self._taps = self._tapped(layers) if layers else None

    def move(self, device: torch.device, channels_last: bool = False) -> None:
        """Answer on `device` from now on."""
        self.device = device
        for member in self._members:
            member.move(device, channels_last)

    def outputs(self, inputs: Placed) -> dict[str, Tensor]:
        """Outputs by name, float32, without gradient.

        The logits [N, C] are over the data's classes, divided by the member's temperature. One member: all its outputs. Several:
        log-probabilities of the weighted mean of the members' softmax. `inputs`: tensors by input name, for each member's encoder.

        Raises:
            ModelError: members differ in their class counts, or one has no logits for its classes or cannot be run.
        """
        with torch.no_grad():
            answers = [self._answer(place, inputs[encoder]) for place, encoder in enumerate(self.encoders)]
            return answers[0] if len(answers) == 1 else {self._logits: self._mean([answer[self._logits] for answer in answers])}

    def answers(self, inputs: Placed, batch: Batch, wanted: Sequence[str]) -> dict[str, Tensor]:
        """What is wanted about a batch: `logits`, other outputs by name, and `FORM:LAYER`; float32, without gradient.

        Raises:
            ModelError: as `outputs`, or there is no such output.
        """
        if not wanted:
            return {}
        given = self.outputs(inputs)
        found = {"logits" if name == self._logits else name: value for name, value in given.items()}
        for what in wanted:
            form, _, layer = what.partition(":")
            if layer and self._taps is not None:
                found[what] = self._taps.take(layer, form).detach().float()
            elif what not in found:
                raise ModelError(f"{self.name} has no output `{what}` (its outputs: {', '.join(given)})")
        if self._taps is not None:
            self._taps.clear()
        return {what: found[what] for what in wanted}

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

    def _tapped(self, layers: list[str]) -> Taps:
        member = self._members[0]
        if len(self._members) > 1 or not isinstance(member, _TorchMember):
            kind = "an ensemble" if len(self._members) > 1 else "an ONNX file"
            raise TrainingError(f"{self.name} is {kind}, which shows no layers ({', '.join(layers)}): use losses on logits, or one torch teacher")
        return Taps(member.inner, layers, self.name)

    def _answer(self, place: int, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        answer = self._members[place].outputs(inputs)
        temperature, kept = self._readings[place]
        if self._logits not in answer and len(self._members) > 1:
            raise ModelError(f"{self.name}: a member has no output `{self._logits}` (its outputs: {', '.join(answer) or 'none'})")
        if self._logits not in answer or (not kept and temperature == 1.0):
            return answer
        logits = answer[self._logits]
        if kept and (logits.ndim != 2 or logits.shape[1] != self._own_classes[place]):
            raise ModelError(f"{self.name}: a member gives logits {list(logits.shape)}, and its `classes` name {self._own_classes[place]}")
        return {**answer, self._logits: (logits[:, list(kept)] if kept else logits) / temperature}

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

    @property
    def inner(self) -> nn.Module:
        return self._module.inner

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
