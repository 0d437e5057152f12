from __future__ import annotations

import math

import pytest
import torch
from loss_world import backward, feature

from kdedge.distill.losses.mutual import mutual_loss
from kdedge.errors import TrainingError

# Two classes at 1/2, 1/2 and at 3/4, 1/4.
EVEN, SURE = torch.tensor([[0.0, 0.0]], dtype=torch.float64), torch.tensor([[math.log(3), 0.0]], dtype=torch.float64)
SURE_TO_EVEN = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)  # KL(sure || even)
EVEN_TO_SURE = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)  # KL(even || sure)
NONE = torch.zeros(1, dtype=torch.float64)


def test_mutual_of_two_is_both_divergences_and_the_peers_own_loss() -> None:
    found = mutual_loss(EVEN, [SURE], [torch.tensor([0.25])])
    assert found.item() == pytest.approx(SURE_TO_EVEN + EVEN_TO_SURE + 0.25, rel=1e-12)


def test_mutual_of_three_is_the_mean_over_the_others_summed_over_the_nets() -> None:
    # Each even net: the mean of KL(sure || even) and KL(even || even) = 0; the sure one: twice the same, so their mean is that.
    found = mutual_loss(EVEN, [SURE, EVEN], [NONE, NONE])
    assert found.item() == pytest.approx(2 * SURE_TO_EVEN / 2 + EVEN_TO_SURE, rel=1e-12)


def test_nets_that_agree_teach_each_other_nothing() -> None:
    logits = feature(5, 4)
    assert mutual_loss(logits, [logits + 3, logits - 1], [NONE, NONE]).item() == pytest.approx(0, abs=1e-12)


def test_every_net_is_taught_and_none_is_changed_by_teaching() -> None:
    student, peer = feature(4, 3).requires_grad_(), feature(4, 3, seed=1).requires_grad_()
    backward(mutual_loss(student, [peer], [NONE]))
    # d/dz_i of KL(p_j || p_i) with p_j fixed, a mean over four examples: (p_i - p_j) / 4.
    difference = (student.softmax(1) - peer.softmax(1)).detach() / 4
    assert student.grad is not None
    assert peer.grad is not None
    torch.testing.assert_close(student.grad, difference)
    torch.testing.assert_close(peer.grad, -difference)


def test_what_peers_learn_from_labels_is_a_mean_over_the_batch() -> None:
    losses = feature(4, seed=2).abs().requires_grad_()
    backward(mutual_loss(feature(4, 3), [feature(4, 3, seed=1)], [losses]))
    assert losses.grad is not None
    assert losses.grad.tolist() == [0.25] * 4


def test_a_higher_temperature_keeps_the_scale() -> None:
    small, other = feature(6, 4) * 1e-2, feature(6, 4, seed=1) * 1e-2
    # For small logits softmax is linear: T^2 KL does not depend on T.
    assert mutual_loss(small, [other], [NONE], 8.0).item() == pytest.approx(mutual_loss(small, [other], [NONE], 1.0).item(), rel=2e-2)


def test_mutual_is_finite_in_half_precision_and_computed_in_float32() -> None:
    found = mutual_loss(feature(2, 5).bfloat16() * 100, [feature(2, 5, seed=1).bfloat16() * 100], [NONE.bfloat16()])
    assert found.dtype == torch.float32
    assert torch.isfinite(found)


def test_mutual_refuses_what_it_cannot_compare() -> None:
    with pytest.raises(TrainingError, match=r"there is none: name some in distill\.peers"):
        mutual_loss(EVEN, [], [])
    with pytest.raises(TrainingError, match=r"shapes \[1, 2\], \[1, 3\]"):
        mutual_loss(EVEN, [torch.zeros(1, 3)], [NONE])
