"""What a training run needs of a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from kdedge.artifact import Encoder, PreparedData
from kdedge.distill.batches import Batch
from kdedge.distill.step import Placed


class Guide(Protocol):
    """A teacher as the training loop sees it: asked anew in every step, or answering from what it said before.

    `encoders`: those whose inputs it needs with each batch (none where it answers from memory).
    """

    name: str
    encoders: tuple[Encoder, ...]

    def move(self, device: torch.device, channels_last: bool) -> None:
        """Answer on `device` from now on."""

    def check(self, data: PreparedData) -> None:
        """See that it answers about this data, for as many classes."""

    def owns(self, addresses: set[int]) -> bool:
        """Whether a parameter of the teacher lies at any of these addresses."""

    def answers(self, inputs: Placed, batch: Batch, wanted: Sequence[str]) -> dict[str, Tensor]:
        """What is wanted about a batch, float32 and without gradient: `logits`, other outputs by name, and `FORM:LAYER`.

        `inputs`: the batch as each encoder made it, on the device; `batch` says which samples in which view it holds.
        """
