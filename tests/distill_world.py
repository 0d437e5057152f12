"""What the tests of training share: small data, small models as a user would write them, and runs that are cut short."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdedge import progress
from kdedge.artifact import ImageEncoder, ImportPath, PreparedData
from kdedge.data.arrays import save_arrays
from kdedge.distill.learned import TapShapes
from kdedge.distill.spec import TrainingSpec
from kdedge.distill.terms import training_spec
from kdedge.models.spec import ModelSpec, inputs_of
from kdedge.recipe import OptimizerSection, TrainSection

SIDE = 6
CLASSES = ("dark", "left", "right")
ENCODER = ImageEncoder((SIDE, SIDE))


def image_data(folder: Path, size: int = 50, classes: tuple[str, ...] = CLASSES) -> PreparedData:
    """Noisy images that are bright nowhere, on the left or on the right."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    labels = np.arange(size, dtype=np.int64) % 3
    images = generator.integers(0, 160, (size, SIDE, SIDE, 3), dtype=np.uint8)
    images[labels == 1, :, : SIDE // 2] += 60
    images[labels == 2, :, SIDE // 2 :] += 60
    split = save_arrays(images, labels, classes, "train", folder, "made").source
    return PreparedData(ImportPath("kdedge.tasks.image_classification:TASK"), {"train": split, "test": split}, classes, (0, 1), ENCODER)


def spec(factory: str = "tiny", classes: tuple[str, ...] = CLASSES, **arguments: Any) -> ModelSpec:
    """A model of this module, built afresh."""
    return ModelSpec(
        name=factory,
        factory=ImportPath(f"distill_world:{factory}"),
        arguments={"classes": len(classes), **arguments},
        weights=None,
        onnx=None,
        normalize=((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
        encoder=ENCODER,
        inputs=inputs_of(ENCODER),
        outputs=("logits",),
        classes=classes,
    )


def training(*losses: dict[str, Any], teacher: bool = False, augment: tuple[str, ...] = ("crop1",), **section: Any) -> TrainingSpec:
    """Three epochs of four steps of 12 or 13 examples, unless said otherwise; checkpoints at the ends of epochs alone."""
    section = {"epochs": 3, "batch_size": 16, "checkpoint_seconds": 1e9, "optimizer": OptimizerSection(lr=0.05), **section}
    return training_spec(TrainSection(losses=losses or ({"ce": 1.0},), **section), has_teacher=teacher, augment=augment)


class Tiny(nn.Module):
    """Convolution, batch norm, dropout, linear."""

    def __init__(self, classes: int, width: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width * 9, classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.linear(self.dropout(F.max_pool2d(self.norm(self.conv(image)), 2).relu().flatten(1)))  # type: ignore[no-any-return]


def tiny(classes: int, width: int = 4, dropout: float = 0.3) -> nn.Module:
    return Tiny(classes, width, dropout)


def flat(classes: int, side: int = SIDE) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, classes))


def mlp(classes: int, width: int = 4, unused: bool = False) -> nn.Module:
    """No batch statistics and nothing drawn, and a layer to look at (`1`)."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, width), nn.ReLU(), nn.Linear(width, classes))
    if unused:
        model[0].register_parameter("idle", nn.Parameter(torch.ones(3)))
    return model


@cache
def shared(classes: int) -> nn.Module:
    return Tiny(classes, 4, 0.0)


def frozen(classes: int) -> nn.Module:
    return Tiny(classes, 4, 0.0).requires_grad_(False)


class Masked(nn.Module):
    """Holds infinities on purpose, as attention masks do."""

    mask: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * SIDE * SIDE, classes)
        self.register_buffer("mask", torch.full((2, 2), -torch.inf))

    def forward(self, image: Tensor) -> Tensor:
        return self.linear(image.flatten(1))  # type: ignore[no-any-return]


def masked(classes: int) -> nn.Module:
    return Masked(classes)


class StoppedError(Exception):
    """Raised by `StopAfter`, in place of a kill."""


class StopAfter(progress.Silent):
    """A listener that ends the run when it hears of step `step` or a later one."""

    def __init__(self, step: int) -> None:
        self.step = step

    def advance(self, what: str, done: int, total: int, note: str) -> None:
        if done >= self.step:
            raise StoppedError(f"{what} at {done}")


_calls = 0


def overflowing(student_logits: Tensor, good_calls: int = 0) -> Tensor:
    """A loss that is infinite after `good_calls` calls in this process (reset `_calls` before a run)."""
    global _calls
    _calls += 1
    value = student_logits.float().square().mean()
    return value if _calls <= good_calls else value * torch.inf


class Fragile(nn.Module):
    """A learned part with one number, which no gradient leads from to the student."""

    def __init__(self, shapes: TapShapes) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, labels: Tensor) -> dict[str, Tensor]:
        return {"learned_scale": self.scale}


def fragile(learned_scale: Tensor, good_calls: int = 0) -> Tensor:
    """A loss that is 0 always, and whose gradient is no number after `good_calls` calls."""
    global _calls
    _calls += 1
    zero = learned_scale - learned_scale.detach()
    return zero if _calls <= good_calls else zero.sqrt()


def small(student_logits: Tensor) -> Tensor:
    """A loss that is 0.25 always."""
    return student_logits.sum() * 0 + 0.25


def per_example(student_logits: Tensor) -> Tensor:
    """No loss: one number an example."""
    return student_logits.sum(1)


def of_wrong_shape(student_logits: Tensor, labels: Tensor) -> Tensor:
    """No loss: fails when it is called."""
    return student_logits @ labels.float()[:2]


def warm(student_logits: Tensor, temperature: float | Tensor = 1.0, sign: float = 1.0) -> Tensor:
    """A loss that grows with its temperature (with `sign` -1: falls)."""
    return student_logits.square().mean() + sign * torch.as_tensor(temperature) * 0.1


def made(folder: Path) -> Path:
    """The folder of a stage, which finds it there."""
    folder.mkdir(parents=True)
    return folder


def outcome(folder: Path) -> dict[str, bytes]:
    """What a stage left in its folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
