from __future__ import annotations

import pytest
import torch
from loss_world import backward, feature

from kdedge.distill.learned import TapShapes
from kdedge.distill.learned.exits import Exits
from kdedge.distill.losses.byot import byot_loss
from kdedge.errors import TrainingError


def _exits(*student: tuple[int, ...]) -> Exits:
    return Exits(TapShapes(student, (), samples=10, classes=3))


@pytest.mark.parametrize(
    "shapes", [((4, 8, 8), (6, 4, 4), (8, 2, 2)), ((4, 2, 2), (6, 4, 4)), ((5, 8), (5, 12)), ((8,), (12,)), ((1, 3, 3), (2, 3, 3))]
)
def test_each_layer_but_the_last_gets_logits_and_a_feature_like_the_last(shapes: tuple[tuple[int, ...], ...]) -> None:
    part = _exits(*shapes)
    given = [feature(2, *shape, seed=number, dtype=torch.float32).requires_grad_() for number, shape in enumerate(shapes)]
    found = part(student_features=given)
    assert [tuple(each.shape) for each in found["learned_exits"]] == [(2, 3)] * (len(shapes) - 1)
    assert [tuple(each.shape) for each in found["learned_features"]] == [(2, *shapes[-1])] * (len(shapes) - 1)
    assert found["learned_last"] is given[-1]
    backward(byot_loss(feature(2, 3, dtype=torch.float32), torch.tensor([0, 2]), **found, beta=1.0))
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in given[:-1])
    assert given[-1].grad is None
    assert all(parameter.grad is not None for parameter in part.parameters())


def test_tokens_of_another_number_than_in_the_dry_run_are_taken() -> None:
    found = _exits((5, 8), (5, 12))(student_features=[feature(2, 9, 8, dtype=torch.float32), feature(2, 9, 12, dtype=torch.float32)])
    assert found["learned_features"][0].shape == (2, 9, 12)


@pytest.mark.parametrize(
    ("shapes", "words"), [(((4, 2, 2),), "at least two layers"), (((4, 2, 2), (8,)), r"\['N', 4, 2, 2\].*name layers of one kind")]
)
def test_layers_that_make_no_exit_are_refused(shapes: tuple[tuple[int, ...], ...], words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        _exits(*shapes)


def test_half_precision_features_are_computed_in_full() -> None:
    found = _exits((4, 2, 2), (6, 2, 2))(student_features=[feature(2, 4, 2, 2).bfloat16(), feature(2, 6, 2, 2).bfloat16()])
    assert found["learned_exits"][0].dtype == torch.float32
