from __future__ import annotations

import pytest
import torch
from loss_world import check_finite_in_half_precision, check_teacher_gets_no_gradient, feature, has_its_formulas_gradient

from kdedge.distill.losses.fitnet import fitnet_loss
from kdedge.errors import TrainingError


def test_fitnet_is_the_value_worked_out_by_hand() -> None:
    # Squares 1, 4, 0, 9 over four elements.
    student, teacher = torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([[0.0, 0.0], [3.0, 3.0]])
    assert fitnet_loss(student, teacher).item() == 3.5


def test_fitnet_grows_with_the_square_of_the_features_and_is_zero_at_equality() -> None:
    student, teacher = feature(2, 3, 4, 4), feature(2, 3, 4, 4, seed=1)
    assert fitnet_loss(student * 3, teacher * 3).item() == pytest.approx(9 * fitnet_loss(student, teacher).item(), rel=1e-12)
    assert fitnet_loss(student, student.clone()).item() == 0


def test_fitnet_has_the_gradient_of_its_formula_and_none_for_the_teacher() -> None:
    student, teacher = feature(2, 3, 2), feature(2, 3, 2, seed=1)
    assert has_its_formulas_gradient(lambda f: fitnet_loss(f, teacher), student)
    check_teacher_gets_no_gradient(fitnet_loss, student, teacher)


def test_fitnet_is_finite_in_half_precision() -> None:
    check_finite_in_half_precision(fitnet_loss, feature(2, 64) * 1e4, feature(2, 64, seed=1) * 1e4)


@pytest.mark.parametrize("teacher", [(2, 5), (1, 4), (2, 1), (2, 4, 1)])
def test_fitnet_never_broadcasts(teacher: tuple[int, ...]) -> None:
    with pytest.raises(TrainingError, match=r"\[2, 4\].*regressor") as refused:
        fitnet_loss(torch.zeros(2, 4), torch.zeros(teacher))
    assert str(list(teacher)) in str(refused.value)
