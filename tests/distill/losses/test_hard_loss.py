from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_world import feature

from kdedge.distill.losses.hard import hard_loss
from kdedge.distill.losses.kd import kd_loss


def test_hard_is_the_value_worked_out_by_hand() -> None:
    # The teacher chooses class 1, then class 0; the student gives them 1/4 and 1/2.
    student = torch.tensor([[math.log(2), 0.0, 0.0], [math.log(2), 0.0, 0.0]])
    teacher = torch.tensor([[1.0, 1.1, -5.0], [0.3, 0.2, 0.1]])
    assert hard_loss(student, teacher).item() == pytest.approx((math.log(4) + math.log(2)) / 2, rel=1e-6)


def test_where_the_teachers_logits_tie_the_first_class_counts() -> None:
    student = torch.tensor([[math.log(2), 0.0, 0.0]])
    assert hard_loss(student, torch.tensor([[0.0, 7.0, 7.0]])).item() == pytest.approx(math.log(4), rel=1e-6)
    assert hard_loss(student, torch.zeros(1, 3)).item() == pytest.approx(math.log(2), rel=1e-6)


@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100), shift=st.floats(-50, 50))
@settings(max_examples=40, deadline=None)
def test_hard_sees_only_what_the_teacher_chooses(seed: int, scale: float, shift: float) -> None:
    student, teacher = feature(4, 7, seed=seed), feature(4, 7, seed=seed + 1000)
    assert hard_loss(student, teacher * scale + shift).item() == hard_loss(student, teacher).item()


def test_it_is_the_limit_of_kd_for_a_teacher_that_is_ever_surer() -> None:
    student, teacher = feature(4, 7), feature(4, 7, seed=1)
    assert kd_loss(student, teacher * 1e4, temperature=1.0).item() == pytest.approx(hard_loss(student, teacher).item(), rel=1e-9)
