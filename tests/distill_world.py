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
from kdedge.distill.spec import TrainingSpec, training_spec
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


@cache
def shared(classes: int) -> nn.Module:
    return Tiny(classes, 4, 0.0)


def frozen(classes: int) -> nn.Module:
    return Tiny(classes, 4, 0.0).requires_grad_(False)


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


def per_example(student_logits: Tensor) -> Tensor:
    """No loss: one number an example."""
    return student_logits.sum(1)


def of_wrong_shape(student_logits: Tensor, labels: Tensor) -> Tensor:
    """No loss: fails when it is called."""
    return student_logits @ labels.float()[:2]
