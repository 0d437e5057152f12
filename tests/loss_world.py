"""What the tests of feature losses share: seeded features, rotations, and the promises that every loss keeps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def feature(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def rotation(dimension: int, seed: int = 7) -> Tensor:
    """An orthogonal matrix, float64."""
    q: Tensor = torch.linalg.qr(feature(dimension, dimension, seed=seed))[0]
    return q


def backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def has_its_formulas_gradient(loss: Callable[[Tensor], Tensor], student: Tensor) -> bool:
    return torch.autograd.gradcheck(loss, (student.detach().clone().requires_grad_(),))


def check_teacher_gets_no_gradient(loss: Callable[[Tensor, Tensor], Tensor], student: Tensor, teacher: Tensor) -> None:
    student, teacher = student.detach().clone().requires_grad_(), teacher.detach().clone().requires_grad_()
    backward(loss(student, teacher))
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().sum() > 0


def check_finite_in_half_precision(loss: Callable[[Tensor, Tensor], Tensor], student: Tensor, teacher: Tensor) -> None:
    """Value (float32) and gradient, plainly and under autocast, and the two agree: nothing inside is rounded to half precision."""
    half = student.detach().to(torch.bfloat16).requires_grad_()
    value = loss(half, teacher.to(torch.bfloat16))
    backward(value)
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert half.grad is not None
    assert torch.isfinite(half.grad).all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(half, teacher.to(torch.bfloat16)), value)
