"""Similarity-preserving distillation: who resembles whom in a batch."""

from __future__ import annotations

from torch import Tensor

from kdedge.distill.losses.pairs import compared, full_precision, need_batch, unit


def sp_loss(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """Make examples resemble each other for the student as they do for the teacher (Tung and Mori, ICCV 2019, section 3).

    With F the features flattened to [N, everything], G = F F^T and each row of G divided by its Euclidean length:
    ||G_s - G_t||_F^2 / N^2. Usual weight 3000, on the last stage. Neither channels nor sizes need match.

    Shapes: [N, ...] each, with the same N. The teacher gets no gradient. Returns a scalar without unit, zero at equality, blind to a rotation
    of the feature space and to a positive factor; at most 4 / N, so the useful weight grows with the batch. Traps: a batch of one has nothing
    to compare (the loss is 0); each process of a distributed run compares within its own part of the batch.

    Raises:
        TrainingError: batches differ, or there are no features.
    """
    student, teacher = compared(student_feature, teacher_feature)
    need_batch("sp", student, teacher, 0)
    with full_precision(student):
        return (_similarities(student) - _similarities(teacher)).square().mean()


def _similarities(feature: Tensor) -> Tensor:
    rows = feature.flatten(1)
    return unit(rows @ rows.T)
