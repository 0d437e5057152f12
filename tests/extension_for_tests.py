"""A task, a loss, a dialect and a device that kdedge does not have: what somebody would write who adds one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn import functional

from kdedge.artifact import ImportPath, PreparedData
from kdedge.devices import local
from kdedge.devices.device import Device, DeviceSettings
from kdedge.exporters.dialects.openvino import DIALECT as OPENVINO
from kdedge.recipe import DataSection
from kdedge.tasks.image_classification import ImageClassification


class Certainty(ImageClassification):
    """Scores no right or wrong but a number an example, and calls its metric and its output as nothing else does."""

    name = "certainty"
    metric = "mean_probability"

    def prepare(self, data: DataSection, seed: int, folder: Path) -> PreparedData:
        return replace(super().prepare(data, seed, folder), task=ImportPath("extension_for_tests:TASK"))

    def score(self, outputs: Mapping[str, npt.NDArray[Any]], labels: npt.NDArray[Any]) -> dict[str, npt.NDArray[np.float64]]:
        logits = outputs[self.logits].astype(np.float64)
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        return {self.metric: shifted[np.arange(len(labels)), labels] / shifted.sum(axis=1)}


TASK = Certainty()
DIALECT = replace(OPENVINO, name="own-dialect")


def logit_loss(student_logits: Tensor, teacher_logits: Tensor, scale: float = 1.0) -> Tensor:
    """The mean squared difference of logits (Ba and Caruana 2014). Both [N, C]; a scalar."""
    return functional.mse_loss(student_logits.float(), teacher_logits.float()) * scale


def open_device(name: str, settings: DeviceSettings) -> Device:
    """This machine under another name."""
    return local.open_device(name, settings)
