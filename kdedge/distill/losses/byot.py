"""Be your own teacher: the end of a net teaches its beginning."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from kdedge.distill.losses.distributions import kl_divergence
from kdedge.distill.losses.pairs import at_least_float32
from kdedge.errors import TrainingError


def byot_loss(
    student_logits: Tensor,
    labels: Tensor,
    learned_exits: Sequence[Tensor],
    learned_features: Sequence[Tensor],
    learned_last: Tensor,
    alpha: float = 0.1,
    temperature: float | Tensor = 3.0,
    beta: float = 1e-6,
) -> Tensor:
    """Train exits at earlier layers on the labels, on the net's own last answer and on its last feature (Zhang et al., ICCV 2019, section 3.2).

    (1 - alpha) * sum_i CE(e_i, label) + alpha * T^2 * sum_i KL(softmax(z / T) || softmax(e_i / T)) + beta * sum_i ||F_i - F||^2, over the exits
    i, where z are the student's logits, F its feature at the last of the `layers`, and e_i and F_i what the exit at an earlier one makes of it
    (kdedge.distill.learned.exits). The last classifier's own loss comes from `ce`: `[{ce: 1}, {byot: 1, layers: [layer1, layer2, layer3]}]` is
    the whole loss of the paper. z and F get no gradient here: the end teaches, the beginning learns, and with it all layers below an exit.

    Shapes: `student_logits` and each of `learned_exits` [N, C]; `learned_features` and `learned_last` of one shape [N, ...]; `labels` int64 [N].
    CE and KL are averaged over the batch, ||.||^2 is summed over a feature's elements and averaged over the batch, all in float32 (float64
    stays float64). Returns a scalar in nats: with k exits about k (1 - alpha) log(C) before training. Published for CIFAR-100: alpha 0.1,
    T 3, beta 1e-6, with ||.||^2 summed over the batch of 128 (so that 1e-4 here weighs as much); others use alpha 0.3, beta 0.03.

    Trap: the exits are trained and thrown away; what the exported student gains is the better signal for its lower layers.

    Raises:
        TrainingError: logits or features differ in shape.
    """
    final, last = at_least_float32(student_logits.detach()), at_least_float32(learned_last.detach())
    log_final = log_softmax(final / temperature, dim=1)
    total = []
    for logits, feature in zip(map(at_least_float32, learned_exits), map(at_least_float32, learned_features), strict=True):
        if logits.shape != final.shape or feature.shape != last.shape:
            found = f"logits {list(logits.shape)} and a feature {list(feature.shape)}"
            raise TrainingError(f"the loss `byot` got an exit with {found}; the student gives {list(final.shape)} and {list(last.shape)}")
        soft = kl_divergence(log_final, log_softmax(logits / temperature, dim=1)).mean() * temperature**2
        near = (feature - last).square().flatten(1).sum(1).mean()
        total.append((1 - alpha) * cross_entropy(logits, labels) + alpha * soft + beta * near)
    return torch.stack(total).sum()
