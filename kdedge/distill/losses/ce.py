"""The loss against labels."""

from __future__ import annotations

from torch import Tensor


def ce_loss(label_losses: Tensor) -> Tensor:
    """The task's own loss against labels, averaged over the batch.

    What an example's label loss is belongs to the task (for classification the cross-entropy of its class, in nats); `label_losses` is
    what `Task.label_loss` returns, float32 [N]. Returns a scalar. Typical scale for C classes: log(C) before training.
    """
    return label_losses.float().mean()
