"""Relational distillation: distances and angles between the examples of a batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from kdedge.distill.losses.pairs import compared, full_precision, need_batch, unit

# Two examples nearer than this, as a part of the batch's mean distance, are one point.
_COINCIDENT = 1e-5


def rkd_loss(student_pooled: Tensor, teacher_pooled: Tensor, distance: float = 25.0, angle: float = 50.0) -> Tensor:
    """Keep the teacher's distances and angles between examples (Park et al., CVPR 2019, section 3.2).

    distance * mean_ij h(d_ij^s, d_ij^t) + angle * mean_ijk h(a_ijk^s, a_ijk^t), where h is the Huber loss with its bend at 1 (smooth L1);
    d_ij = |x_i - x_j| divided by the mean of the batch's positive distances; a_ijk = cosine of the angle at x_i between x_j and x_k. The means run
    over all N^2 pairs and N^3 triplets, those that repeat an example (and are always 0) included: that is the scale of the usual factors 25 and
    50 (with the term's weight 1). The factors are parameters: 0 leaves a part out.

    Shapes: [N, C] each, pooled features of the last stage or embeddings; C may differ. The teacher gets no gradient. Returns a scalar without
    unit, zero at equality, blind to rotation, shift and a positive factor of either side's features. Memory: N^3 + N^2 C floats a side while
    `angle` is in use (8 MB at N = 128, 0.5 GB at N = 512). Traps: two examples with equal student features (nearer than
    1e-5 of the mean distance) have no direction: their angles are 0 and without gradient; a
    batch of one has nothing to compare; each process of a distributed run compares within its own part of the batch.

    Raises:
        TrainingError: batches differ, or features are not pooled.
    """
    student, teacher = compared(student_pooled, teacher_pooled)
    need_batch("rkd", student, teacher, 2)
    with full_precision(student):
        between_student, between_teacher = _differences(student), _differences(teacher)
        loss: Tensor = distance * smooth_l1_loss(_distances(between_student), _distances(between_teacher))
        if angle:
            loss = loss + angle * smooth_l1_loss(_cosines(between_student), _cosines(between_teacher))
    return loss


def _differences(points: Tensor) -> Tensor:
    """[N, N, C]: from example i to example j."""
    return points.unsqueeze(0) - points.unsqueeze(1)


def _distances(between: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(between, dim=2)
    positive = lengths > 0
    # Where all examples are equal there is no scale, and no distance to divide.
    mean = lengths.sum() / positive.sum().clamp(min=1)
    return lengths / torch.where(positive.any(), mean, torch.ones_like(mean))


def _cosines(between: Tensor) -> Tensor:
    """[N, N, N]: at i, between the directions to j and to k."""
    # What differs by rounding alone has no direction, and its gradient would be as large as it is short.
    typical = torch.linalg.vector_norm(between.detach(), dim=2).mean()
    directions = unit(between, shortest=_COINCIDENT * typical)
    return directions @ directions.transpose(1, 2)
