from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_world import backward, feature
from torch.nn.functional import cross_entropy

from kdedge.distill.losses.kd import kd_loss
from kdedge.distill.losses.ttm import ttm_loss


def test_ttm_is_the_value_worked_out_by_hand() -> None:
    # Teacher (16, 1, 4) / 21: its square root is (4, 1, 2) / 7. The student, (1/2, 1/4, 1/4), is not softened, and there is no T^2.
    teacher = torch.tensor([[math.log(16), math.log(1), math.log(4)]], dtype=torch.float64)
    student = torch.tensor([[math.log(2), 0.0, 0.0]], dtype=torch.float64)
    q, p = [4 / 7, 1 / 7, 2 / 7], [0.5, 0.25, 0.25]
    expected = sum(t * math.log(t / s) for t, s in zip(q, p, strict=True))
    assert ttm_loss(student, teacher, gamma=0.5).item() == pytest.approx(expected, rel=1e-9)


@given(seed=st.integers(0, 1000), gamma=st.floats(0.05, 2))
@settings(max_examples=40, deadline=None)
def test_its_target_is_the_power_of_the_teachers_probabilities(seed: int, gamma: float) -> None:
    student, teacher = feature(4, 7, seed=seed) * 3, feature(4, 7, seed=seed + 1000) * 3
    powers = teacher.softmax(1) ** gamma
    q = powers / powers.sum(1, keepdim=True)
    entropy = -(q * q.log()).sum(1).mean()
    assert ttm_loss(student, teacher, gamma).item() == pytest.approx((cross_entropy(student, q) - entropy).item(), rel=1e-7, abs=1e-12)


@given(seed=st.integers(0, 1000), temperature=st.floats(0.5, 20))
@settings(max_examples=40, deadline=None)
def test_with_one_over_the_temperature_the_target_is_kds(seed: int, temperature: float) -> None:
    student, teacher = feature(4, 7, seed=seed) * 3, feature(4, 7, seed=seed + 1000) * 3
    q = (teacher / temperature).softmax(dim=1)
    one, other = student.clone().requires_grad_(), student.clone().requires_grad_()
    backward(ttm_loss(one, teacher, gamma=1 / temperature))
    backward(cross_entropy(other, q))
    assert one.grad is not None and other.grad is not None  # noqa: PT018
    torch.testing.assert_close(one.grad, other.grad)
    # KD softens the student too: for student logits T times as large it sees the same student, and multiplies by T^2.
    kd = kd_loss(student * temperature, teacher, temperature)
    assert ttm_loss(student, teacher, 1 / temperature).item() * temperature**2 == pytest.approx(kd.item(), rel=1e-7, abs=1e-10)


def test_a_student_that_equals_the_softened_teacher_has_nothing_to_learn() -> None:
    teacher = feature(4, 7)
    student = (0.3 * teacher).requires_grad_()
    value = ttm_loss(student, teacher, gamma=0.3)
    backward(value)
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-12
    assert ttm_loss(teacher, teacher, gamma=0.3).item() > 1e-2
