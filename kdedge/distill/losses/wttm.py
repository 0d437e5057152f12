"""Transformed teacher matching that dwells on the examples of which the teacher is unsure."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import log_softmax

from kdedge.distill.losses.distributions import compared_logits, kl_divergence


def wttm_loss(student_logits: Tensor, teacher_logits: Tensor, gamma: float = 0.2) -> Tensor:
    """`ttm_loss` with each example weighed by the power sum of the teacher (Zheng and Yang, ICLR 2024, WTTM).

    u * KL(q || softmax(z_s)) averaged over the batch, with u = sum over classes of p_t^gamma, q = p_t^gamma / u and p_t = softmax(z_t). For
    0 < gamma < 1, u runs from 1 (a one-hot teacher) to C^(1 - gamma) (a teacher that knows nothing): hard examples count more. The weights
    are not normalised over the batch.

    Defaults: gamma = 0.2 with weight 4 is the authors' for CIFAR-100 VGG-13 -> 8, there beside `ce: 1` and CRD at 0.8. Typical scale: u times
    that of `ttm_loss`, and u is up to 40 for 100 classes at gamma = 0.2, up to 63 at 0.1: weights are smaller than there.

    Shapes: both [N, C], any float dtype (computed in float32; float64 stays float64). The teacher gets no gradient. Returns a scalar in nats,
    zero where softmax(z_s) is q.

    Traps: as for `ttm_loss`; and the scale falls with the teacher's certainty, so a weight found for one teacher does not carry over to a
    sharper one.
    """
    student, teacher = compared_logits("wttm", student_logits, teacher_logits)
    powered = gamma * log_softmax(teacher, dim=1)
    divergence = kl_divergence(log_softmax(powered, dim=1), log_softmax(student, dim=1))
    return (powered.logsumexp(dim=1).exp() * divergence).mean()
