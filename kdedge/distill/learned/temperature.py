"""A temperature that is trained against the student."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kdedge.distill.schedule import LearnedTemperature


class Temperature(nn.Module):
    """T = lowest + span * sigmoid(theta), theta from 1, with its gradient reversed (CTKD; Li et al., AAAI 2023, section 3.2)."""

    def __init__(self, settings: LearnedTemperature) -> None:
        super().__init__()
        self._lowest, self._span = settings.lowest, settings.span
        self.theta = nn.Parameter(torch.ones(()))

    def forward(self, strength: float) -> Tensor:
        """The temperature, a scalar. What lowers a loss raises it by `strength` times as much: theta learns to make the loss large."""
        reversed_theta: Tensor = _Reversed.apply(self.theta, strength)  # type: ignore[no-untyped-call]
        return self._lowest + self._span * reversed_theta.sigmoid()


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, value: Tensor, strength: float) -> Tensor:
        context.strength = strength
        return value.view_as(value)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Any:
        return gradients[0] * -context.strength, None
