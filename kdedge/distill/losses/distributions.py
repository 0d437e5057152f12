"""The arithmetic that losses on logits share: everything stays in logarithms, so no probability is rounded to 0 or 1 before its log is taken."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from kdedge.distill.losses.pairs import compared, mismatch
from kdedge.errors import TrainingError


def compared_logits(loss: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both logits [N, C] in at least float32 (float64 stays float64), the teacher's without gradient.

    Raises:
        TrainingError: they differ in shape, are not [N, C], or C is less than 2. `loss` is its name in the recipe.
    """
    if student.ndim != 2 or student.shape[1] < 2 or student.shape != teacher.shape:
        advice = "it needs logits [examples, classes] of both over the same list of at least two classes"
        raise TrainingError(mismatch(loss, student.shape, teacher.shape, advice))
    return compared(student, teacher)


def standardized(logits: Tensor) -> Tensor:
    """(z - mean) / (std + 1e-7) of each example over its classes, [N, C] (unbiased std; Sun et al., CVPR 2024).

    A student whose logits are all equal (a last layer that starts at zero) gets a gradient of the order of 1e7: start it elsewhere, or clip.
    """
    return (logits - logits.mean(dim=1, keepdim=True)) / (logits.std(dim=1, keepdim=True) + 1e-7)


def kl_divergence(log_target: Tensor, log_prediction: Tensor) -> Tensor:
    """KL(target || prediction) of each example in nats: log-probabilities [N, C] to [N]. A class of target probability 0 adds nothing."""
    target = log_target.exp()
    # Without the mask a log-probability of -inf (a class that the teacher rules out) would make 0 * inf.
    return (target * torch.where(target > 0, log_target - log_prediction, 0.0)).sum(dim=1)


def other_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """The logits without the one of the label, in the order of the classes: [N, C] and int64 [N] to [N, C - 1]."""
    places = torch.arange(logits.shape[1] - 1, device=logits.device).expand(len(logits), -1)
    return logits.gather(1, places + (places >= labels.unsqueeze(1)))


def log_label_or_other(logits: Tensor, labels: Tensor) -> Tensor:
    """log p(label) and log(1 - p(label)) where p = softmax(logits), [N, 2]: both are exact also where p(label) rounds to 1."""
    log_odds = logits.gather(1, labels.unsqueeze(1)).squeeze(1) - other_logits(logits, labels).logsumexp(dim=1)
    return torch.stack([logsigmoid(log_odds), logsigmoid(-log_odds)], dim=1)
