"""Soft-target distillation, plain and with standardised logits."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import log_softmax

from kdedge.distill.losses.distributions import compared_logits, kl_divergence, standardized


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 4.0, standardize: bool = False) -> Tensor:
    """Make the student's softened distribution the teacher's (Hinton, Vinyals and Dean 2015, eq. 1 and section 2).

    T^2 * KL(softmax(z_t / T) || softmax(z_s / T)): summed over classes, averaged over the batch, in float32. The T^2 keeps the gradient's
    scale when T changes. With `standardize`, both nets' logits become (z - mean) / (std + 1e-7) over their classes first (unbiased std;
    Sun et al., CVPR 2024), which makes the loss blind to the teacher's scale and shift.

    Defaults: T = 4 is usual for CIFAR, there with weight 0.9 beside `ce: 0.1`; ImageNet T = 1 to 4 with 0.5 beside `ce: 0.5`. With
    `standardize` the authors take T = 2 and weight 9 beside `ce: 0.1` (T = 3 for VGG-13 -> 8, T = 4 and 12 for ResNet-110 -> 20).

    Shapes: both [N, C], any float dtype (float64 stays float64); `temperature` a number or a 0-d tensor, which may be learned. The teacher
    gets no gradient. Returns a scalar in nats, zero where both distributions are equal. Typical scale on CIFAR after warm-up: 0.5 to 5 at
    T = 4 without `standardize`.
    """
    student, teacher = compared_logits("kd", student_logits, teacher_logits)
    if standardize:
        student, teacher = standardized(student), standardized(teacher)
    divergence = kl_divergence(log_softmax(teacher / temperature, dim=1), log_softmax(student / temperature, dim=1))
    return (divergence * temperature**2).mean()
