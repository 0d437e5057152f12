"""Transformed teacher matching: only the teacher is softened."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import log_softmax

from kdedge.distill.losses.distributions import compared_logits, kl_divergence


def ttm_loss(student_logits: Tensor, teacher_logits: Tensor, gamma: float = 0.1) -> Tensor:
    """Make the unsoftened student equal the softened teacher (Zheng and Yang, ICLR 2024, TTM).

    KL(q || softmax(z_s)) with q = p_t^gamma / sum of p_t^gamma and p_t = softmax(z_t), averaged over the batch. The power is a temperature:
    q = softmax(gamma * z_t), which is how it is computed, and gamma = 1/T gives KD's target. The student keeps temperature 1, and there is no
    T^2. The authors show that this is KD with a Renyi entropy of the student as a further regulariser.

    Defaults: gamma = 0.1 with weight 45 beside `ce: 1` is the authors' for CIFAR-100 VGG-13 -> 8; their gammas lie between 0.1 and 0.2 (T of
    10 to 5). Typical scale: a student that knows nothing costs log(C) minus the entropy of q, little at such gammas; a sure one costs nats.

    Shapes: both [N, C], any float dtype (computed in float32; float64 stays float64). The teacher gets no gradient. Returns a scalar in nats,
    zero where softmax(z_s) is q, thus not where student and teacher are equal, unless gamma is 1.

    Traps: weights of `kd` do not carry over: at T = 1/gamma this is 1/T^2 of `kd` for student logits T times as large. The student learns to
    be as unsure as q, and only `ce` beside it restores its confidence: do not leave `ce` out, and watch calibration.
    """
    student, teacher = compared_logits("ttm", student_logits, teacher_logits)
    return kl_divergence(log_softmax(gamma * teacher, dim=1), log_softmax(student, dim=1)).mean()
