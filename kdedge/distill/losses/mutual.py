"""Deep mutual learning: nets that learn together, each from the labels and from what the others say."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from kdedge.distill.losses.distributions import kl_divergence
from kdedge.distill.losses.pairs import at_least_float32
from kdedge.errors import TrainingError


def mutual_loss(
    student_logits: Tensor, peer_logits: Sequence[Tensor], peer_label_losses: Sequence[Tensor], temperature: float | Tensor = 1.0
) -> Tensor:
    """Let the student and its peers teach each other (Deep mutual learning; Zhang, Xiang, Hospedales and Lu, CVPR 2018, eq. 5 to 8).

    sum over all nets i of mean over the others j of T^2 * KL(softmax(z_j / T) || softmax(z_i / T)), plus the peers' own losses against labels.
    The student's own comes from `ce`, so that the whole loss of the paper is `[{ce: 1}, {mutual: 1}]` with T = 1. A net gets a gradient where
    it is taught (i) and none where it teaches (j); all nets are updated in each step (the paper updates one after the other, which it reports
    to make no difference). A weight other than 1 also weighs what the peers learn from labels.

    Shapes: `student_logits` [N, C]; `peer_logits` and `peer_label_losses` hold [N, C] and [N] of each peer. Summed over classes, averaged over
    the batch, in float32 (float64 stays float64). Returns a scalar in nats: with K peers about K log(C) before training.

    Trap: peers are equal partners, none has seen the data before; where a good teacher exists, `kd` with it is stronger.

    Raises:
        TrainingError: there is no peer, or its logits have another shape than the student's.
    """
    nets = [at_least_float32(logits) for logits in (student_logits, *peer_logits)]
    if len(nets) < 2:
        raise TrainingError("the loss `mutual` compares a student with its peers, and there is none: name some in distill.peers")
    if student_logits.ndim != 2 or any(net.shape != nets[0].shape for net in nets):
        shapes = ", ".join(str(list(net.shape)) for net in nets)
        raise TrainingError(
            f"the loss `mutual` cannot compare logits of the shapes {shapes}: all nets must give [examples, classes] of one class list"
        )
    logs = [log_softmax(net / temperature, dim=1) for net in nets]
    taught = []
    for place, log in enumerate(logs):
        others = [kl_divergence(other.detach(), log).mean() for number, other in enumerate(logs) if number != place]
        taught.append(torch.stack(others).mean() * temperature**2)
    own = [at_least_float32(each).mean() for each in peer_label_losses]
    return torch.stack([*taught, *own]).sum()
