from __future__ import annotations

import math

import pytest
import torch
from loss_world import backward, feature

from kdedge.distill.learned import TapShapes
from kdedge.distill.learned.variational import Variational
from kdedge.distill.losses.vid import vid_loss
from kdedge.errors import TrainingError


def _learned(student: tuple[int, ...], teacher: tuple[int, ...], **parameters: float) -> Variational:
    return Variational(TapShapes((student,), (teacher,), 10, 3), **parameters)


@pytest.mark.parametrize(
    ("student", "teacher", "spread"),
    [
        ((3, 8, 8), (5, 4, 4), (1, 5, 1, 1)),
        ((3, 2, 2), (5, 4, 4), (1, 5, 1, 1)),
        ((7, 3), (7, 5), (1, 1, 5)),
        ((3,), (5,), (1, 5)),
    ],
)
def test_mean_and_variance_have_the_shapes_that_the_loss_takes(student: tuple[int, ...], teacher: tuple[int, ...], spread: tuple[int, ...]) -> None:
    learned = _learned(student, teacher)
    wanted = feature(2, *teacher, seed=1, dtype=torch.float32)
    given = learned(student_feature=feature(2, *student, dtype=torch.float32), teacher_feature=wanted)
    assert given["learned_mean"].shape == wanted.shape
    assert given["learned_variance"].shape == spread
    assert torch.isfinite(vid_loss(teacher_feature=wanted, **given))


@pytest.mark.parametrize("initial", [1e-3, 5.0, 1000.0])
def test_the_variance_is_at_first_what_was_asked_for(initial: float) -> None:
    learned = _learned((3,), (5,), initial_variance=initial)
    found = learned(student_feature=torch.zeros(2, 3), teacher_feature=torch.zeros(2, 5))["learned_variance"]
    torch.testing.assert_close(found, torch.full((1, 5), initial), rtol=1e-5, atol=1e-7)


def test_the_variance_is_a_parameter_that_the_optimizer_sees_and_moves_to_the_error() -> None:
    learned = _learned((3,), (2,))
    assert any(parameter is learned.scale for parameter in learned.parameters())
    assert "scale" in learned.state_dict()
    # The mean cannot follow noise that the student does not know: its variance, 9 and 1/4, is what is left to learn.
    for parameter in learned.mean.parameters():
        parameter.requires_grad_(False).zero_()
    wanted = feature(4000, 2, dtype=torch.float32) * torch.tensor([3.0, 0.5])
    optimizer = torch.optim.Adam([p for p in learned.parameters() if p.requires_grad], lr=0.2)
    for _ in range(200):
        given = learned(student_feature=torch.zeros(4000, 3), teacher_feature=wanted)
        optimizer.zero_grad()
        backward(vid_loss(teacher_feature=wanted, **given))
        optimizer.step()
    torch.testing.assert_close(given["learned_variance"][0].detach(), wanted.square().mean(0), rtol=0.01, atol=0.01)


def test_the_variance_is_never_below_epsilon() -> None:
    learned = _learned((3,), (2,), epsilon=1e-3)
    with torch.no_grad():
        learned.scale.fill_(-1e4)
    wanted = torch.zeros(2, 2)
    given = learned(student_feature=torch.zeros(2, 3), teacher_feature=wanted)
    assert given["learned_variance"].min().item() == pytest.approx(1e-3, rel=1e-5)
    assert torch.isfinite(vid_loss(teacher_feature=wanted, **given))


def test_all_gradients_are_those_of_the_formula() -> None:
    learned = _learned((2, 2, 2), (3, 2, 2)).double()
    wanted = feature(2, 3, 2, 2, seed=1)
    student = feature(2, 2, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda f, *_: vid_loss(teacher_feature=wanted, **learned(student_feature=f, teacher_feature=wanted)),
        (student, *learned.parameters()),
    )


def test_half_precision_features_give_finite_float32() -> None:
    learned = _learned((3, 4, 4), (5, 4, 4))
    wanted = feature(2, 5, 4, 4, seed=1, dtype=torch.bfloat16)
    given = learned(student_feature=feature(2, 3, 4, 4, dtype=torch.bfloat16) * 100, teacher_feature=wanted)
    loss = vid_loss(teacher_feature=wanted, **given)
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)


def test_what_cannot_be_predicted_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"\['N', 3, 4, 4\].*\['N', 5\]"):
        _learned((3, 4, 4), (5,))
    for parameters in ({"initial_variance": 0.0}, {"epsilon": 0.0}, {"epsilon": 6.0}, {"initial_variance": math.nan}):
        with pytest.raises(TrainingError, match="epsilon < initial_variance"):
            _learned((3,), (5,), **parameters)
