"""An exponential moving average of a model's state: what is exported when the recipe asks for `ema`."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Average:
    """Follows a model: every float tensor of its state (parameters and buffers) is averaged, all other tensors are copied.

    Buffers are averaged too, because batch norm's running statistics must belong to the averaged weights and not to the latest ones. In step
    t (from 0) the decay is min(decay, (1 + t) / (10 + t)), so that a short run does not export its random start
    (as TensorFlow's ExponentialMovingAverage does with `num_updates`).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._model = model
        self.state: dict[str, Tensor] = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the model's state after step `step` (from 0)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        mine, live = [], []
        for name, value in self._model.state_dict().items():
            if value.is_floating_point():
                mine.append(self.state[name])
                live.append(value)
            else:
                self.state[name].copy_(value)
        torch._foreach_lerp_(mine, live, 1.0 - decay)

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved `state`."""
        for name, value in self.state.items():
            value.copy_(state[name])
