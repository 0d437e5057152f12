"""Hints: a layer of the student predicts a layer of the teacher."""

from __future__ import annotations

from torch import Tensor

from kdedge.distill.losses.pairs import compared, need_equal


def fitnet_loss(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """Make the student's adapted feature the teacher's (FitNets, Romero et al., ICLR 2015, section 2.2, eq. 3).

    mean((r(f_s) - f_t)^2) over all elements, where r is the regressor (kdedge.distill.learned.regressor), which has already been applied to
    `student_feature` here. The paper's 1/2 and sum over elements go into the weight: 100 is usual with this mean. One middle stage is the
    usual hint; it is often a first stage of training, before `kd`.

    Shapes: both the same, [N, C, H, W], [N, L, D] or [N, D]. The teacher gets no gradient. Returns a scalar in the square of the feature's
    unit, zero at equality, so its scale is that of the teacher's features: after a ReLU often 0.05 to 1.

    Raises:
        TrainingError: the shapes differ.
    """
    student, teacher = compared(student_feature, teacher_feature)
    need_equal("fitnet", student.shape, teacher.shape, "tap layers whose shapes agree, or let the regressor adapt channels and sizes")
    return (student - teacher).square().mean()
