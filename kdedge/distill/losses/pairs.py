"""What a student's and a teacher's tensor must be before a loss compares them. Used by the feature and relation losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdedge.errors import TrainingError

# A vector shorter than this has no direction: it is taken for zero. A division by such a length would make a gradient explode.
_NO_LENGTH = 1e-12


def compared(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both in at least float32 (float64 stays float64), the teacher without gradient."""
    return at_least_float32(student), at_least_float32(teacher.detach())


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half precision becomes float32, anything wider stays."""
    return tensor if tensor.element_size() >= 4 else tensor.float()


def full_precision(tensor: Tensor) -> torch.autocast:
    """A context in which products are not rounded to the half precision of a surrounding autocast, on the device of `tensor`."""
    return torch.autocast(tensor.device.type, enabled=False)


def unit(vectors: Tensor, shortest: Tensor | float = _NO_LENGTH) -> Tensor:
    """Divided by their Euclidean length along the last dimension. Those not longer than `shortest` become zero, without gradient."""
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    long = length > shortest
    return torch.where(long, vectors / torch.where(long, length, torch.ones_like(length)), torch.zeros_like(vectors))


def need_equal(loss: str, student: Sequence[int], teacher: Sequence[int], advice: str) -> None:
    """Refuse shapes that differ.

    Raises:
        TrainingError: names both shapes and what to do.
    """
    if tuple(student) != tuple(teacher):
        raise TrainingError(mismatch(loss, student, teacher, advice))


def need_batch(loss: str, student: Tensor, teacher: Tensor, dimensions: int) -> None:
    """Refuse what has fewer or more than `dimensions` dimensions (0: at least two), or another number of examples.

    Raises:
        TrainingError: names both shapes and what to do.
    """
    wanted = f"{dimensions} dimensions" if dimensions else "at least two dimensions"
    if not all(tensor.ndim == dimensions if dimensions else tensor.ndim >= 2 for tensor in (student, teacher)):
        raise TrainingError(mismatch(loss, student.shape, teacher.shape, f"both need {wanted}, the first of which is the batch: tap another layer"))
    if len(student) != len(teacher):
        raise TrainingError(
            mismatch(loss, student.shape, teacher.shape, "the first dimension is the batch and must be equal: tap layers that keep it")
        )


def mismatch(loss: str, student: Sequence[object], teacher: Sequence[object], advice: str) -> str:
    """The sentence for two shapes that `loss` cannot compare."""
    return f"the loss `{loss}` cannot compare the student's {list(student)} with the teacher's {list(teacher)}: {advice}"
