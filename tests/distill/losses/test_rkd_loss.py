from __future__ import annotations

import math
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_world import backward, check_finite_in_half_precision, check_teacher_gets_no_gradient, feature, has_its_formulas_gradient, rotation

from kdedge.distill.losses.rkd import rkd_loss
from kdedge.errors import TrainingError


def test_rkd_distance_is_the_value_worked_out_by_hand() -> None:
    # On a line: distances 1, 1, 2 (mean 4/3: .75, .75, 1.5) against 2, 1, 3 (mean 2: 1, .5, 1.5), each twice among nine pairs.
    student, teacher = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [2.0], [3.0]])
    expected = 2 * (0.25**2 / 2 + 0.25**2 / 2) / 9
    assert rkd_loss(student, teacher, distance=1.0, angle=0.0).item() == pytest.approx(expected, rel=1e-6)


def test_rkd_angle_is_the_value_worked_out_by_hand() -> None:
    # Right angle at 0 and 45 degrees at 1 and 2, against a line 1 - 0 - 2 with angles 180, 0, 0 degrees. Each angle twice among 27 triplets.
    student = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    teacher = torch.tensor([[0.0], [1.0], [-1.0]])
    expected = 2 * (1 / 2 + 2 * (1 - math.sqrt(0.5)) ** 2 / 2) / 27
    assert rkd_loss(student, teacher, distance=0.0, angle=1.0).item() == pytest.approx(expected, rel=1e-6)


def test_rkd_is_the_formula_in_numpy() -> None:
    student, teacher = feature(5, 3), feature(5, 4, seed=1)

    def relations(points: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        count = len(points)
        distances, angles = np.zeros((count,) * 2), np.zeros((count,) * 3)
        for i, j in product(range(count), repeat=2):
            distances[i, j] = math.dist(points[i], points[j])
        for i, j, k in product(range(count), repeat=3):
            if i not in (j, k):
                angles[i, j, k] = (points[j] - points[i]) @ (points[k] - points[i]) / (distances[i, j] * distances[i, k])
        return distances / distances[distances > 0].mean(), angles

    def huber(difference: npt.NDArray[np.float64]) -> float:
        size = np.abs(difference)
        return float(np.where(size < 1, size**2 / 2, size - 0.5).mean())

    (d_s, a_s), (d_t, a_t) = relations(student.numpy()), relations(teacher.numpy())
    assert rkd_loss(student, teacher).item() == pytest.approx(25 * huber(d_s - d_t) + 50 * huber(a_s - a_t), rel=1e-10)


@given(scale=st.floats(1e-2, 1e2), shift=st.floats(-10, 10), seed=st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_rkd_is_blind_to_rotation_shift_and_scale(scale: float, shift: float, seed: int) -> None:
    student, teacher = feature(4, 6, seed=seed), feature(4, 5, seed=seed + 1)
    plain = rkd_loss(student, teacher).item()
    assert rkd_loss(student @ rotation(6) * scale + shift, teacher).item() == pytest.approx(plain, rel=1e-7)
    assert rkd_loss(student, teacher @ rotation(5) * scale + shift).item() == pytest.approx(plain, rel=1e-7)


def test_rkd_is_zero_at_equality_and_for_a_batch_of_one() -> None:
    student = feature(4, 6)
    assert rkd_loss(student, 3 * student @ rotation(6)).item() == pytest.approx(0, abs=1e-18)
    assert rkd_loss(student[:1], feature(1, 2, seed=1)).item() == 0


def test_rkd_has_the_gradient_of_its_formula_and_none_for_the_teacher() -> None:
    student, teacher = feature(4, 3), feature(4, 2, seed=1)
    assert has_its_formulas_gradient(lambda f: rkd_loss(f, teacher), student)
    assert has_its_formulas_gradient(lambda f: rkd_loss(f, teacher, angle=0.0), student)
    check_teacher_gets_no_gradient(rkd_loss, student, teacher)


def test_rkd_is_finite_in_half_precision() -> None:
    check_finite_in_half_precision(rkd_loss, feature(6, 64) * 1e3, feature(6, 32, seed=1) * 1e-3)


def test_rkd_stays_finite_where_student_features_coincide() -> None:
    student = feature(5, 3)
    student[1] = student[0]
    nearly = student.clone()
    nearly[1, 0] += 1e-9
    for case in (student, nearly, torch.zeros(5, 3, dtype=torch.float64)):
        leaf = case.clone().requires_grad_()
        loss = rkd_loss(leaf, feature(5, 4, seed=1))
        backward(loss)
        assert torch.isfinite(loss)
        assert leaf.grad is not None
        assert leaf.grad.abs().max() < 100


@pytest.mark.parametrize(("student", "teacher"), [((2, 4), (3, 4)), ((1, 4), (3, 4)), ((2, 4, 2, 2), (2, 4, 2, 2))])
def test_rkd_refuses_what_cannot_be_compared(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    with pytest.raises(TrainingError) as refused:
        rkd_loss(torch.ones(student), torch.ones(teacher))
    assert str(list(student)) in str(refused.value)
    assert str(list(teacher)) in str(refused.value)
