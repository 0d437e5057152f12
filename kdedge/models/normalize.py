"""Mean and std as a part of the model, so that they become nodes of every graph that is exported from it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """(image - mean) / std, a number a channel: float32 NCHW in [0, 1] in, float32 NCHW out.

    The two are not folded into the first convolution: that one pads with zeros, which stand for the mean colour only after this step.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Normalise a batch."""
        return (image - self.mean) / self.std
