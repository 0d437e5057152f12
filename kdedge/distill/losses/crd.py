"""Contrastive representation distillation: tell an example's own teacher embedding from those of other examples."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from kdedge.distill.losses.pairs import at_least_float32, need_equal


def crd_loss(learned_student_scores: Tensor, learned_teacher_scores: Tensor) -> Tensor:
    """Noise-contrastive estimation in both directions (Tian, Krishnan and Isola, ICLR 2020, section 3).

    A score is the log odds that two embeddings belong to one example. It comes from kdedge.distill.learned.contrast:
    s = <u, v> / tau - log Z - log(K / M), with unit embeddings u and v, a constant Z, K negatives and M training examples, so that
    sigmoid(s) = p / (p + K / M). Column 0 is the example's own pair, columns 1 to K are negatives: for each direction
    -[log sigmoid(s_0) + sum_k log(1 - sigmoid(s_k))], averaged over the batch; the two directions are added. A negative that is left out has
    the score -inf; the sum over those that remain is scaled up to K. Usual weight 0.8, on pooled features of the last stage.

    Shapes: both [N, 1 + K]: the student's embedding against remembered teacher embeddings, and the reverse. Returns a scalar in nats. It is
    never zero: where nothing is learned yet, about 2 (1 + log K): 21 to 23 for K = 16384.

    Raises:
        TrainingError: the shapes differ.
    """
    student, teacher = at_least_float32(learned_student_scores), at_least_float32(learned_teacher_scores)
    need_equal("crd", student.shape, teacher.shape, "both sides need one positive and the same negatives, [N, 1 + K]")
    return _estimation(student) + _estimation(teacher)


def _estimation(scores: Tensor) -> Tensor:
    own, others = scores[:, 0], scores[:, 1:]
    kept = (others > float("-inf")).sum(dim=1)
    scale = others.shape[1] / kept.clamp(min=1)
    return -(logsigmoid(own) + scale * logsigmoid(-others).sum(dim=1)).mean()
