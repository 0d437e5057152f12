"""The memories of CRD: embeddings of every training example, by which students and teachers are told apart."""

from __future__ import annotations

import math

import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import normalize

from kdedge.distill.learned import TapShapes, channels
from kdedge.distill.losses.pairs import at_least_float32, full_precision, need_batch
from kdedge.errors import TrainingError

_UNKNOWN = -1


class Contrast(nn.Module):
    """Scores of an example's own teacher embedding against those of other examples, and the reverse (Tian, Krishnan and Isola, ICLR 2020).

    Both nets' pooled features are embedded by a linear layer each and brought to unit length. Two banks remember the embeddings of every
    training example; for each example of the batch `negatives` (K) others are drawn uniformly, with repetition. Once an example's label has been
    seen, it is no negative for examples of its class (its score is -inf, which the loss leaves out): published figures draw from other classes.
    A score is <u, v> / tau - log Z - log(K / M) with M training examples, so that sigmoid(score) = p / (p + K / M). Z is estimated from the first
    batch (M times the mean of exp(<u, v> / tau)), one for each direction, and then stays, as in the authors' code.

    After the scores, in training mode only, each example's entries become momentum * old + (1 - momentum) * new, brought to unit length again.
    Processes of a distributed run exchange their embeddings first, so every bank stays the same. Where one example is twice in a batch, one of
    its embeddings counts.

    Reads `student_pooled`, `teacher_pooled` [N, C], `samples` int64 [N] (places in the training split) and `labels` (int64 [N]; anything else is
    not taken for classes). Gives `learned_student_scores` (the student's embedding against the teacher's bank) and `learned_teacher_scores`, both
    [N, 1 + K], the example's own pair first. The teacher's features get no gradient, its embedding layer does.

    Memory: the banks hold 2 M `dimension` floats (51 MB for 50,000 examples at 128), are part of every checkpoint, and a step computes with copies.
    Published: dimension 128, K 16384, tau 0.07, momentum 0.5.

    Raises:
        TrainingError: K is not smaller than the training split, or a parameter is out of range.
    """

    student_bank: Tensor
    teacher_bank: Tensor
    classes: Tensor
    log_z: Tensor

    def __init__(self, shapes: TapShapes, *, dimension: int = 128, negatives: int = 16384, tau: float = 0.07, momentum: float = 0.5) -> None:
        super().__init__()
        student, teacher = shapes.pair("crd")
        _check(shapes.samples, dimension, negatives, tau, momentum)
        self.negatives, self.tau, self.momentum = negatives, tau, momentum
        self.student_embedding = nn.Linear(channels(student, "crd"), dimension)
        self.teacher_embedding = nn.Linear(channels(teacher, "crd"), dimension)
        self.register_buffer("student_bank", normalize(torch.randn(shapes.samples, dimension), dim=1))
        self.register_buffer("teacher_bank", normalize(torch.randn(shapes.samples, dimension), dim=1))
        self.register_buffer("classes", torch.full((shapes.samples,), _UNKNOWN, dtype=torch.int64))
        # -inf until the first batch: against the teacher's bank, against the student's.
        self.register_buffer("log_z", torch.full((2,), -math.inf))

    def forward(self, student_pooled: Tensor, teacher_pooled: Tensor, samples: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The scores of the batch, in float32 at least; then the banks move."""
        student, teacher = at_least_float32(student_pooled), at_least_float32(teacher_pooled.detach())
        need_batch("crd", student, teacher, 2)
        with full_precision(student):
            of_student = normalize(self.student_embedding(student), dim=1)
            of_teacher = normalize(self.teacher_embedding(teacher), dim=1)
            chosen = self._chosen(samples)
            of_student_scores = self._products(of_student, self.teacher_bank, chosen)
            of_teacher_scores = self._products(of_teacher, self.student_bank, chosen)
        self._settle(of_student_scores, of_teacher_scores)
        shift = self.log_z + math.log(self.negatives / len(self.classes))
        known = self._known(labels, samples)
        same = self._same_class(known, chosen)
        scores = {
            "learned_student_scores": (of_student_scores - shift[0]).masked_fill(same, -math.inf),
            "learned_teacher_scores": (of_teacher_scores - shift[1]).masked_fill(same, -math.inf),
        }
        if self.training:
            self._remember(of_student.detach(), of_teacher.detach(), samples, known)
        return scores

    def _chosen(self, samples: Tensor) -> Tensor:
        """[N, 1 + K]: each example itself, then others, never itself: places from its own on are moved up by one."""
        others = torch.randint(len(self.classes) - 1, (len(samples), self.negatives), device=samples.device)
        own = samples.unsqueeze(1)
        return torch.cat([own, others + (others >= own)], dim=1)

    def _products(self, embeddings: Tensor, bank: Tensor, chosen: Tensor) -> Tensor:
        """<embedding, bank entry> / tau for the chosen entries, [N, 1 + K]. Whichever needs less memory: the chosen rows, or all products."""
        if chosen.shape[1] * bank.shape[1] < len(bank):
            products = torch.einsum("nd,nkd->nk", embeddings, bank[chosen].to(embeddings.dtype))
        else:
            # A copy, because the bank moves before the gradient is computed.
            products = (embeddings @ bank.to(embeddings.dtype, copy=True).T).gather(1, chosen)
        return products / self.tau

    @torch.no_grad()
    def _settle(self, *scores: Tensor) -> None:
        """Estimate log Z from the first batch. No branch on a value: a GPU would have to wait for it."""
        found = torch.stack([side.detach().logsumexp((0, 1)) - math.log(side.numel()) for side in scores])
        everywhere = _gathered(found.unsqueeze(0)).logsumexp(0) - math.log(_processes())
        first = torch.isneginf(self.log_z)
        self.log_z.copy_(torch.where(first, (everywhere + math.log(len(self.classes))).to(self.log_z.dtype), self.log_z))

    @staticmethod
    def _known(labels: Tensor, samples: Tensor) -> Tensor:
        if labels.shape != samples.shape or labels.is_floating_point():
            return torch.full_like(samples, _UNKNOWN)
        return labels.to(samples.dtype)

    def _same_class(self, known: Tensor, chosen: Tensor) -> Tensor:
        same = (self.classes[chosen] == known.unsqueeze(1)) & (known != _UNKNOWN).unsqueeze(1)
        same[:, 0] = False
        return same

    @torch.no_grad()
    def _remember(self, student: Tensor, teacher: Tensor, samples: Tensor, known: Tensor) -> None:
        samples, known = _gathered(samples), _gathered(known)
        self.classes[samples] = known
        for bank, fresh in ((self.student_bank, _gathered(student)), (self.teacher_bank, _gathered(teacher))):
            moved = self.momentum * bank[samples] + (1 - self.momentum) * fresh.to(bank.dtype)
            bank[samples] = normalize(moved, dim=1)


def _check(samples: int, dimension: int, negatives: int, tau: float, momentum: float) -> None:
    if negatives < 1 or negatives >= samples:
        raise TrainingError(
            f"the loss `crd`: `negatives` is {negatives}, and the training split has {samples} examples: set `negatives` to 1 to {samples - 1}"
        )
    if dimension < 1 or tau <= 0 or not 0 <= momentum < 1:
        raise TrainingError(
            f"the loss `crd` needs `dimension` of at least 1, `tau` above 0 and `momentum` from 0 to below 1, not {dimension}, {tau} and {momentum}"
        )


def _processes() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _gathered(values: Tensor) -> Tensor:
    """The values of all processes, in the order of their ranks: of [N, ...] each, with an N of its own."""
    if _processes() == 1:
        return values
    # Only tensors of one shape can be exchanged, so that all are filled up to the longest.
    sizes = [torch.zeros(1, dtype=torch.int64, device=values.device) for _ in range(_processes())]
    distributed.all_gather(sizes, torch.tensor([len(values)], device=values.device))
    counts = [int(size) for size in sizes]
    filled = torch.cat([values, values.new_zeros(max(counts) - len(values), *values.shape[1:])])
    parts = [torch.empty_like(filled) for _ in counts]
    distributed.all_gather(parts, filled.contiguous())
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
