from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_world import feature

from kdedge.distill.losses.ttm import ttm_loss
from kdedge.distill.losses.wttm import wttm_loss


def test_wttm_is_the_value_worked_out_by_hand() -> None:
    # Teacher (16, 1, 4) / 21: the sum of its roots is 7 / sqrt(21), and q is (4, 1, 2) / 7.
    teacher = torch.tensor([[math.log(16), math.log(1), math.log(4)]], dtype=torch.float64)
    student = torch.tensor([[math.log(2), 0.0, 0.0]], dtype=torch.float64)
    q, p = [4 / 7, 1 / 7, 2 / 7], [0.5, 0.25, 0.25]
    divergence = sum(t * math.log(t / s) for t, s in zip(q, p, strict=True))
    assert wttm_loss(student, teacher, gamma=0.5).item() == pytest.approx(7 / math.sqrt(21) * divergence, rel=1e-9)


@given(seed=st.integers(0, 1000), gamma=st.floats(0.05, 2))
@settings(max_examples=40, deadline=None)
def test_it_is_ttm_with_each_example_weighed_by_the_power_sum(seed: int, gamma: float) -> None:
    student, teacher = feature(4, 7, seed=seed) * 3, feature(4, 7, seed=seed + 1000) * 3
    weights = (teacher.softmax(1) ** gamma).sum(1)
    each = torch.stack([ttm_loss(student[[i]], teacher[[i]], gamma) for i in range(4)])
    assert wttm_loss(student, teacher, gamma).item() == pytest.approx((weights * each).mean().item(), rel=1e-9)


def test_a_sure_example_counts_once_and_one_that_the_teacher_knows_nothing_of_counts_the_most() -> None:
    student = feature(1, 10)
    sure = torch.zeros(1, 10, dtype=torch.float64)
    sure[0, 3] = 400.0
    lost = torch.zeros(1, 10, dtype=torch.float64)
    assert (wttm_loss(student, sure, 0.2) / ttm_loss(student, sure, 0.2)).item() == pytest.approx(1, rel=1e-9)
    assert (wttm_loss(student, lost, 0.2) / ttm_loss(student, lost, 0.2)).item() == pytest.approx(10**0.8, rel=1e-9)


def test_with_gamma_one_it_is_ttm() -> None:
    student, teacher = feature(4, 7), feature(4, 7, seed=1)
    assert wttm_loss(student, teacher, 1.0).item() == pytest.approx(ttm_loss(student, teacher, 1.0).item(), rel=1e-12)


def test_a_student_that_equals_the_softened_teacher_has_nothing_to_learn() -> None:
    teacher = feature(4, 7)
    assert wttm_loss(0.2 * teacher, teacher).item() == pytest.approx(0, abs=1e-12)
