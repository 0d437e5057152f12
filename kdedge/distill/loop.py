"""The training loop that teacher and student share: on Accelerate, resumable to the byte."""

from __future__ import annotations

import hashlib
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from kdedge.artifact import Encoder, ModelFiles, PreparedData
from kdedge.data import open_examples
from kdedge.distill.average import Average
from kdedge.distill.batches import Batch, Batches, Plan, ahead
from kdedge.distill.checkpoint import load_checkpoint, remove_checkpoints, save_checkpoint, write_weights
from kdedge.distill.metrics import TermLog
from kdedge.distill.optimizer import build_optimizer, learning_rate, set_learning_rate
from kdedge.distill.seeding import derived, reproducible, seed_everything
from kdedge.distill.spec import TrainingSpec
from kdedge.distill.step import Guide, Step, place
from kdedge.errors import TrainingError
from kdedge.models.load import Model, build, check_classes, files_of
from kdedge.models.spec import ModelSpec
from kdedge.progress import advance

if TYPE_CHECKING:
    from accelerate import Accelerator

# How often the terms are looked at (on a GPU each look waits for the device) and progress is told, in steps.
_LOOK = 10
# A line of metrics at least this often, in steps; there is one at the end of each epoch.
_LINE = 100

WEIGHTS, METRICS = "model.safetensors", "metrics.jsonl"


class Companion(Guide, Protocol):
    """The teacher as the loop sees it."""

    name: str
    encoders: tuple[Encoder, ...]

    def move(self, device: torch.device, channels_last: bool) -> None:
        """Answer on `device` from now on."""

    def check(self, data: PreparedData) -> None:
        """See that it answers about this data, for as many classes."""

    def owns(self, addresses: set[int]) -> bool:
        """Whether a parameter of the teacher lies at any of these addresses."""


def train(
    accelerator: Accelerator,
    spec: ModelSpec,
    training: TrainingSpec,
    data: PreparedData,
    seed: int,
    *,
    folder: Path,
    what: str,
    teacher: Companion | None = None,
) -> ModelFiles:
    """Train a model on the training split and write `model.safetensors` and `metrics.jsonl` into `folder`.

    All randomness is a pure function of the seed (the recipe's, or the section's own) and the step, so that a run that was killed goes on from
    its last checkpoint and ends in the same bytes (on the same number of threads, by which sums are split). `what` is what progress calls
    this run. Several processes (`torchrun`, `accelerate launch`) share `folder`; the first of them writes.

    Raises:
        TrainingError: the model cannot be trained, class counts differ, or a loss is no number (the last good checkpoint is kept).
    """
    if spec.onnx is not None:
        raise TrainingError(
            f"`{spec.name}` is an ONNX file, which cannot be trained: name its source as package.module:factory, or leave out the training"
        )
    seed = training.section.seed if training.section.seed is not None else seed
    with reproducible():
        seed_everything(derived(seed, "weights"))
        model = build(spec)
        weights = folder / WEIGHTS
        # Weights that are there were written by an attempt that was killed after its last step.
        if not weights.exists():
            _check(spec, model, teacher, data)
            run = _Run(accelerator, spec, training, data, seed, folder, what, model, teacher)
            run.resume()
            run.finish_training()
            accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            remove_checkpoints(folder)
    return files_of(spec, weights, model)


def _check(spec: ModelSpec, model: Model, teacher: Companion | None, data: PreparedData) -> None:
    if spec.classes != data.classes:
        known, needed = (f"{len(names)} ({', '.join(names[:10])})" for names in (spec.classes, data.classes))
        raise TrainingError(f"`{spec.name}` is made for other classes than the data's {needed}: for {known}")
    check_classes(model, spec)
    if teacher is not None:
        teacher.check(data)
        if teacher.owns({parameter.data_ptr() for parameter in model.parameters() if parameter.numel()}):
            raise TrainingError(
                f"`{spec.name}` shares parameters with its {teacher.name}: a factory must build a new model each time that it is called"
            )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TrainingError(f"`{spec.name}` has no parameter that can be trained")


class _Run:
    """One run: the model with everything that moves while it is trained. `step` counts finished steps."""

    def __init__(
        self,
        accelerator: Accelerator,
        spec: ModelSpec,
        training: TrainingSpec,
        data: PreparedData,
        seed: int,
        folder: Path,
        what: str,
        model: nn.Module,
        teacher: Companion | None,
    ) -> None:
        section = training.section
        examples = open_examples(data.splits["train"])
        encoders = (spec.encoder, *(teacher.encoders if teacher is not None else ()))
        plan = Plan(section.batch_size, seed, training.augment, section.views)
        task = data.task.load()
        if section.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if teacher is not None:
            teacher.move(accelerator.device, section.channels_last)
        self.accelerator, self.section, self.seed, self.folder, self.what = accelerator, section, seed, folder, what
        self.batches = Batches(examples, task, encoders, plan, rank=accelerator.process_index, processes=accelerator.num_processes)
        self.total = section.epochs * self.batches.steps_per_epoch
        self.evaluate = Step(training.terms, task, spec.encoder, spec.inputs, teacher, spec.name)
        self.prepared, self.optimizer = accelerator.prepare(model, build_optimizer(model, section.optimizer))
        self.model = accelerator.unwrap_model(self.prepared)
        self.average = Average(self.model, section.ema) if section.ema is not None else None
        self.log = TermLog(training.terms, self.batches.steps_per_epoch, section.epochs)
        self.step = 0
        self.saved_at = time.monotonic()

    def resume(self) -> None:
        """Go on from the checkpoint of a killed attempt, if there is one."""
        state = load_checkpoint(self.folder, self._identity())
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load(state["average"])
        self.log.load(state["log"])
        self.step = state["step"]

    def finish_training(self) -> None:
        """Train to the end and write weights and metrics."""
        self.prepared.train()
        with closing(ahead(self.batches.from_step(self.step, self.total))) as batches:
            for batch in batches:
                self._update(batch)
                self.step += 1
                self._after_step()
        self._check_weights()
        if self.accelerator.is_main_process:
            self.log.write(self.folder / METRICS)
            write_weights(self.average.state if self.average is not None else self.model.state_dict(), self.folder / WEIGHTS)

    def _update(self, batch: Batch) -> None:
        # Dropout and whatever else a model draws in this step depends on nothing before it.
        seed_everything(derived(self.seed, "step", self.step, self.accelerator.process_index))
        set_learning_rate(self.optimizer, learning_rate(self.section, self.step, self.batches.steps_per_epoch))
        inputs, labels = place(batch, self.batches.encoders, self.accelerator.device, self.section.channels_last)
        self.optimizer.zero_grad()
        loss, values = self.evaluate(self.prepared, inputs, labels)
        try:
            self.accelerator.backward(loss * batch.share if batch.share != 1.0 else loss)
        except RuntimeError as error:
            raise TrainingError(f"the gradient of the loss cannot be computed in step {self.step + 1}: {error}") from error
        if self.section.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.section.clip_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.step)
        self.log.add(values)

    def _after_step(self) -> None:
        in_epoch = self.step % self.batches.steps_per_epoch
        line = in_epoch == 0 or in_epoch % _LINE == 0
        due = in_epoch == 0 or time.monotonic() - self.saved_at >= self.section.checkpoint_seconds
        if line or due or self.step % _LOOK == 0:
            loss = self.log.check()
            epoch = (self.step - 1) // self.batches.steps_per_epoch + 1
            advance(self.what, self.step, self.total, f"epoch {epoch}/{self.section.epochs}, loss {loss:.4g}")
        if line:
            self.log.line(learning_rate(self.section, self.step - 1, self.batches.steps_per_epoch), self._mean_over_processes)
        if due:
            self._check_weights()
            if self.accelerator.is_main_process:
                self.log.write(self.folder / METRICS)
                save_checkpoint(self.folder, self._state())
            self.saved_at = time.monotonic()

    def _state(self) -> dict[str, Any]:
        return {
            "run": self._identity(),
            "step": self.step,
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state if self.average is not None else None,
            "log": self.log.state(),
        }

    def _identity(self) -> str:
        shapes = [(name, tuple(value.shape)) for name, value in self.model.state_dict().items()]
        return hashlib.sha256(repr((self.seed, self.total, self.average is None, shapes)).encode()).hexdigest()

    def _check_weights(self) -> None:
        for name, value in self.model.state_dict().items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise TrainingError(
                    f"the weights `{name}` are not finite after step {self.step} although every loss term was: a gradient overflowed; lower "
                    "optimizer.lr or set clip_norm (the last good checkpoint is kept)"
                )

    def _mean_over_processes(self, values: list[float]) -> list[float]:
        if self.accelerator.num_processes == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float32, device=self.accelerator.device)
        return [float(value) for value in self.accelerator.reduce(tensor, reduction="mean").tolist()]
