from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_world import backward, check_finite_in_half_precision, check_teacher_gets_no_gradient, feature, has_its_formulas_gradient

from kdedge.distill.losses.at import at_loss
from kdedge.errors import TrainingError


def _maps(*shape: int, seed: int = 0) -> torch.Tensor:
    return feature(*shape, seed=seed).square()


def test_at_is_the_value_worked_out_by_hand() -> None:
    # Lengths 5 and 1: [.6, .8, 0, 0] against [0, 1, 0, 0]: (.36 + .04) / 4.
    student = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])
    teacher = torch.tensor([[[0.0, 1.0], [0.0, 0.0]]])
    assert at_loss(student, teacher).item() == pytest.approx(0.1, rel=1e-6)


def test_at_pools_the_larger_map_to_the_smaller_before_it_normalises() -> None:
    # Averages of the 2x2 blocks: [[3, 4], [0, 0]], as above, whichever side is larger.
    blocks = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    spread = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    large = torch.kron(blocks, spread)[None]
    small = torch.tensor([[[0.0, 1.0], [0.0, 0.0]]])
    assert at_loss(large, small).item() == pytest.approx(0.1, rel=1e-6)
    assert at_loss(small, large).item() == pytest.approx(0.1, rel=1e-6)
    # Each axis for itself: a 4x1 and a 1x4 map meet at one pixel, where all maps are alike.
    assert at_loss(_maps(2, 4, 1), _maps(2, 1, 4, seed=1)).item() == 0


def test_at_averages_over_the_batch() -> None:
    student, teacher = _maps(1, 3, 3), _maps(1, 3, 3, seed=1)
    one = at_loss(student, teacher)
    both = at_loss(torch.cat([student, teacher]), torch.cat([teacher, teacher]))
    assert both.item() == pytest.approx(one.item() / 2, rel=1e-12)


@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_at_is_blind_to_a_positive_factor(scale: float, seed: int) -> None:
    student, teacher = _maps(3, 4, 4, seed=seed), _maps(3, 2, 2, seed=seed + 1)
    plain = at_loss(student, teacher).item()
    assert at_loss(student * scale, teacher).item() == pytest.approx(plain, rel=1e-9)
    assert at_loss(student, teacher * scale).item() == pytest.approx(plain, rel=1e-9)
    assert 0 < plain <= 2 / 4


def test_at_of_transformers_compares_the_mean_over_heads() -> None:
    # Means over heads: [[.5, .5], [1, 0]] against [[1, 0], [1, 0]]: two entries of four differ by a half.
    student = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]]])
    teacher = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    assert at_loss(student, teacher).item() == pytest.approx(0.25 * 2 / 4, rel=1e-6)
    assert at_loss(student.flip(1), teacher).item() == at_loss(student, teacher).item()


def test_at_is_zero_at_equality() -> None:
    maps, attention = _maps(2, 4, 4), feature(2, 3, 5, 5).softmax(-1)
    assert at_loss(maps, maps.clone()).item() == 0
    assert at_loss(attention, attention.clone()).item() == 0


def test_at_has_the_gradient_of_its_formula_and_none_for_the_teacher() -> None:
    student, teacher = _maps(2, 4, 4), _maps(2, 2, 2, seed=1)
    assert has_its_formulas_gradient(lambda maps: at_loss(maps, teacher), student)
    check_teacher_gets_no_gradient(at_loss, student, teacher)
    attention = feature(2, 2, 3, 3).softmax(-1)
    assert has_its_formulas_gradient(lambda a: at_loss(a, feature(2, 4, 3, 3, seed=1).softmax(-1)), attention)


def test_at_is_finite_in_half_precision() -> None:
    check_finite_in_half_precision(at_loss, _maps(2, 4, 4) * 1e4, _maps(2, 2, 2, seed=1) * 1e-4)


def test_at_of_a_dead_layer_is_finite_and_pulls_nowhere() -> None:
    dead = torch.zeros(2, 4, 4, requires_grad=True)
    loss = at_loss(dead, _maps(2, 4, 4).float())
    backward(loss)
    assert torch.isfinite(loss)
    assert dead.grad is not None
    assert dead.grad.abs().max() == 0


@pytest.mark.parametrize(
    ("student", "teacher"),
    [((2, 4, 4), (2, 3, 4, 4)), ((2, 4), (2, 4)), ((2, 4, 4), (3, 4, 4)), ((1, 4, 4), (3, 4, 4)), ((2, 3, 4, 4), (2, 3, 5, 5))],
)
def test_at_refuses_what_cannot_be_compared(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    with pytest.raises(TrainingError) as refused:
        at_loss(torch.ones(student), torch.ones(teacher))
    assert str(list(student)) in str(refused.value)
    assert str(list(teacher)) in str(refused.value)
