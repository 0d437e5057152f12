from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdedge.distill.losses.ce import ce_loss
from kdedge.distill.losses.kd import kd_loss


def _logits(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def test_kd_is_the_value_worked_out_by_hand() -> None:
    p = math.exp(2) / (math.exp(2) + 1)
    expected = p * math.log(p / 0.5) + (1 - p) * math.log((1 - p) / 0.5)
    assert expected == pytest.approx(0.3278, abs=5e-5)
    found = kd_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]]), temperature=1.0)
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_kd_is_multiplied_by_the_square_of_the_temperature() -> None:
    # At T = 2 the teacher's [2, 0] is [1, 0].
    p = math.exp(1) / (math.exp(1) + 1)
    expected = 4 * (p * math.log(p / 0.5) + (1 - p) * math.log((1 - p) / 0.5))
    assert kd_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]]), temperature=2.0).item() == pytest.approx(expected, rel=1e-6)


def test_kd_sums_over_classes_and_averages_over_the_batch() -> None:
    student, teacher = torch.zeros(1, 2), torch.tensor([[2.0, 0.0]])
    one = kd_loss(student, teacher, temperature=1.0)
    assert kd_loss(student.repeat(5, 1), teacher.repeat(5, 1), temperature=1.0).item() == pytest.approx(one.item(), rel=1e-6)
    # A second example where both agree adds nothing to the sum and halves the mean.
    both = kd_loss(torch.tensor([[0.0, 0.0], [1.0, 3.0]]), torch.tensor([[2.0, 0.0], [1.0, 3.0]]), temperature=1.0)
    assert both.item() == pytest.approx(one.item() / 2, rel=1e-6)
    # Classes that neither believes in change nothing: a mean over classes would shrink.
    wide = torch.full((1, 6), -100.0)
    padded = kd_loss(torch.cat([student, wide], 1), torch.cat([teacher, wide], 1), temperature=1.0)
    assert padded.item() == pytest.approx(one.item(), rel=1e-6)


def test_kd_standardized_is_the_value_worked_out_by_hand() -> None:
    # Two classes: mean 1, unbiased std sqrt(2), so [2, 0] becomes [1, -1] / sqrt(2); a student of [0, 0] stays [0, 0].
    z = 2 / math.sqrt(2)
    p = math.exp(z) / (math.exp(z) + 1)
    expected = p * math.log(p / 0.5) + (1 - p) * math.log((1 - p) / 0.5)
    found = kd_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]]), temperature=1.0, standardize=True)
    assert found.item() == pytest.approx(expected, rel=1e-5)


@given(scale=st.floats(0.1, 20), shift=st.floats(-50, 50), seed=st.integers(0, 100))
@settings(max_examples=50, deadline=None)
def test_kd_standardized_is_blind_to_scale_and_shift(scale: float, shift: float, seed: int) -> None:
    student, teacher = _logits(4, 7, seed=seed, dtype=torch.float64), _logits(4, 7, seed=seed + 1, dtype=torch.float64)
    plain = kd_loss(student, teacher, 2.0, standardize=True)
    assert kd_loss(student, teacher * scale + shift, 2.0, standardize=True).item() == pytest.approx(plain.item(), rel=1e-4)
    assert kd_loss(student * scale + shift, teacher, 2.0, standardize=True).item() == pytest.approx(plain.item(), rel=1e-4)


@given(shift=st.floats(-50, 50), temperature=st.floats(0.5, 20))
@settings(max_examples=30, deadline=None)
def test_kd_is_blind_to_a_shift_of_all_logits(shift: float, temperature: float) -> None:
    student, teacher = _logits(4, 7, dtype=torch.float64), _logits(4, 7, seed=1, dtype=torch.float64)
    assert kd_loss(student + shift, teacher, temperature).item() == pytest.approx(kd_loss(student, teacher, temperature).item(), rel=1e-9)


@pytest.mark.parametrize("standardize", [False, True])
def test_kd_is_zero_where_both_agree_and_positive_elsewhere(standardize: bool) -> None:
    logits = _logits(8, 10)
    assert kd_loss(logits, logits.clone(), standardize=standardize).item() == pytest.approx(0, abs=1e-6)
    assert kd_loss(logits, _logits(8, 10, seed=1), standardize=standardize).item() > 1e-3


@pytest.mark.parametrize("standardize", [False, True])
def test_kd_has_the_gradient_of_its_formula_and_none_for_the_teacher(standardize: bool) -> None:
    student = _logits(3, 5, dtype=torch.float64).requires_grad_()
    teacher = _logits(3, 5, seed=1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: kd_loss(z, teacher.detach(), 3.0, standardize), (student,))
    kd_loss(student, teacher, 3.0, standardize).backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None
    assert student.grad is not None


@pytest.mark.parametrize("standardize", [False, True])
def test_kd_is_finite_float32_in_half_precision_with_large_logits(standardize: bool) -> None:
    student = (_logits(4, 100) * 300).to(torch.bfloat16).requires_grad_()
    loss = kd_loss(student, (_logits(4, 100, seed=1) * 300).to(torch.bfloat16), 1.0, standardize)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_ce_is_the_mean_of_the_tasks_label_losses() -> None:
    assert ce_loss(torch.tensor([1.0, 2.0, 6.0])).item() == 3.0
    assert ce_loss(torch.tensor([1.0, 2.0], dtype=torch.bfloat16)).dtype == torch.float32
