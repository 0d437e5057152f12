from __future__ import annotations

import pytest
import torch
from loss_world import check_finite_in_half_precision, check_teacher_gets_no_gradient, feature, has_its_formulas_gradient

from kdedge.distill.losses.reviewkd import reviewkd_loss
from kdedge.errors import TrainingError


def test_reviewkd_is_the_value_worked_out_by_hand() -> None:
    # A 2x2 map that differs by 4 at one pixel: 16 / 4 at full size, 1 after pooling to one; weights 1 and 1/2.
    student, teacher = torch.zeros(1, 1, 2, 2), torch.tensor([[[[4.0, 0.0], [0.0, 0.0]]]])
    assert reviewkd_loss([student], [teacher]).item() == pytest.approx((4 + 0.5 * 1) / 1.5, rel=1e-6)


def test_reviewkd_compares_at_full_size_and_at_four_two_and_one() -> None:
    # 8x8, one pixel differs by 64: means of squares are 64, then 16, 4 and 1 as blocks of 4, 16 and 64 pixels are averaged.
    student, teacher = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    teacher[0, 0, 0, 0] = 64.0
    by_hand = (64**2 / 64 + (64 / 4) ** 2 / 16 / 2 + (64 / 16) ** 2 / 4 / 4 + (64 / 64) ** 2 / 8) / (1 + 1 / 2 + 1 / 4 + 1 / 8)
    assert reviewkd_loss([student], [teacher]).item() == pytest.approx(by_hand, rel=1e-6)


def test_reviewkd_of_equal_shifts_is_their_square_at_every_level() -> None:
    for size in ((1, 1), (4, 4), (7, 7), (2, 9)):
        maps = feature(2, 3, *size)
        assert reviewkd_loss([maps], [maps + 3]).item() == pytest.approx(9, rel=1e-9)


def test_reviewkd_adds_the_stages() -> None:
    students, teachers = [feature(2, 3, 8, 8), feature(2, 5, 4, 4)], [feature(2, 3, 8, 8, seed=1), feature(2, 5, 4, 4, seed=1)]
    alone = [reviewkd_loss([student], [teacher]).item() for student, teacher in zip(students, teachers, strict=True)]
    assert reviewkd_loss(students, teachers).item() == pytest.approx(sum(alone), rel=1e-12)
    assert reviewkd_loss(students, [student.clone() for student in students]).item() == 0


def test_reviewkd_has_the_gradient_of_its_formula_and_none_for_the_teacher() -> None:
    student, teacher = feature(1, 2, 5, 5), feature(1, 2, 5, 5, seed=1)
    assert has_its_formulas_gradient(lambda f: reviewkd_loss([f], [teacher]), student)
    check_teacher_gets_no_gradient(lambda s, t: reviewkd_loss([s], [t]), student, teacher)


def test_reviewkd_is_finite_in_half_precision() -> None:
    check_finite_in_half_precision(lambda s, t: reviewkd_loss([s], [t]), feature(2, 3, 8, 8) * 1e3, feature(2, 3, 8, 8, seed=1) * 1e3)


def test_reviewkd_refuses_what_cannot_be_compared() -> None:
    maps = torch.zeros(2, 3, 4, 4)
    with pytest.raises(TrainingError, match="1 maps of the student and 2 of the teacher"):
        reviewkd_loss([maps], [maps, maps])
    with pytest.raises(TrainingError, match="at least one"):
        reviewkd_loss([], [])
    with pytest.raises(TrainingError, match=r"\[2, 3, 4, 4\].*\[2, 1, 4, 4\]"):
        reviewkd_loss([maps], [torch.zeros(2, 1, 4, 4)])
    with pytest.raises(TrainingError, match=r"\[2, 3\].*tap convolutional layers"):
        reviewkd_loss([torch.zeros(2, 3)], [torch.zeros(2, 3)])
