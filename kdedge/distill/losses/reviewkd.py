"""Knowledge review: each stage of the teacher is taught to all deeper stages of the student."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from kdedge.distill.losses.pairs import compared, mismatch, need_equal
from kdedge.errors import TrainingError


def reviewkd_loss(learned_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
    """Hierarchical context loss, summed over the stages (Chen et al., "Distilling Knowledge via Knowledge Review", CVPR 2021, section 3.3).

    For a stage: mean squared difference at full size, plus those of both maps average-pooled to 4x4, 2x2 and 1x1 with weights 1/2, 1/4 and 1/8;
    divided by the sum of the weights. Sizes that are not smaller than the map are left out (the next one then takes the weight). The fused
    maps come from kdedge.distill.learned.review. Usual weight 0.6 to 8 (0.6 for ResNet-56 to ResNet-20 on CIFAR-100, 1 for ResNet-110 to
    ResNet-32, 5 for wide nets, 8 for ShuffleNetV2), rising over the first 20 epochs.

    Shapes: two lists of the same length, shallow to deep, each pair [N, C, H, W] alike. The teacher gets no gradient. Returns a scalar in the
    square of the feature's unit, zero at equality.

    Raises:
        TrainingError: there are no stages, their numbers differ, or the maps of a stage differ in shape.
    """
    if not teacher_features or len(learned_features) != len(teacher_features):
        found = f"{len(learned_features)} maps of the student and {len(teacher_features)} of the teacher"
        raise TrainingError(f"the loss `reviewkd` has {found}: it needs as many of each, one a layer pair, and at least one")
    stages = [_context(learned, teacher) for learned, teacher in zip(learned_features, teacher_features, strict=True)]
    return torch.stack(stages).sum()


def _context(learned: Tensor, wanted: Tensor) -> Tensor:
    student, teacher = compared(learned, wanted)
    if student.ndim != 4:
        raise TrainingError(mismatch("reviewkd", student.shape, teacher.shape, "it pools maps [N, C, H, W]: tap convolutional layers"))
    need_equal("reviewkd", student.shape, teacher.shape, "the fusion gives maps of the teacher's shape: give each stage its own teacher layer")
    height, width = student.shape[2:]
    loss, weight, weights = (student - teacher).square().mean(), 1.0, 1.0
    for level in (4, 2, 1):
        size = (min(level, height), min(level, width))
        if size == (height, width):
            continue
        weight /= 2
        weights += weight
        loss = loss + weight * (adaptive_avg_pool2d(student, size) - adaptive_avg_pool2d(teacher, size)).square().mean()
    return loss / weights
