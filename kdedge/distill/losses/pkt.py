"""Probabilistic knowledge transfer: the neighbourhood of each example as a distribution."""

from __future__ import annotations

from torch import Tensor

from kdedge.distill.losses.pairs import compared, full_precision, need_batch, unit


def pkt_loss(student_pooled: Tensor, teacher_pooled: Tensor, epsilon: float = 1e-7) -> Tensor:
    """Make each example's neighbours as likely as they are for the teacher (Passalis and Tefas, ECCV 2018, section 3, cosine kernel).

    S_ij = (cos(x_i, x_j) + 1) / 2, each row divided by its sum gives P; mean over all N^2 entries of P_t log((P_t + e) / (P_s + e)).
    Usual weight 30000: the entries are of the order 1 / N, so a mean over N^2 of them is small (1e-4 for unrelated features at N = 128).
    e keeps the logarithm finite where cosines reach -1.

    Shapes: [N, C] each, pooled features; C may differ. The teacher gets no gradient. Returns a scalar in nats, zero at equality, blind to a
    rotation and to a positive factor on each example's features. Traps: a batch of one has nothing to compare; each process of a distributed
    run compares within its own part of the batch.

    Raises:
        TrainingError: batches differ, or features are not pooled.
    """
    student, teacher = compared(student_pooled, teacher_pooled)
    need_batch("pkt", student, teacher, 2)
    with full_precision(student):
        chosen_student, chosen_teacher = _neighbours(student), _neighbours(teacher)
        return (chosen_teacher * ((chosen_teacher + epsilon) / (chosen_student + epsilon)).log()).mean()


def _neighbours(points: Tensor) -> Tensor:
    directions = unit(points)
    similar = (directions @ directions.T + 1) / 2
    return similar / similar.sum(dim=1, keepdim=True)
