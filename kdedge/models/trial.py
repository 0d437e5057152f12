"""The stage that tries a model out, before hours are spent on what comes before its training."""

from __future__ import annotations

from pathlib import Path

import torch

from kdedge.models.load import build, check_classes
from kdedge.models.spec import ModelSpec

TOOLS = ("torch",)


def try_out(spec: ModelSpec, *, folder: Path) -> None:
    """Stage: build a model as its training will, and run it on two plain inputs. Writes nothing.

    Raises:
        ModelError: its factory fails, its weights do not fit, or it cannot be run on its inputs.
        TrainingError: it gives another number of classes than the data has; names both.
    """
    with torch.random.fork_rng(devices=[]):  # whether it ran or was kept, what comes next draws the same
        check_classes(build(spec), spec)
