from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_world import backward, check_finite_in_half_precision, check_teacher_gets_no_gradient, feature, has_its_formulas_gradient, rotation

from kdedge.distill.losses.sp import sp_loss
from kdedge.errors import TrainingError


def test_sp_is_the_value_worked_out_by_hand() -> None:
    # Student: both alike, rows [1, 1] / sqrt 2. Teacher: at right angles, the identity. Entries differ by .7071 twice and .2929 twice.
    student, teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 5.0]])
    expected = (2 * 0.5 + 2 * (1 - 0.5**0.5) ** 2) / 4
    assert sp_loss(student, teacher).item() == pytest.approx(expected, rel=1e-6)


def test_sp_is_the_formula_in_numpy() -> None:
    student, teacher = feature(5, 3, 2, 2), feature(5, 7, seed=1)

    def similarities(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        gram: npt.NDArray[np.float64] = rows @ rows.T
        rows_of_one: npt.NDArray[np.float64] = gram / np.sqrt((gram**2).sum(axis=1, keepdims=True))
        return rows_of_one

    difference = similarities(student.reshape(5, -1).numpy()) - similarities(teacher.numpy())
    assert sp_loss(student, teacher).item() == pytest.approx((difference**2).sum() / 25, rel=1e-12)


@given(scale=st.floats(1e-2, 1e2), seed=st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_sp_is_blind_to_rotation_and_scale(scale: float, seed: int) -> None:
    student, teacher = feature(4, 6, seed=seed), feature(4, 5, seed=seed + 1)
    plain = sp_loss(student, teacher).item()
    assert sp_loss(student @ rotation(6) * scale, teacher).item() == pytest.approx(plain, rel=1e-9)
    assert sp_loss(student, teacher @ rotation(5) * scale).item() == pytest.approx(plain, rel=1e-9)


def test_sp_is_zero_at_equality_and_for_a_batch_of_one() -> None:
    student = feature(4, 6)
    assert sp_loss(student, student @ rotation(6)).item() == pytest.approx(0, abs=1e-20)
    assert sp_loss(student[:1], feature(1, 6, seed=1)).item() == pytest.approx(0, abs=1e-20)


def test_sp_has_the_gradient_of_its_formula_and_none_for_the_teacher() -> None:
    student, teacher = feature(4, 3), feature(4, 5, seed=1)
    assert has_its_formulas_gradient(lambda f: sp_loss(f, teacher), student)
    check_teacher_gets_no_gradient(sp_loss, student, teacher)


def test_sp_is_finite_in_half_precision_and_where_an_example_is_dead() -> None:
    student = feature(4, 64) * 100
    student[0] = 0
    check_finite_in_half_precision(sp_loss, student, feature(4, 32, seed=1) * 100)
    leaf = student.clone().requires_grad_()
    backward(sp_loss(leaf, feature(4, 32, seed=1)))
    assert leaf.grad is not None
    assert leaf.grad.abs().max() < 1


@pytest.mark.parametrize(("student", "teacher"), [((2, 4), (3, 4)), ((1, 4), (3, 4)), ((4,), (4,))])
def test_sp_refuses_what_cannot_be_compared(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    with pytest.raises(TrainingError) as refused:
        sp_loss(torch.ones(student), torch.ones(teacher))
    assert str(list(student)) in str(refused.value)
    assert str(list(teacher)) in str(refused.value)
