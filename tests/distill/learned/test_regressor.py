from __future__ import annotations

import pytest
import torch
from loss_world import backward, feature
from torch import nn

from kdedge.distill.learned import TapShapes
from kdedge.distill.learned.regressor import Regressor
from kdedge.distill.losses.fitnet import fitnet_loss
from kdedge.errors import TrainingError


def _shapes(student: tuple[int, ...], teacher: tuple[int, ...]) -> TapShapes:
    return TapShapes((student,), (teacher,), samples=10, classes=3)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ((16, 8, 8), (64, 8, 8)),
        ((16, 8, 8), (64, 4, 4)),
        ((16, 4, 4), (64, 8, 8)),
        ((16, 4, 9), (64, 8, 3)),
        ((16, 4, 4), (16, 8, 8)),
        ((5, 16), (5, 64)),
        ((16,), (64,)),
    ],
)
def test_the_regressor_gives_the_teachers_shape(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    learned = Regressor(_shapes(student, teacher))
    given = feature(2, *student, dtype=torch.float32).requires_grad_()
    wanted = feature(2, *teacher, seed=1, dtype=torch.float32)
    found = learned(student_feature=given, teacher_feature=wanted)["student_feature"]
    assert found.shape == wanted.shape
    backward(fitnet_loss(found, wanted))
    assert given.grad is not None
    assert given.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in learned.parameters())


def test_where_shapes_are_equal_nothing_is_adapted() -> None:
    for shape in ((16, 8, 8), (5, 16), (16,)):
        learned = Regressor(_shapes(shape, shape))
        assert isinstance(learned.adapter, nn.Identity)
        assert not list(learned.parameters())
        given = feature(2, *shape, dtype=torch.float32)
        assert torch.equal(learned(student_feature=given, teacher_feature=given)["student_feature"], given)


def test_a_map_is_adapted_by_a_1x1_convolution_of_its_channels() -> None:
    learned = Regressor(_shapes((3, 4, 4), (5, 4, 4)))
    assert isinstance(learned.adapter, nn.Conv2d)
    given = feature(2, 3, 4, 4, dtype=torch.float32)
    found = learned(student_feature=given, teacher_feature=torch.zeros(2, 5, 4, 4))["student_feature"]
    weight, bias = learned.adapter.weight[:, :, 0, 0], learned.adapter.bias
    assert bias is not None
    expected = torch.einsum("oc,nchw->nohw", weight, given) + bias.view(1, -1, 1, 1)
    torch.testing.assert_close(found, expected)


def test_sizes_become_the_teachers_by_averages_down_and_lines_up() -> None:
    down = Regressor(_shapes((1, 2, 2), (1, 1, 1)))
    pixels = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])
    assert down(student_feature=pixels, teacher_feature=torch.zeros(1, 1, 1, 1))["student_feature"].item() == 3.0
    up = Regressor(_shapes((1, 1, 2), (1, 1, 4)))
    line = torch.tensor([[[[0.0, 4.0]]]])
    # Centres of four pixels on a line between the centres of two: at -1/4 (held), 1/4, 3/4 and 5/4 (held) of the way.
    assert up(student_feature=line, teacher_feature=torch.zeros(1, 1, 1, 4))["student_feature"].flatten().tolist() == [0.0, 1.0, 3.0, 4.0]


@pytest.mark.parametrize(
    ("student", "teacher", "words"),
    [
        (((16, 8, 8),), ((5, 16),), r"\['N', 16, 8, 8\].*\['N', 5, 16\].*tap two maps"),
        (((4, 16),), ((5, 16),), "token counts differ"),
        (((1, 2, 3, 4),), ((1, 2, 3, 4),), "tap another layer"),
        (((16,), (16,)), ((16,), (16,)), "name one layer of each"),
    ],
)
def test_what_cannot_be_adapted_is_refused(student: tuple[tuple[int, ...], ...], teacher: tuple[tuple[int, ...], ...], words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        Regressor(TapShapes(student, teacher, 10, 3))


def test_a_batch_that_differs_is_refused() -> None:
    learned = Regressor(_shapes((4,), (6,)))
    with pytest.raises(TrainingError, match=r"\[2, 4\].*\[3, 6\]"):
        learned(student_feature=torch.zeros(2, 4), teacher_feature=torch.zeros(3, 6))


def test_half_precision_features_are_adapted_in_full() -> None:
    learned = Regressor(_shapes((4, 2, 2), (6, 4, 4)))
    given = feature(2, 4, 2, 2, dtype=torch.bfloat16)
    found = learned(student_feature=given, teacher_feature=feature(2, 6, 4, 4, dtype=torch.bfloat16))["student_feature"]
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()
