from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_world import check_finite_in_half_precision, check_teacher_gets_no_gradient, feature, has_its_formulas_gradient, rotation

from kdedge.distill.losses.pkt import pkt_loss
from kdedge.errors import TrainingError


def test_pkt_is_the_value_worked_out_by_hand() -> None:
    # At right angles: similarities 1 and .5, so rows of 2/3 and 1/3. Alike: rows of 1/2 and 1/2.
    student, teacher = torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    expected = (2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)) / 2
    assert pkt_loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_pkt_is_a_mean_of_divergences_and_so_never_below_zero() -> None:
    for seed in range(20):
        assert pkt_loss(feature(6, 4, seed=seed), feature(6, 3, seed=seed + 100), epsilon=1e-12).item() > 0


@given(scale=st.floats(1e-2, 1e2), seed=st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_pkt_is_blind_to_scale_of_each_example_and_to_rotation(scale: float, seed: int) -> None:
    student, teacher = feature(4, 6, seed=seed), feature(4, 5, seed=seed + 1)
    plain = pkt_loss(student, teacher).item()
    one = torch.ones(4, 1, dtype=torch.float64)
    one[0] = scale
    assert pkt_loss(student * one, teacher @ rotation(5)).item() == pytest.approx(plain, rel=1e-7)
    assert pkt_loss(student @ rotation(6), teacher * scale).item() == pytest.approx(plain, rel=1e-7)


def test_pkt_is_zero_at_equality_and_for_a_batch_of_one() -> None:
    student = feature(4, 6)
    assert pkt_loss(student, 3 * student).item() == pytest.approx(0, abs=1e-15)
    assert pkt_loss(student[:1], feature(1, 2, seed=1)).item() == 0


def test_pkt_has_the_gradient_of_its_formula_and_none_for_the_teacher() -> None:
    student, teacher = feature(4, 3), feature(4, 2, seed=1)
    assert has_its_formulas_gradient(lambda f: pkt_loss(f, teacher), student)
    check_teacher_gets_no_gradient(pkt_loss, student, teacher)


def test_pkt_is_finite_in_half_precision_where_features_are_opposite_or_zero() -> None:
    student, teacher = feature(4, 8) * 100, feature(4, 8, seed=1)
    student[1], student[2], teacher[3] = -student[0], 0, -teacher[0]
    check_finite_in_half_precision(pkt_loss, student, teacher)


@pytest.mark.parametrize(("student", "teacher"), [((2, 4), (3, 4)), ((1, 4), (3, 4)), ((2, 4, 2, 2), (2, 4, 2, 2))])
def test_pkt_refuses_what_cannot_be_compared(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    with pytest.raises(TrainingError) as refused:
        pkt_loss(torch.ones(student), torch.ones(teacher))
    assert str(list(student)) in str(refused.value)
    assert str(list(teacher)) in str(refused.value)
