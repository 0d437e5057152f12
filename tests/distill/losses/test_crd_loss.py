from __future__ import annotations

import math

import pytest
import torch
from loss_world import backward, check_finite_in_half_precision, feature, has_its_formulas_gradient

from kdedge.distill.losses.crd import crd_loss
from kdedge.errors import TrainingError


def test_crd_is_the_value_worked_out_by_hand() -> None:
    # Odds 3 to 1 for the pair itself, 1 to 1 and 1 to 3 for the negatives; the other direction knows nothing: three times log 2.
    student = torch.tensor([[math.log(3), 0.0, -math.log(3)]])
    expected = -math.log(3 / 4) - math.log(1 / 2) - math.log(3 / 4) + 3 * math.log(2)
    assert crd_loss(student, torch.zeros(1, 3)).item() == pytest.approx(expected, rel=1e-6)


def test_crd_is_noise_contrastive_estimation_written_with_probabilities() -> None:
    # p: the probability of a pair, c = K / M: the noise; the classifier is p / (p + c).
    p, c = feature(4, 6).exp(), 5 / 40
    by_probability = -((p[:, 0] / (p[:, 0] + c)).log() + (c / (p[:, 1:] + c)).log().sum(dim=1)).mean()
    scores = p.log() - math.log(c)
    assert crd_loss(scores, scores).item() == pytest.approx(2 * by_probability.item(), rel=1e-12)


def test_crd_scales_up_the_negatives_that_are_left() -> None:
    left = torch.tensor([[0.5, -1.0, -math.inf, -1.0, -math.inf]], requires_grad=True)
    assert crd_loss(left, left).item() == pytest.approx(crd_loss(*[torch.tensor([[0.5, -1.0, -1.0, -1.0, -1.0]])] * 2).item(), rel=1e-6)
    backward(crd_loss(left, left))
    assert left.grad is not None
    assert torch.isfinite(left.grad).all()
    none = torch.tensor([[0.0, -math.inf]])
    assert crd_loss(none, none).item() == pytest.approx(2 * math.log(2), rel=1e-6)


def test_crd_falls_as_the_pair_is_told_from_the_others() -> None:
    unsure = torch.zeros(2, 4)
    sure = torch.tensor([[20.0, -20.0, -20.0, -20.0]]).repeat(2, 1)
    assert crd_loss(sure, sure).item() < 1e-6 < crd_loss(unsure, unsure).item()


def test_crd_has_the_gradient_of_its_formula_on_both_sides() -> None:
    scores, others = feature(3, 5), feature(3, 5, seed=1)
    assert has_its_formulas_gradient(lambda s: crd_loss(s, others), scores)
    assert has_its_formulas_gradient(lambda s: crd_loss(others, s), scores)


def test_crd_is_finite_in_half_precision() -> None:
    check_finite_in_half_precision(crd_loss, feature(3, 9) * 100, feature(3, 9, seed=1) * 100)


def test_crd_refuses_scores_of_different_negatives() -> None:
    with pytest.raises(TrainingError, match=r"\[2, 4\].*\[2, 5\]"):
        crd_loss(torch.zeros(2, 4), torch.zeros(2, 5))
