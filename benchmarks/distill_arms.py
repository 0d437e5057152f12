"""The training runs that `distill_speed.py` lets take turns: torchdistill's own box and loader, plain eager loops, and kdedge's trainer.

Each arm is an iterator of (steps done, mean loss of the steps since the last turn); between its turns nothing of it runs.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kdedge import progress
from kdedge.artifact import ModelFiles, PreparedData, TeacherFiles
from kdedge.distill.terms import training_spec
from kdedge.distill.trainer import distill
from kdedge.models.load import load
from kdedge.models.spec import ModelSpec, spec_of
from kdedge.recipe import OptimizerSection, TrainSection
from kdedge.trained import CachedView

ALPHA, TEMPERATURE, RATE, DECAY, TURN = 0.1, 4.0, 0.05, 5e-4, 10
Turns = Iterator[tuple[int, float]]


class Photos(torch.utils.data.Dataset[Any]):
    """CIFAR-10 as torchvision's dataset gives it: PIL images through its transforms (crop, flip, tensor, normalise)."""

    def __init__(self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        from torchvision import transforms

        self.images, self.labels = images, labels
        steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize(mean, std)]
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def torchdistill_turns(teacher: nn.Module, student: nn.Module, photos: Photos, batch: int, workers: int) -> Turns:
    """torchdistill 1.1.5: its distillation box, its loader, its KD loss, as its own CIFAR-10 configuration has them."""
    from torchdistill.core.distillation import get_distillation_box

    loss: dict[str, Any] = {"student_module_path": ".", "student_module_io": "output", "teacher_module_path": ".", "teacher_module_io": "output"}
    loss |= {"temperature": TEMPERATURE, "alpha": ALPHA, "reduction": "batchmean"}
    config = {
        "num_epochs": 1000,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": torch.utils.data.RandomSampler},
            "kwargs": {"batch_size": batch, "num_workers": workers, "drop_last": True, "persistent_workers": workers > 0},
        },
        "val_data_loader": {},
        "teacher": {"forward_proc": "forward_batch_only", "forward_hook": {"input": [], "output": []}, "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only", "forward_hook": {"input": [], "output": []}},
        "optimizer": {"key": "SGD", "kwargs": {"lr": RATE, "momentum": 0.9, "weight_decay": DECAY, "nesterov": True}},
        "criterion": {
            "key": "WeightedSumLoss",
            "func2extract_model_loss": "extract_model_loss_dict",
            "kwargs": {"sub_terms": {"kd": {"criterion": {"key": "KDLoss", "kwargs": loss}, "weight": 1.0}}},
        },
    }
    box = get_distillation_box(teacher, student, {"train": photos}, config, torch.device("cpu"), None, False, 1)
    done, losses = 0, []
    for epoch in range(1000):
        box.pre_epoch_process(epoch=epoch)
        for images, labels, more in box.train_data_loader:
            box.pre_forward_process()
            value = box.forward_process(images, labels, more)
            box.post_forward_process(loss=value)
            losses.append(float(value.item()))
            done += 1
            if done % TURN == 0:
                yield done, float(np.mean(losses[-TURN:]))


def eager_turns(student: nn.Module, photos: Photos, batch: int, workers: int, *, fast: bool = False) -> Turns:
    """A plain loop of the student alone with labels; `fast` with bfloat16 and channels last, which is what PyTorch itself offers."""
    loader = torch.utils.data.DataLoader(photos, batch, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=workers > 0)
    layout = torch.channels_last if fast else torch.contiguous_format
    student.train().to(memory_format=layout)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(student.parameters(), RATE, momentum=0.9, weight_decay=DECAY, nesterov=True)
    done, losses = 0, []
    while True:
        for images, labels in loader:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=fast):
                logits = student(images.to(memory_format=layout))
            loss = nn.functional.cross_entropy(logits.float(), labels)
            torch.autograd.backward(loss)
            optimizer.step()
            losses.append(loss.item())
            done += 1
            if done % TURN == 0:
                yield done, float(np.mean(losses[-TURN:]))


def kdedge_turns(
    student: ModelSpec, data: PreparedData, teacher: TeacherFiles | None, views: tuple[CachedView, ...], folder: Path, section: dict[str, Any]
) -> Turns:
    """kdedge's trainer as the pipeline calls it, with what was kept of the teacher, or (without teacher) with labels alone."""
    losses: tuple[dict[str, Any], ...] = ({"ce": ALPHA}, {"kd": 1 - ALPHA, "temperature": TEMPERATURE}) if teacher is not None else ({"ce": 1.0},)
    optimizer = OptimizerSection(lr=RATE, weight_decay=DECAY)
    how = TrainSection(optimizer=optimizer, schedule="constant", losses=losses, views=len(views) or None, checkpoint_seconds=1e9, **section)
    training = training_spec(how, has_teacher=teacher is not None, augment=("crop4", "flip"), view_seed=0)
    folder.mkdir(parents=True)
    return _in_turns(lambda: distill(student, training, teacher, data, 0, cache=views, folder=folder))


def losses_of(folder: Path) -> list[tuple[int, float]]:
    """(step, mean loss since the line before) from the metrics of a run of kdedge."""
    lines = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in lines]


def bare(files: ModelFiles) -> nn.Module:
    """The network of a model without kdedge around it; images come to it normalised."""
    return load(files).inner


def spec_like(files: ModelFiles) -> ModelSpec:
    """The spec of a model, as the trainer takes it."""
    return spec_of(files)


class _Turnstile:
    """A listener that lets the training thread go on only while it is its turn."""

    def __init__(self) -> None:
        self.mine, self.theirs = threading.Semaphore(0), threading.Semaphore(0)
        self.at: tuple[int, float] = (0, float("nan"))
        self.error: BaseException | None = None
        self.over = False

    def advance(self, what: str, done: int, total: int, note: str) -> None:
        if done % TURN == 0:
            self.at = (done, float(note.rpartition(" ")[2]))
            self.theirs.release()
            self.mine.acquire()

    def message(self, text: str) -> None:
        """Nothing."""


def _in_turns(train: Callable[[], Any]) -> Turns:
    turnstile = _Turnstile()

    def work() -> None:
        turnstile.mine.acquire()
        try:
            with progress.listening(turnstile):
                train()
        except BaseException as error:  # handed over
            turnstile.error = error
        turnstile.over = True
        turnstile.theirs.release()

    threading.Thread(target=work, daemon=True).start()
    while True:
        turnstile.mine.release()
        turnstile.theirs.acquire()
        if turnstile.error is not None:
            raise turnstile.error
        if turnstile.over:
            return
        yield turnstile.at
