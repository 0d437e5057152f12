from __future__ import annotations

import math

import pytest
import torch
from loss_world import backward, feature

from kdedge.distill.losses.byot import byot_loss
from kdedge.errors import TrainingError

LABEL = torch.tensor([0])
EVEN, SURE = torch.tensor([[0.0, 0.0]], dtype=torch.float64), torch.tensor([[math.log(3), 0.0]], dtype=torch.float64)
FEATURE, LAST = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 5.0]])


def test_byot_is_the_value_worked_out_by_hand() -> None:
    soft = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)  # KL of 3/4, 1/4 and 1/2, 1/2
    found = byot_loss(SURE, LABEL, [EVEN], [FEATURE], LAST, alpha=0.1, temperature=1.0, beta=0.5)
    assert found.item() == pytest.approx(0.9 * math.log(2) + 0.1 * soft + 0.5 * 9, rel=1e-6)


def test_byot_sums_over_the_exits() -> None:
    one = byot_loss(SURE, LABEL, [EVEN], [FEATURE], LAST)
    assert byot_loss(SURE, LABEL, [EVEN, EVEN, EVEN], [FEATURE] * 3, LAST).item() == pytest.approx(3 * one.item())


def test_byot_is_the_label_loss_alone_without_its_other_parts() -> None:
    logits = feature(5, 4)
    labels = torch.tensor([0, 1, 2, 3, 0])
    found = byot_loss(feature(5, 4, seed=1), labels, [logits], [feature(5, 3)], feature(5, 3, seed=1), alpha=0.0, beta=0.0)
    assert found.item() == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item())


def test_byot_does_not_depend_on_how_a_batch_is_cut() -> None:
    final, logits, features, last = feature(4, 3), feature(4, 3, seed=1), feature(4, 2, seed=2), feature(4, 2, seed=3)
    labels = torch.tensor([0, 1, 2, 0])
    halves = [byot_loss(final[at], labels[at], [logits[at]], [features[at]], last[at], beta=0.3) for at in (slice(0, 2), slice(2, 4))]
    whole = byot_loss(final, labels, [logits], [features], last, beta=0.3)
    assert whole.item() == pytest.approx(sum(half.item() for half in halves) / 2)


def test_the_end_teaches_and_is_not_taught() -> None:
    final, last = feature(2, 3).requires_grad_(), feature(2, 4).requires_grad_()
    logits, features = feature(2, 3, seed=1).requires_grad_(), feature(2, 4, seed=1).requires_grad_()
    backward(byot_loss(final, torch.tensor([0, 1]), [logits], [features], last, beta=1.0))
    assert final.grad is None
    assert last.grad is None
    assert logits.grad is not None
    assert features.grad is not None
    # Of the mean over two examples of the squared distance.
    torch.testing.assert_close(features.grad, (features - last).detach())


def test_byot_is_computed_in_float32() -> None:
    half = [each.bfloat16() for each in (feature(2, 3), feature(2, 3, seed=1), feature(2, 4), feature(2, 4, seed=1))]
    found = byot_loss(half[0], torch.tensor([0, 1]), [half[1]], [half[2]], half[3])
    assert found.dtype == torch.float32
    assert torch.isfinite(found)


def test_byot_never_broadcasts() -> None:
    with pytest.raises(TrainingError, match=r"logits \[1, 2\] and a feature \[1, 1\]"):
        byot_loss(SURE, LABEL, [EVEN], [torch.zeros(1, 1)], LAST)
