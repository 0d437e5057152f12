"""Relational distillation of predictions: correlation instead of equality."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softmax

from kdedge.distill.losses.distributions import compared_logits

_EPSILON = 1e-8


def dist_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 4.0, beta: float = 1.0, gamma: float = 1.0) -> Tensor:
    """Match how the teacher's probabilities relate, not what they are (Huang et al., NeurIPS 2022, DIST).

    T^2 * [beta * (1 - mean over examples of r) + gamma * (1 - mean over classes of r)] with r the Pearson correlation of student and teacher:
    of an example's probabilities over the classes (beta, inter-class), and of a class's probabilities over the batch (gamma, intra-class);
    probabilities are softmax(z / T). A student need not reach the teacher's sharpness, so the loss suits a teacher that is much stronger.

    r = a.b / sqrt((|a|^2 + 1e-8) (|b|^2 + 1e-8)) with a, b centred. The authors add 1e-8 to |a| |b| instead: nearly the same where a and b
    are alike, but their gradient reaches 1e8 where the student's probabilities are all equal (a last layer that starts at zero). Here a
    centred vector's gradient is at most 1e4 long.

    Defaults: T = 4, beta = gamma = 1 are the authors' for CIFAR-100 with weight 2 beside `ce: 1`; ImageNet T = 1. Typical scale: T^2 * 2 for
    an unrelated student, at most T^2 * 4.

    Shapes: both [N, C], any float dtype (computed in float32; float64 stays float64); `temperature` a number or a 0-d tensor, which may be
    learned. The teacher gets no gradient. Returns a scalar without unit: zero (up to the 1e-8) where the probabilities of both are positive
    affine maps of each other, so also where they are equal.

    Traps: the intra-class part needs a batch of 64 or more; in a batch of one it is the constant T^2. It is a mean over classes, and those
    whose probabilities hardly vary within the batch (|a| or |b| near 1e-4: many classes, T = 1, a nearly one-hot teacher) count as
    uncorrelated and teach little. The value depends on who is in the batch: with gradient accumulation or several processes each small batch
    has its own.
    """
    student, teacher = compared_logits("dist", student_logits, teacher_logits)
    student, teacher = softmax(student / temperature, dim=1), softmax(teacher / temperature, dim=1)
    between_classes = 1 - _correlation(student, teacher, dim=1)
    within_class = 1 - _correlation(student, teacher, dim=0)
    # Each part takes the square before its mean: a 0-d tensor in float64 would else make the result float64.
    return (beta * between_classes * temperature**2).mean() + (gamma * within_class * temperature**2).mean()


def _correlation(student: Tensor, teacher: Tensor, dim: int) -> Tensor:
    student, teacher = student - student.mean(dim, keepdim=True), teacher - teacher.mean(dim, keepdim=True)
    return (student * teacher).sum(dim) / (_length(student, dim) * _length(teacher, dim))


def _length(centred: Tensor, dim: int) -> Tensor:
    return (centred.square().sum(dim) + _EPSILON).sqrt()
