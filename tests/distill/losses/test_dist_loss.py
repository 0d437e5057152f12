from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_world import feature
from torch import Tensor

from kdedge.distill.losses.dist import dist_loss

STUDENT = [[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]]
TEACHER = [[0.7, 0.2, 0.1], [0.1, 0.4, 0.5]]


def _pearson(a: list[float], b: list[float]) -> float:
    a, b = [x - sum(a) / len(a) for x in a], [x - sum(b) / len(b) for x in b]
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def _logs(rows: list[list[float]]) -> Tensor:
    return torch.tensor([[math.log(p) for p in row] for row in rows], dtype=torch.float64)


def test_dist_is_the_value_worked_out_by_hand() -> None:
    rows = [_pearson(student, teacher) for student, teacher in zip(STUDENT, TEACHER, strict=True)]
    # Two examples: a class's probability rises in both or rises in one and falls in the other. Class 0 falls, class 1 falls and rises, 2 rises.
    columns = [1.0, -1.0, 1.0]
    between, within = 1 - sum(rows) / 2, 1 - sum(columns) / 3
    found = dist_loss(_logs(STUDENT), _logs(TEACHER), temperature=1.0, beta=2.0, gamma=3.0)
    assert found.item() == pytest.approx(2 * between + 3 * within, rel=1e-6)
    assert dist_loss(_logs(STUDENT), _logs(TEACHER), temperature=1.0, beta=1.0, gamma=0.0).item() == pytest.approx(between, rel=1e-6)


def test_dist_softens_and_is_multiplied_by_the_square_of_the_temperature() -> None:
    at_one = dist_loss(_logs(STUDENT), _logs(TEACHER), temperature=1.0)
    at_four = dist_loss(4 * _logs(STUDENT), 4 * _logs(TEACHER))
    assert at_four.item() == pytest.approx(16 * at_one.item(), rel=1e-9)


@given(seed=st.integers(0, 1000), slopes=st.lists(st.floats(0.1, 1), min_size=6, max_size=6))
@settings(max_examples=40, deadline=None)
def test_between_classes_dist_is_blind_to_an_affine_map_of_each_examples_probabilities(seed: int, slopes: list[float]) -> None:
    # a p + (1 - a) / C is a distribution again: the same preferences, held with less conviction.
    student, teacher = feature(6, 5, seed=seed).softmax(1), feature(6, 5, seed=seed + 1).softmax(1)
    slope = torch.tensor(slopes, dtype=torch.float64).unsqueeze(1)
    plain = dist_loss(student.log(), teacher.log(), 1.0, gamma=0.0)
    assert dist_loss((slope * student + (1 - slope) / 5).log(), teacher.log(), 1.0, gamma=0.0).item() == pytest.approx(plain.item(), rel=1e-3)
    assert dist_loss(student.log(), (slope * teacher + (1 - slope) / 5).log(), 1.0, gamma=0.0).item() == pytest.approx(plain.item(), rel=1e-3)


@given(seed=st.integers(0, 1000), slope=st.floats(0.1, 1), kept=st.lists(st.floats(0.05, 1), min_size=5, max_size=5))
@settings(max_examples=40, deadline=None)
def test_dist_is_blind_to_an_affine_map_of_all_probabilities(seed: int, slope: float, kept: list[float]) -> None:
    student, teacher = feature(6, 5, seed=seed).softmax(1), feature(6, 5, seed=seed + 1).softmax(1)
    plain = dist_loss(student.log(), teacher.log(), 1.0)
    assert dist_loss((slope * student + (1 - slope) / 5).log(), teacher.log(), 1.0).item() == pytest.approx(plain.item(), rel=1e-3)
    # Within a class the offset may be any, if it is the same for every example: here another distribution that all are mixed with.
    offset = torch.tensor(kept, dtype=torch.float64)
    mixed = slope * teacher + (1 - slope) * offset / offset.sum()
    within = dist_loss(student.log(), teacher.log(), 1.0, beta=0.0)
    assert dist_loss(student.log(), mixed.log(), 1.0, beta=0.0).item() == pytest.approx(within.item(), rel=1e-3)


def test_a_less_sure_student_with_the_teachers_preferences_has_nothing_to_learn() -> None:
    teacher = feature(6, 5).softmax(1)
    assert dist_loss((0.3 * teacher + 0.7 / 5).log(), teacher.log(), 1.0).item() == pytest.approx(0, abs=1e-5)


def test_opposite_preferences_cost_the_most() -> None:
    teacher = 0.2 + 0.1 * (feature(6, 5).softmax(1) - 0.2)
    opposite = 0.4 - teacher
    assert dist_loss(opposite.log(), teacher.log(), 1.0).item() == pytest.approx(4, rel=1e-3)


def test_a_batch_of_one_has_nothing_to_say_within_a_class() -> None:
    student = _logs(STUDENT[:1]).requires_grad_()
    value = dist_loss(student, _logs(TEACHER[:1]), temperature=2.0, beta=0.0)
    value.backward()  # type: ignore[no-untyped-call]
    assert value.item() == pytest.approx(4)
    assert student.grad is not None
    assert student.grad.abs().max() == 0


def test_a_student_whose_probabilities_are_all_equal_gets_a_bounded_gradient() -> None:
    student = torch.zeros(6, 5, requires_grad=True)
    dist_loss(student, feature(6, 5, dtype=torch.float32), 1.0).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    # dp/dz is at most 1/5, r's gradient at most 1e4, in two means over 6 examples and 5 classes.
    assert 1 < student.grad.abs().max() < 1e4 / 5 * (1 / 6 + 1 / 5)
