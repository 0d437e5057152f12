"""Models of torchvision and timm by name, without their weights: those are given as a local file, nothing is downloaded."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from kdedge.errors import MissingExtra, ModelError

TOOLS = ("torchvision", "timm")


def torchvision_model(*, name: str, classes: int, **arguments: Any) -> nn.Module:
    """A classification model of torchvision, freshly initialised.

    Raises:
        MissingExtra: torchvision is not installed.
        ModelError: it has no such model.
    """
    try:
        from torchvision import models
    except ImportError as error:
        raise MissingExtra("torchvision", "vision", f"`torchvision:{name}`") from error
    # Detection, segmentation and video models stand in submodules of their own; those without are classifiers.
    known = models.list_models(module=models)
    if name not in known:
        raise _unknown("torchvision", name, known)
    return models.get_model(name, weights=None, num_classes=classes, **arguments)  # type: ignore[no-any-return]


def timm_model(*, name: str, classes: int, in_channels: int, **arguments: Any) -> nn.Module:
    """A model of timm, freshly initialised.

    Raises:
        MissingExtra: timm is not installed.
        ModelError: it has no such model.
    """
    timm = _timm(name)
    if not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())
    return timm.create_model(name, pretrained=False, num_classes=classes, in_chans=in_channels, **arguments)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class TimmInput:
    """How images were prepared for weights of timm: the size of the centre crop (height, width), and of the shorter side before it."""

    size: tuple[int, int]
    resize: int
    interpolation: Literal["bilinear", "bicubic", "nearest"]


def timm_input(name: str) -> TimmInput:
    """What the weights of a timm model were trained with.

    Raises:
        MissingExtra: timm is not installed.
        ModelError: it has no such model, does not know its size, or resizes in a way that kdedge does not.
    """
    timm = _timm(name)
    if not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())
    known = timm.get_pretrained_cfg(name)
    if known is None or not known.input_size:
        raise ModelError(f"`timm:{name}` does not say what image size its weights take; name a variant that has pretrained weights")
    interpolation: Literal["bilinear", "bicubic", "nearest"]
    match known.interpolation:
        case "bilinear" | "bicubic" | "nearest" as interpolation:
            pass
        case other:
            raise ModelError(f"`timm:{name}` resizes with `{other}` (allowed: bilinear, bicubic, nearest)")
    _, height, width = known.input_size
    return TimmInput((int(height), int(width)), math.floor(min(height, width) / (known.crop_pct or 1.0)), interpolation)


def _timm(name: str) -> Any:
    try:
        import timm
    except ImportError as error:
        raise MissingExtra("timm", "vision", f"`timm:{name}`") from error
    return timm


def _unknown(library: str, name: str, known: Iterable[str]) -> ModelError:
    close = difflib.get_close_matches(name, list(known), n=3)
    meant = f"; did you mean {' or '.join(f'`{library}:{each}`' for each in close)}?" if close else ""
    return ModelError(f"{library} has no classification model `{name}`{meant}")
