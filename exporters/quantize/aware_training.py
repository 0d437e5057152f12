"""The training loop of quantization-aware distillation: a few thousand steps at most, resumable to the byte.

The loop of `kdedge.distill` trains a recipe's model on its task: in whole epochs, on logits alone, from a factory. This one trains a graph, which
may have outputs of any kind, for a number of steps, and learns from the float graph. Checkpoints, seeds and the KL are those of `kdedge.distill`.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdedge import progress
from kdedge.distill.allocation import freed_memory_kept
from kdedge.distill.batches import ahead
from kdedge.distill.checkpoint import load_checkpoint, save_checkpoint
from kdedge.distill.losses.kd import kd_loss
from kdedge.distill.optimizer import set_learning_rate
from kdedge.distill.seeding import derived, reproducible, seed_everything
from kdedge.errors import Diverged, ExportError
from kdedge.exporters.quantize.fake_quantize import FakeQuantized

Feeds = Mapping[str, npt.NDArray[Any]]
Answers = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]

# Progress is told this often (steps), a checkpoint is written this often (seconds).
_LOOK, _SAVE_SECONDS = 10, 30.0


@dataclass(frozen=True)
class Course:
    """How a fake-quantized graph is trained: `steps` of Adam with a rate that falls from `lr` to 0 as a cosine.

    `lr` is in the units of `FakeQuantized`: rounding steps of weights and biases, logarithms of ranges. `temperature`: of the KL between
    `distributions` (names of outputs [N, classes] before softmax); other outputs are compared by their squared error over the squared size of
    the targets.
    """

    steps: int
    lr: float = 3e-3
    temperature: float = 1.0
    distributions: tuple[str, ...] = ()
    seed: int = 0


def train(
    student: FakeQuantized, batches: Callable[[int], Iterator[Feeds]], answers: Answers, course: Course, folder: Path | None = None, what: str = ""
) -> None:
    """Train `student` in place. `batches` gives the inputs of all steps from one on, a pure function of the step; `answers` the targets of a batch.

    With `folder`, checkpoints are kept there, the last one too, and what a killed attempt left is taken up: it then ends in the same bytes as an
    unbroken run.

    Raises:
        Diverged: a loss or a weight is no number (the last good checkpoint stays in `folder`).
        ExportError: no output of the student is among the answers, or a shape differs; or there are fewer batches than steps.
    """
    run = _Run(student, answers, course, folder, what or "quantization-aware distillation")
    with reproducible(), freed_memory_kept():
        run.resume()
        with closing(ahead(islice(batches(run.done), course.steps - run.done))) as feeds:
            for feed in feeds:
                run.update(feed)
    if run.done < course.steps:
        raise ExportError(f"{run.what}: the batches end after step {run.done} of {course.steps}: give one a step")
    run.save()


def loss_between(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], distributions: Collection[str], temperature: float = 1.0) -> Tensor:
    """The sum over all outputs that have a target: KL in nats (times T^2) of distributions, squared error over squared size of the others.

    Raises:
        ExportError: no output has a target, or a shape differs.
    """
    shared = [name for name in found if name in wanted and found[name].is_floating_point()]
    if not shared:
        raise ExportError(f"nothing to learn: there are no answers to any of the outputs {', '.join(found)} (only to: {', '.join(wanted) or 'none'})")
    for name in shared:
        if found[name].shape != wanted[name].shape:
            raise ExportError(f"the output `{name}` is {list(found[name].shape)}, what it should learn is {list(wanted[name].shape)}")
    terms = [
        kd_loss(found[name], wanted[name], temperature) if name in distributions else relative_error(found[name], wanted[name]) for name in shared
    ]
    return torch.stack(terms).sum()


def relative_error(found: Tensor, wanted: Tensor) -> Tensor:
    """Squared error over the squared size of what is wanted."""
    return (found - wanted).square().mean() / wanted.square().mean().clamp(min=torch.finfo(torch.float32).tiny)


def cosine(course: Course, step: int) -> float:
    """The learning rate of a step (from 0)."""
    return course.lr * 0.5 * (1.0 + math.cos(math.pi * step / course.steps))


class _Run:
    """`done` counts finished steps."""

    def __init__(self, student: FakeQuantized, answers: Answers, course: Course, folder: Path | None, what: str) -> None:
        self.student, self.answers, self.course, self.folder, self.what = student, answers, course, folder, what
        self.optimizer = torch.optim.Adam(student.learnable(), lr=course.lr, fused=True)
        self.identity = self._identity()
        self.done = 0
        self.saved_at = time.monotonic()

    def resume(self) -> None:
        state = None if self.folder is None else load_checkpoint(self.folder, self.identity)
        if state is not None:
            self.student.load_state_dict(state["student"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.done = state["step"]

    def update(self, feed: Feeds) -> None:
        """One step."""
        seed_everything(derived(self.course.seed, "aware step", self.done))
        inputs = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in feed.items()}
        with torch.no_grad():
            wanted = self.answers(inputs)
        own = {name: inputs[name] for name in self.student.inputs}
        loss = loss_between(self.student(own), wanted, self.course.distributions, self.course.temperature)
        set_learning_rate(self.optimizer, cosine(self.course, self.done))
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        value = float(loss.detach())
        if not math.isfinite(value):
            raise Diverged(f"{self.what}: the loss is {value} in step {self.done + 1}: lower quantize.aware.lr (the last good checkpoint is kept)")
        self.optimizer.step()
        self.done += 1
        if self.done % _LOOK == 0 or self.done == self.course.steps:
            progress.advance(self.what, self.done, self.course.steps, f"loss {value:.4g}")
        if self.folder is not None and time.monotonic() - self.saved_at >= _SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Check what was learned, and write it down where there is a folder.

        Raises:
            Diverged: a weight is no number.
        """
        if not all(bool(torch.isfinite(value).all()) for value in self.student.parameters()):
            raise Diverged(f"{self.what}: weights are not finite after step {self.done}: lower quantize.aware.lr (the last good checkpoint is kept)")
        if self.folder is None:
            return
        state = {"run": self.identity, "step": self.done, "student": dict(self.student.state_dict()), "optimizer": self.optimizer.state_dict()}
        save_checkpoint(self.folder, state)
        self.saved_at = time.monotonic()

    def _identity(self) -> str:
        """Of this very run: what it does, and with what it began."""
        table = self.student.table
        digest = hashlib.sha256(repr((self.course, table.model_sha256, self.student.dialect.name, table.activations, table.weights)).encode())
        for name, value in self.student.tensors().items():
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().numpy().tobytes())
        return digest.hexdigest()
