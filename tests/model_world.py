"""What the tests of models share: data that was prepared, and factories as users write them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdedge.artifact import Dimension, ImageEncoder, ImportPath, PreparedData, TextEncoder
from kdedge.models.spec import ModelSpec

COLOURS = ("red", "green", "blue")


def image_data(size: int = 32, classes: Sequence[str] = COLOURS, channels: int = 3) -> PreparedData:
    """Images whose training split has the mean 0.5, 0.25, 0.125 and the std 0.25, 0.5, 1."""
    return PreparedData(
        task=ImportPath("kdedge.tasks.image_classification:TASK"),
        splits={},
        classes=tuple(classes),
        calibration=(),
        encoder=ImageEncoder((size, size), channels=channels),
        statistics={"mean": (0.5, 0.25, 0.125)[:channels], "std": (0.25, 0.5, 1.0)[:channels]},
    )


def text_data(folder: Path, classes: Sequence[str] = ("negative", "positive"), max_length: int = 16) -> PreparedData:
    """Texts with a tokenizer of seven entries."""
    tokenizer = folder / "tokenizer.json"
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "good": 4, "bad": 5}
    tokenizer.write_text(json.dumps({"model": {"type": "WordLevel", "vocab": vocabulary}, "added_tokens": [{"id": 6, "content": "[MASK]"}]}))
    return PreparedData(
        task=ImportPath("kdedge.tasks.text_classification:TASK"),
        splits={},
        classes=tuple(classes),
        calibration=(),
        encoder=TextEncoder(tokenizer, max_length, 0),
    )


def dynamic_shapes(spec: ModelSpec) -> tuple[tuple[dict[int, Any], ...]]:
    """How torch.export is told which dimensions vary; the outer tuple is there because `forward` takes `*tensors`."""
    dimensions: dict[str, Any] = {}
    shapes = []
    for each in spec.inputs:
        shape = {}
        for axis, size in enumerate(each.shape):
            if isinstance(size, Dimension):
                shape[axis] = dimensions.setdefault(size.name, torch.export.Dim(size.name, min=size.minimum, max=size.maximum))
        shapes.append(shape)
    return (tuple(shapes),)


class Pixels(nn.Module):
    """Logits are a linear map of the mean colour."""

    def __init__(self, classes: int, channels: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.linear(image.mean((2, 3)))  # type: ignore[no-any-return]


def pixels(classes: int) -> nn.Module:
    return Pixels(classes)


def greedy(classes: int, **others: Any) -> nn.Module:
    return Pixels(classes, **others)


def fixed() -> nn.Module:
    return Pixels(3)


def needy(classes: int, secret: str) -> nn.Module:
    return Pixels(classes)


def no_module(classes: int) -> list[int]:
    return [classes]


def broken(classes: int) -> nn.Module:
    raise RuntimeError("out of luck")


class Answering(nn.Module):
    """Gives its logits in any of the forms that models of this world use."""

    def __init__(self, classes: int, form: str) -> None:
        super().__init__()
        self.pixels = Pixels(classes)
        self.form = form

    def forward(self, image: Tensor) -> Any:
        logits = self.pixels(image)
        match self.form:
            case "tuple":
                return logits, image
            case "dict":
                return {"features": image, "logits": logits}
            case "single":
                return {"out": logits}
            case "two":
                return {"a": logits, "b": logits}
            case "text":
                return "no tensor"
        return Output(logits)


class Output:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


def answering(classes: int, form: str) -> nn.Module:
    return Answering(classes, form)


class Swapped(nn.Module):
    """Takes the mask before the ids."""

    def forward(self, attention_mask: Tensor, input_ids: Tensor) -> Tensor:
        return torch.stack([input_ids.sum(1), attention_mask.sum(1)], dim=1).float()


def swapped() -> nn.Module:
    return Swapped()
