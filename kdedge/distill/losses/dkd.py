"""Decoupled distillation: how sure of the label, and what among the other classes, weighed apart."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import log_softmax

from kdedge.distill.losses.distributions import compared_logits, kl_divergence, log_label_or_other, other_logits, standardized


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float | Tensor = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    standardize: bool = False,
) -> Tensor:
    """Distil the label's probability and the ranking of the other classes with weights of their own (Zhao et al., CVPR 2022, DKD).

    T^2 * [alpha * KL(b_t || b_s) + beta * KL(n_t || n_s)], averaged over the batch, where with p = softmax(z / T) and label y
    b = (p(y), 1 - p(y)) and n is the softmax of z / T over the classes other than y. Plain KD is alpha = 1 with beta = 1 - p_t(y) for each
    example: where the teacher is sure, KD has next to no ranking left, and DKD keeps it. With `standardize`, both nets' logits are
    standardised over their classes first, as in `kd_loss` (Sun et al., CVPR 2024: their weight is 9 to 18 times DKD's).

    Defaults: T = 4 and alpha = 1 are the authors' for CIFAR-100; beta = 8 is theirs for ResNet-32x4 -> 8x4, with 6 for WRN and VGG, 2 for
    ResNet-56 -> 20; ImageNet T = 1, beta = 0.5. Published weight: 1 beside `ce: 1`, raised linearly from 0 over the first 20 epochs.

    Shapes: logits [N, C] with C >= 2, any float dtype (computed in float32; float64 stays float64); labels int64 [N]; `temperature` a number
    or a 0-d tensor, which may be learned. The teacher gets no gradient. Returns a scalar in nats, zero where both distributions are equal.

    Traps: without the warm-up, beta = 8 outweighs the labels while the student is still random. A label must be one class: after mixup or
    on unlabelled data the split means nothing. A teacher that is nearly one-hot has a ranking of tiny probabilities, which beta magnifies,
    noise included; a higher T does not change their order.
    """
    student, teacher = compared_logits("dkd", student_logits, teacher_logits)
    if standardize:
        student, teacher = standardized(student), standardized(teacher)
    student, teacher = student / temperature, teacher / temperature
    label = kl_divergence(log_label_or_other(teacher, labels), log_label_or_other(student, labels))
    others = kl_divergence(log_softmax(other_logits(teacher, labels), dim=1), log_softmax(other_logits(student, labels), dim=1))
    return ((alpha * label + beta * others) * temperature**2).mean()
