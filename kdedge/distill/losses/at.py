"""Attention transfer: the student looks where the teacher looks."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from kdedge.distill.losses.pairs import compared, mismatch, need_batch, unit
from kdedge.errors import TrainingError


def at_loss(student_attention: Tensor, teacher_attention: Tensor) -> Tensor:
    """Make the student's attention maps the teacher's (Zagoruyko and Komodakis, ICLR 2017, section 3.1, eq. 2 with p = 2).

    A map A = mean over channels of f^2 is flattened and divided by its Euclidean length, Q = vec(A) / |vec(A)|; the loss of a layer pair is
    mean((Q_s - Q_t)^2) over batch and positions. That mean is what the authors' code takes and what the usual weight 1000 belongs to (their
    eq. 2 has beta / 2 times the length of the difference instead). Of maps of different sizes the larger is average-pooled to the smaller
    one's size first, each axis for itself. Channels need not match, so there is no adapter. Usual taps: the output of each stage.

    Attention of a transformer, after its softmax, is compared as it is: mean((mean over heads A_s - mean over heads A_t)^2) over batch,
    queries and keys; head counts may differ, token counts may not. Its rows sum to 1, so nothing is normalised; its entries are of the
    order 1 / L and the loss of the order 1 / L^2, which the weight must make up for. Padding tokens count as any other.

    Shapes: both [N, H, W], not normalised, of at least 0; or both [N, heads, L, L]. The teacher gets no gradient. Returns a scalar without
    unit, zero at equality; for maps it is blind to a positive factor on either side and at most 2 / (H W). Trap: across architectures maps
    can hurt (VGG-13 to MobileNetV2 on CIFAR-100: below the student alone).

    Raises:
        TrainingError: the ranks, batches or token counts differ.
    """
    student, teacher = compared(student_attention, teacher_attention)
    if student.ndim not in (3, 4) or student.ndim != teacher.ndim:
        raise TrainingError(mismatch("at", student.shape, teacher.shape, "tap two convolutional maps, or the attention of two transformers"))
    need_batch("at", student, teacher, student.ndim)
    if student.ndim == 4:
        if student.shape[2:] != teacher.shape[2:]:
            advice = "attention over tokens is compared entry by entry: both nets must see the same tokens"
            raise TrainingError(mismatch("at", student.shape, teacher.shape, advice))
        return (student.mean(dim=1) - teacher.mean(dim=1)).square().mean()
    size = (min(student.shape[1], teacher.shape[1]), min(student.shape[2], teacher.shape[2]))
    return (_directions(student, size) - _directions(teacher, size)).square().mean()


def _directions(maps: Tensor, size: tuple[int, int]) -> Tensor:
    pooled = maps if maps.shape[1:] == size else adaptive_avg_pool2d(maps, size)
    return unit(pooled.flatten(1))
