"""Hard distillation: the teacher's decision as the label."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

from kdedge.distill.losses.distributions import compared_logits


def hard_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Cross-entropy to the class that the teacher chooses (Touvron et al., DeiT, ICML 2021, section 4, hard-label distillation).

    -log softmax(z_s)[argmax z_t], averaged over the batch. It needs neither a temperature nor labels, so it serves unlabelled data and
    teachers that give decisions only. DeiT takes half of this and half of the loss against labels: `{ce: 0.5}` and `{hard: 0.5}`.

    Shapes: both [N, C], any float dtype (computed in float32; float64 stays float64). The teacher gets no gradient; where two of its logits
    tie, the first counts. Returns a scalar in nats: log(C) for a student that knows nothing, near 0 only for one that is certain, so it is
    not zero where student and teacher are equal.

    Trap: where the teacher is nearly always right (training data that it has learned by heart), this says what the labels say; use augmented
    or unlabelled data.
    """
    student, teacher = compared_logits("hard", student_logits, teacher_logits)
    return cross_entropy(student, teacher.argmax(dim=1))
