from __future__ import annotations

import math

import pytest
import torch
from loss_world import check_finite_in_half_precision, check_teacher_gets_no_gradient, feature, has_its_formulas_gradient

from kdedge.distill.losses.vid import vid_loss
from kdedge.errors import TrainingError


def test_vid_is_the_value_worked_out_by_hand() -> None:
    # Errors 1 and 2, variances 1 and 4: (1/1 + log 1 + 4/4 + log 4) / 2 / 2.
    found = vid_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 4.0]]), torch.tensor([[0.0, 0.0]]))
    assert found.item() == pytest.approx((2 + math.log(4)) / 4, rel=1e-6)


@pytest.mark.parametrize(("shape", "spread"), [((3, 4), (1, 4)), ((3, 5, 4), (1, 1, 4)), ((3, 4, 2, 5), (1, 4, 1, 1))])
def test_vid_is_the_negative_log_likelihood_of_a_gaussian_up_to_a_constant(shape: tuple[int, ...], spread: tuple[int, ...]) -> None:
    mean, teacher, variance = feature(*shape), feature(*shape, seed=1), feature(*spread, seed=2).exp()
    likelihood = torch.distributions.Normal(mean, variance.sqrt()).log_prob(teacher).mean()  # type: ignore[no-untyped-call]
    assert vid_loss(mean, variance, teacher).item() == pytest.approx(-likelihood.item() - math.log(2 * math.pi) / 2, rel=1e-12)


def test_vid_is_least_where_the_variance_is_the_squared_error_of_its_channel() -> None:
    mean, teacher = feature(50, 2), feature(50, 2, seed=1)
    best = (mean - teacher).square().mean(dim=0, keepdim=True)
    least = vid_loss(mean, best, teacher)
    assert vid_loss(mean, best * 1.1, teacher) > least
    assert vid_loss(mean, best * 0.9, teacher) > least


def test_vid_has_the_gradient_of_its_formula_and_none_for_the_teacher() -> None:
    mean, teacher, variance = feature(2, 3, 2, 2), feature(2, 3, 2, 2, seed=1), feature(1, 3, 1, 1, seed=2).exp()
    assert has_its_formulas_gradient(lambda m: vid_loss(m, variance, teacher), mean)
    assert has_its_formulas_gradient(lambda v: vid_loss(mean, v, teacher), variance)
    check_teacher_gets_no_gradient(lambda m, t: vid_loss(m, variance, t), mean, teacher)


def test_vid_is_finite_in_half_precision() -> None:
    check_finite_in_half_precision(lambda m, t: vid_loss(m, torch.full((1, 8), 1e-5), t), feature(4, 8), feature(4, 8, seed=1))


@pytest.mark.parametrize(
    ("mean", "variance", "teacher"),
    [
        ((2, 4), (1, 4), (2, 5)),
        ((1, 4), (1, 4), (2, 4)),
        ((2, 4), (4,), (2, 4)),
        ((2, 4), (2, 4), (2, 4)),
        ((2, 4, 4, 4), (1, 1, 1, 4), (2, 4, 4, 4)),
    ],
)
def test_vid_broadcasts_nothing_but_one_variance_a_channel(mean: tuple[int, ...], variance: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    with pytest.raises(TrainingError) as refused:
        vid_loss(torch.ones(mean), torch.ones(variance), torch.ones(teacher))
    assert str(list(teacher)) in str(refused.value)
