"""The predictor of VID: a mean network and one variance a channel."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from kdedge.distill.learned import TapShapes, channels, need_same_kind
from kdedge.distill.learned.regressor import layer, resized, shrunk
from kdedge.distill.losses.pairs import at_least_float32, need_batch
from kdedge.errors import TrainingError


class Variational(nn.Module):
    """A Gaussian for the teacher's feature, given the student's (Ahn et al., CVPR 2019, section 2).

    Mean: three linear maps of the channels with ReLU between (1x1 convolutions for maps [N, C, H, W], linear layers for [N, L, D] and [N, D]), as
    wide as the teacher's feature. Variance: softplus(scale) + `epsilon`, one a channel; `scale` is a parameter like any other (in a plain list
    the optimizer would not see it, and the variance would stay what it was at first: `initial_variance`, 5 as published).
    Maps of another size are average-pooled or resized to the teacher's as in the regressor of FitNet.

    Gives `learned_mean`, of the teacher's shape, and `learned_variance`, [1, C, 1, 1], [1, 1, D] or [1, D].

    Raises:
        TrainingError: the pair mixes kinds of features, token counts differ, or `initial_variance` is not above `epsilon` above 0.
    """

    def __init__(self, shapes: TapShapes, *, initial_variance: float = 5.0, epsilon: float = 1e-5) -> None:
        super().__init__()
        student, teacher = shapes.pair("vid")
        need_same_kind("vid", student, teacher)
        if not 0 < epsilon < initial_variance:
            raise TrainingError(f"the loss `vid` needs 0 < epsilon < initial_variance, not {epsilon} and {initial_variance}")
        inside, outside, maps = channels(student, "vid"), channels(teacher, "vid"), len(student) == 3
        self.epsilon = epsilon
        self.mean = nn.Sequential(
            layer(inside, outside, maps=maps), nn.ReLU(), layer(outside, outside, maps=maps), nn.ReLU(), layer(outside, outside, maps=maps)
        )
        above = initial_variance - epsilon
        # The inverse of softplus, written so that a large variance does not overflow.
        self.scale = nn.Parameter(torch.full((outside,), above + math.log(-math.expm1(-above))))

    def forward(self, student_feature: Tensor, teacher_feature: Tensor) -> dict[str, Tensor]:
        """The Gaussian of the batch, in the precision of the parameters."""
        student, teacher = at_least_float32(student_feature), teacher_feature
        need_batch("vid", student, teacher, teacher.ndim)
        variance = softplus(self.scale) + self.epsilon
        if student.ndim != 4:
            return {"learned_mean": self.mean(student), "learned_variance": variance.view(*[1] * (student.ndim - 1), -1)}
        size = (teacher.shape[2], teacher.shape[3])
        return {"learned_mean": resized(self.mean(shrunk(student, size)), size), "learned_variance": variance.view(1, -1, 1, 1)}
