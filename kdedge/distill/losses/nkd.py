"""Normalised distillation: the label weighed by the teacher's trust in it, the other classes compared among themselves."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, softmax

from kdedge.distill.losses.distributions import compared_logits, other_logits


def nkd_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float | Tensor = 1.0, gamma: float = 1.5) -> Tensor:
    """Learn the label as far as the teacher trusts it, and the other classes as a distribution of their own (Yang et al., ICCV 2023, NKD).

    -p_t(y) * log p_s(y) - gamma * T^2 * sum over c != y of n_t(c) * log n_s(c), averaged over the batch, where p = softmax(z), label y, and
    n is the softmax of z / T over the classes other than y. The first part knows no temperature. Both parts are cross-entropies: for a given
    teacher the second is smallest where n_s = n_t, and is then gamma * T^2 times the entropy of n_t, so the loss is not zero where student
    and teacher are equal.

    Defaults: T = 1 and gamma = 1.5 are the authors' for ImageNet; in their code for CIFAR-100 ResNet-34 -> 18 T = 3 and gamma = 3.5.
    Published weight: 1 beside `ce: 1`. Typical scale: a student that knows nothing costs p_t(y) * log(C) + gamma * T^2 * log(C - 1); at high
    T the second part stays near that.

    Shapes: logits [N, C] with C >= 2, any float dtype (computed in float32; float64 stays float64); labels int64 [N]; `temperature` a number
    or a 0-d tensor, which may be learned. The teacher gets no gradient. Returns a scalar in nats.

    Traps: the entropy that remains makes the value useless for comparing temperatures, and a temperature learned by descent shrinks to
    escape T^2. A label must be one class (no mixup). A teacher that is wrong takes weight off the label, not only off itself.
    """
    student, teacher = compared_logits("nkd", student_logits, teacher_logits)
    trust = (-cross_entropy(teacher, labels, reduction="none")).exp()
    label = trust * cross_entropy(student, labels, reduction="none")
    target = softmax(other_logits(teacher, labels) / temperature, dim=1)
    others = -(target * log_softmax(other_logits(student, labels) / temperature, dim=1)).sum(dim=1)
    return (label + gamma * temperature**2 * others).mean()
