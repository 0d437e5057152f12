"""The training loop that teacher and student share: on Accelerate, resumable to the byte."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdedge import progress
from kdedge.artifact import ModelFiles, PreparedData
from kdedge.data import open_examples
from kdedge.distill.acceleration import expect_idle_parameters
from kdedge.distill.allocation import freed_memory_kept
from kdedge.distill.average import Average
from kdedge.distill.batches import Batch, Batches, Plan, ahead
from kdedge.distill.board import Board
from kdedge.distill.checkpoint import load_checkpoint, remove_checkpoints, save_checkpoint, write_weights
from kdedge.distill.guide import Guide
from kdedge.distill.metrics import TermLog
from kdedge.distill.optimizer import build_optimizer, learning_rate, set_learning_rate
from kdedge.distill.schedule import Moment
from kdedge.distill.seeding import derived, reproducible, seed_everything
from kdedge.distill.spec import TrainingSpec, wanted_of_all
from kdedge.distill.step import Scene, Step, place
from kdedge.errors import Diverged, TrainingError
from kdedge.models.load import Model, build, check_classes, files_of
from kdedge.models.spec import ModelSpec
from kdedge.tasks.contract import Task

if TYPE_CHECKING:
    from accelerate import Accelerator

# How often the terms are looked at (on a GPU each look waits for the device) and progress is told: in steps, and in seconds where steps are long.
_LOOK, _LOOK_SECONDS = 10, 1.0
# Examples of the dry run that sizes the trained parts of the losses.
_FEW = 2
# A line of metrics at least this often, in steps; there is one at the end of each epoch.
_LINE = 100

WEIGHTS, METRICS, SNAPSHOTS = "model.safetensors", "metrics.jsonl", "epochs"

AfterEpoch = Callable[[int, dict[str, Tensor]], None]


def train(
    accelerator: Accelerator,
    spec: ModelSpec,
    training: TrainingSpec,
    data: PreparedData,
    seed: int,
    *,
    folder: Path,
    what: str,
    guide: Guide | None = None,
    after_epoch: AfterEpoch | None = None,
    smoothed: bool = False,
) -> ModelFiles:
    """Train a model on the training split and write `model.safetensors` and `metrics.jsonl` into `folder`.

    All randomness is a pure function of the seed (the recipe's, or the section's own) and the step, so that a run that was killed goes on from
    its last checkpoint and ends in the same bytes (on the same number of threads, by which sums are split). `what` is what progress calls
    this run. Several processes (`torchrun`, `accelerate launch`) share `folder`; the first of them writes. `after_epoch` is told each finished
    epoch (from 1) with the weights that would be exported then; it may end the run by an exception. `smoothed`: before the last epoch it is told
    their average over about half an epoch, since while the learning rate is high the latest weights are off by chance.

    Raises:
        TrainingError: the model cannot be trained, class counts differ, or a loss is no number (the last good checkpoint is kept).
    """
    if spec.onnx is not None:
        raise TrainingError(
            f"`{spec.name}` is an ONNX file, which cannot be trained: name its source as package.module:factory, or leave out the training"
        )
    seed = training.section.seed if training.section.seed is not None else seed
    with reproducible(), freed_memory_kept():
        seed_everything(derived(seed, "weights"))
        model = build(spec)
        weights = folder / WEIGHTS
        # Weights that are there were written by an attempt that was killed after its last step.
        if not weights.exists():
            _check(spec, model, guide, data)
            run = _Run(accelerator, spec, training, data, seed, folder, what, model, guide, after_epoch, smoothed)
            run.resume()
            run.finish_training()
            accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            remove_checkpoints(folder)
    return files_of(spec, weights, model)


def _check(spec: ModelSpec, model: Model, guide: Guide | None, data: PreparedData) -> None:
    if spec.classes != data.classes:
        known, needed = (f"{len(names)} ({', '.join(names[:10])})" for names in (spec.classes, data.classes))
        raise TrainingError(f"`{spec.name}` is made for other classes than the data's {needed}: for {known}")
    check_classes(model, spec)
    if guide is not None:
        guide.check(data)
        if guide.owns({parameter.data_ptr() for parameter in model.parameters() if parameter.numel()}):
            raise TrainingError(
                f"`{spec.name}` shares parameters with its {guide.name}: a factory must build a new model each time that it is called"
            )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TrainingError(f"`{spec.name}` has no parameter that can be trained")


def _check_apart(spec: ModelSpec, model: Model, names: Sequence[ModelSpec], peers: Sequence[Model]) -> None:
    """Nets that learn from each other must be different ones."""
    owners: dict[int, str] = {}
    for name, net in zip((spec.name, *(each.name for each in names)), (model, *peers), strict=True):
        own = {parameter.data_ptr() for parameter in net.parameters() if parameter.numel()}
        shared = own & set(owners)
        if shared:
            raise TrainingError(
                f"the peer `{name}` shares parameters with `{owners[shared.pop()]}`: a factory must build a new model each time that it is called"
            )
        owners.update(dict.fromkeys(own, name))


class _Run:
    """One run: the step with everything that moves while it is trained. `done` counts finished steps."""

    def __init__(
        self,
        accelerator: Accelerator,
        spec: ModelSpec,
        training: TrainingSpec,
        data: PreparedData,
        seed: int,
        folder: Path,
        what: str,
        model: Model,
        guide: Guide | None,
        after_epoch: AfterEpoch | None,
        smoothed: bool,
    ) -> None:
        section = training.section
        examples = open_examples(data.splits["train"])
        encoders = (spec.encoder, *(peer.encoder for peer in training.peers), *(guide.encoders if guide is not None else ()))
        plan = Plan(section.batch_size, seed, training.shown(seed), training.views)
        task = data.task.load()
        self.accelerator, self.section, self.training, self.seed = accelerator, section, training, seed
        self.folder, self.what, self.guide, self.after_epoch = folder, what, guide, after_epoch
        self.batches = Batches(examples, task, encoders, plan, rank=accelerator.process_index, processes=accelerator.num_processes)
        self.total = section.epochs * self.batches.steps_per_epoch
        self.step = self._assemble(task, spec, model, len(examples))
        self.prepared, self.optimizer = accelerator.prepare(self.step, build_optimizer(self.step, section.optimizer))
        self.average = Average(model, section.ema) if section.ema is not None else None
        # A decay of 1 - 1/n averages over about n steps.
        self.smoothed = Average(model, max(0.0, 1.0 - 2.0 / self.batches.steps_per_epoch)) if smoothed and self.average is None else None
        self.log = TermLog(training.terms, self.batches.steps_per_epoch, section.epochs, self._mean_over_processes)
        self.board: Board | None = None
        # A model may hold infinities on purpose, as attention masks do.
        self.finite = [name for name, value in self._values().items() if _is_finite(value)]
        self.done = 0
        self.saved_at = self.looked_at = time.monotonic()

    def resume(self) -> None:
        """Go on from the checkpoint of a killed attempt, if there is one."""
        state = load_checkpoint(self.folder, self._identity())
        if state is None:
            return
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load(state["average"])
        if self.smoothed is not None:
            self.smoothed.load(state["smoothed"])
        self.log.load(state["log"])
        self.done = state["step"]

    def finish_training(self) -> None:
        """Train to the end and write weights and metrics."""
        self.prepared.train()
        if self.section.tensorboard is not None and self.accelerator.is_main_process:
            # The folder tells runs apart that are called the same.
            own = hashlib.sha256(str(self.folder).encode()).hexdigest()[:8]
            self.board = Board(self.section.tensorboard, f"{self.what} {own}", self.done)
        try:
            with closing(ahead(self.batches.from_step(self.done, self.total))) as batches:
                for batch in batches:
                    self._update(batch)
                    self.done += 1
                    self._after_step()
        finally:
            if self.board is not None:
                self.board.close()
        self._check_weights()
        if self.accelerator.is_main_process:
            self.log.write(self.folder / METRICS)
            write_weights(self._exported(), self.folder / WEIGHTS)

    def _assemble(self, task: Task, spec: ModelSpec, model: Model, samples: int) -> Step:
        peers = []
        for number, peer in enumerate(self.training.peers):
            seed_everything(derived(self.seed, "peer", number))
            peers.append(build(peer))
            check_classes(peers[-1], peer)
        _check_apart(spec, model, self.training.peers, peers)
        seed_everything(derived(self.seed, "learned"))
        step = Step(self.training, task, spec, model, peers)
        device, channels_last = self.accelerator.device, self.section.channels_last
        if self.guide is not None:
            self.guide.move(device, channels_last)
        step.to(device)
        if channels_last:
            step.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # A few examples are enough to see every shape.
        few = self._scene(next(self.batches.from_step(0, 1)).first(_FEW), wanted_of_all(self.training.terms))
        step.dry_run(few, samples)
        step.to(device)
        expect_idle_parameters(self.accelerator, step, few)
        return step

    def _scene(self, batch: Batch, wanted: Sequence[str]) -> Scene:
        device = self.accelerator.device
        inputs, labels = place(batch, self.batches.encoders, device, self.section.channels_last)
        answers = self.guide.answers(inputs, batch, wanted) if self.guide is not None and wanted else {}
        return Scene(inputs, labels, torch.tensor(batch.samples, device=device), answers)

    def _update(self, batch: Batch) -> None:
        moment = Moment(self.done / self.total, self.done / self.batches.steps_per_epoch)
        set_learning_rate(self.optimizer, learning_rate(self.section, self.done, self.batches.steps_per_epoch))
        self.optimizer.zero_grad()
        # As many in every process, because losses may exchange what they see.
        pieces = batch.cut(min(self.section.accumulate, self.batches.fewest)) if self.section.accumulate > 1 else [batch]
        values = [self._gradient(piece, number, moment, last=number == len(pieces) - 1) for number, piece in enumerate(pieces)]
        if self.section.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.step.parameters(), self.section.clip_norm)
        self.optimizer.step()
        for average in (self.average, self.smoothed):
            if average is not None:
                average.update(self.done)
        shares = [len(piece.samples) / len(batch.samples) for piece in pieces]
        mean = values[0] if len(values) == 1 else torch.stack([share * value for share, value in zip(shares, values, strict=True)]).sum(0)
        self.log.add(mean, self.step.weights(moment), batch.share)

    def _gradient(self, batch: Batch, number: int, moment: Moment, *, last: bool) -> Tensor:
        """Add the gradient of a batch, or of a piece of one; the values of the terms."""
        scene = self._scene(batch, self.step.wanted(moment))
        # Dropout and whatever else a model draws in this step depends on nothing before it.
        seed_everything(derived(self.seed, "step", self.done, self.accelerator.process_index, *([number] if number else [])))
        with nullcontext() if last else self.accelerator.no_sync(self.prepared):
            loss, values = self.prepared(scene, moment)
            try:
                self.accelerator.backward(loss * batch.share if batch.share != 1.0 else loss)
            except RuntimeError as error:
                raise TrainingError(f"the gradient of the loss cannot be computed in step {self.done + 1}: {error}") from error
        return values  # type: ignore[no-any-return]

    def _after_step(self) -> None:
        in_epoch = self.done % self.batches.steps_per_epoch
        line = in_epoch == 0 or in_epoch % _LINE == 0
        due = in_epoch == 0 or time.monotonic() - self.saved_at >= self.section.checkpoint_seconds
        epoch = (self.done - 1) // self.batches.steps_per_epoch + 1
        if not (line or self._looks(due)):
            return
        loss = self.log.check()
        progress.advance(self.what, self.done, self.total, f"epoch {epoch}/{self.section.epochs}, loss {loss:.4g}")
        self.looked_at = time.monotonic()
        if line:
            record = self.log.line(learning_rate(self.section, self.done - 1, self.batches.steps_per_epoch))
            if self.board is not None:
                self.board.write(record)
        if in_epoch == 0:
            self._after_epoch(epoch)
        if due:
            self._check_weights()
            if self.accelerator.is_main_process:
                self.log.write(self.folder / METRICS)
                save_checkpoint(self.folder, self._state())
            self.saved_at = time.monotonic()

    def _looks(self, due: bool) -> bool:
        """Whether to look at the terms although no line ends here."""
        if self.done % _LOOK == 0:
            return True
        if self.accelerator.num_processes > 1:
            # All processes look at once, and their clocks differ.
            return self.section.checkpoint_seconds == 0
        return due or time.monotonic() - self.looked_at >= _LOOK_SECONDS

    def _after_epoch(self, epoch: int) -> None:
        if self.training.snapshots and self.accelerator.is_main_process:
            (self.folder / SNAPSHOTS).mkdir(exist_ok=True)
            write_weights(self._exported(), self.folder / SNAPSHOTS / f"{epoch:04d}.safetensors")
        if self.after_epoch is not None:
            is_last = epoch == self.section.epochs
            self.after_epoch(epoch, self._exported() if self.smoothed is None or is_last else self.smoothed.state)

    def _exported(self) -> dict[str, Tensor]:
        """What is written at the end: the average where there is one."""
        state: dict[str, Tensor] = self.average.state if self.average is not None else self.step.student.state_dict()
        return state

    def _parts(self) -> dict[str, nn.Module]:
        # The student's state has the names of its own network, which is why it is kept apart.
        peers = {f"peer{number}": peer for number, peer in enumerate(self.step.peers)}
        return {"model": self.step.student, "learned": self.step.learned, **peers}

    def _state(self) -> dict[str, Any]:
        return {
            "run": self._identity(),
            "step": self.done,
            **{name: dict(part.state_dict()) for name, part in self._parts().items()},
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state if self.average is not None else None,
            "smoothed": self.smoothed.state if self.smoothed is not None else None,
            "log": self.log.state(),
        }

    def _identity(self) -> str:
        shapes = [(name, tuple(value.shape)) for part in self._parts().values() for name, value in part.state_dict().items()]
        return hashlib.sha256(repr((self.seed, self.total, self.average is None, self.smoothed is None, shapes)).encode()).hexdigest()

    def _values(self) -> dict[str, Tensor]:
        """Everything that is trained or counted along, by name: the student's as in its weights, then that of peers and losses."""
        others = [(f"{name}.{key}", value) for name, part in self._parts().items() if name != "model" for key, value in part.state_dict().items()]
        return {**self.step.student.state_dict(), **dict(others)}

    def _check_weights(self) -> None:
        values = self._values()
        for name in self.finite:
            if not _is_finite(values[name]):
                raise Diverged(
                    f"the weights `{name}` are not finite after step {self.done} although every loss term was: a gradient overflowed; lower "
                    "optimizer.lr or set clip_norm (the last good checkpoint is kept)"
                )

    def _mean_over_processes(self, values: Tensor) -> Tensor:
        mean: Tensor = self.accelerator.reduce(values, reduction="mean") if self.accelerator.num_processes > 1 else values
        return mean


def _is_finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value).all())
