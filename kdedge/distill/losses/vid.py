"""Variational information distillation: how well the student's feature predicts the teacher's, in bits that can be optimised."""

from __future__ import annotations

from torch import Tensor

from kdedge.distill.losses.pairs import at_least_float32, compared, mismatch, need_equal
from kdedge.errors import TrainingError


def vid_loss(learned_mean: Tensor, learned_variance: Tensor, teacher_feature: Tensor) -> Tensor:
    """Make the teacher's feature likely, given the student's (Ahn et al., CVPR 2019, section 2).

    Negative log likelihood of a Gaussian with one variance a channel, without its constant log(2 pi) / 2:
    mean over all elements of ((m(f_s) - f_t)^2 / v + log v) / 2. It bounds from above what the student does not know of the teacher. Mean and
    variance come from kdedge.distill.learned.variational. Usual weight 1, on the output of each stage.

    Shapes: `learned_mean` and `teacher_feature` the same, [N, C, H, W], [N, L, D] or [N, D]; `learned_variance` above 0, with as many
    dimensions, each 1 except that of the channels ([1, C, 1, 1], [1, 1, D], [1, D]). The teacher gets no gradient. Returns a scalar in nats an
    element. It is no distance: negative once the variances are below 1, and not zero at equality but log(v) / 2; the best v is the mean squared
    error of its channel.

    Raises:
        TrainingError: the shapes do not fit.
    """
    mean, teacher = compared(learned_mean, teacher_feature)
    variance = at_least_float32(learned_variance)
    need_equal("vid", mean.shape, teacher.shape, "the mean network adapts channels and sizes: tap layers of the same kind")
    channel = 1 if mean.ndim == 4 else mean.ndim - 1
    expected = [mean.shape[channel] if place == channel else 1 for place in range(mean.ndim)]
    if list(variance.shape) != expected:
        raise TrainingError(mismatch("vid", variance.shape, teacher.shape, f"the variance is one a channel of the teacher, so {expected}"))
    return ((mean - teacher).square() / variance + variance.log()).mean() / 2
