from __future__ import annotations

import io
import math

import pytest
import torch
from loss_world import backward, feature
from torch import Tensor

from kdedge.distill.learned import TapShapes
from kdedge.distill.learned.review import Fusion, Review
from kdedge.distill.losses.reviewkd import reviewkd_loss
from kdedge.errors import TrainingError
from kdedge.models.resnet_cifar import resnet8, resnet14

# The three stages of a CIFAR ResNet, and of one that is twice as wide.
STUDENT = ((16, 32, 32), (32, 16, 16), (64, 8, 8))
TEACHER = ((32, 32, 32), (64, 16, 16), (128, 8, 8))


def _stages(shapes: tuple[tuple[int, ...], ...], batch: int = 2, seed: int = 0) -> list[Tensor]:
    return [feature(batch, *shape, seed=seed + place, dtype=torch.float32) for place, shape in enumerate(shapes)]


def _learned(student: tuple[tuple[int, ...], ...] = STUDENT, teacher: tuple[tuple[int, ...], ...] = TEACHER, middle: int = 512) -> Review:
    return Review(TapShapes(student, teacher, 10, 3), middle=middle)


def test_three_stages_of_a_resnet_become_the_teachers_shapes() -> None:
    stages: dict[str, list[Tensor]] = {}
    for name, model in (("student", resnet8(classes=3)), ("teacher", resnet14(classes=3, width=32))):
        stages[name] = []
        for stage in (model.layer1, model.layer2, model.layer3):
            stage.register_forward_hook(lambda _module, _given, output, name=name: stages[name].append(output))
        model(feature(2, 3, 32, 32, dtype=torch.float32))
    student, teacher = (tuple(tuple(f.shape[1:]) for f in stages[name]) for name in ("student", "teacher"))
    shapes = TapShapes(student, teacher, samples=10, classes=3)
    assert (shapes.student, shapes.teacher) == (STUDENT, TEACHER)
    given = Review(shapes)(student_features=stages["student"], teacher_features=stages["teacher"])
    assert [tuple(f.shape) for f in given["learned_features"]] == [(2, *shape) for shape in TEACHER]
    assert torch.isfinite(reviewkd_loss(teacher_features=stages["teacher"], **given))


def test_each_stage_of_the_teacher_teaches_all_deeper_stages_of_the_student_and_none_above() -> None:
    learned = _learned()
    for stage in range(3):
        students = [f.requires_grad_() for f in _stages(STUDENT)]
        fused = learned(student_features=students, teacher_features=_stages(TEACHER, seed=9))["learned_features"]
        backward(fused[stage].square().sum())
        reached = [f.grad is not None and bool(f.grad.abs().sum() > 0) for f in students]
        assert reached == [place >= stage for place in range(3)]


def test_a_stage_is_mixed_with_the_deeper_ones_by_its_two_attention_maps() -> None:
    fusion = Fusion(1, 1, 1, deepest=False).eval()
    assert fusion.attention is not None
    with torch.no_grad():
        for parameter in (fusion.enter[0].weight, fusion.attention[0].weight):
            parameter.zero_()  # type: ignore[operator]
        fusion.enter[0].weight.fill_(1.0)  # type: ignore[operator]
        # Sigmoids of 3/4 and 1/4.
        fusion.attention[0].bias.copy_(torch.tensor([math.log(3), -math.log(3)]))  # type: ignore[operator]
    student, deeper = torch.tensor([[[[4.0, 8.0], [0.0, 4.0]]]]), torch.tensor([[[[8.0]]]])
    _, mixed = fusion(student, deeper, (2, 2))
    # Batch normalisation in evaluation divides by sqrt(1 + 1e-5).
    torch.testing.assert_close(mixed, torch.tensor([[[[5.0, 8.0], [2.0, 5.0]]]]), rtol=1e-4, atol=0)


def test_sizes_that_differ_become_the_teachers_and_one_pair_needs_no_attention() -> None:
    teacher = ((8, 20, 24), (8, 10, 12), (8, 9, 3))
    fused = _learned(STUDENT, teacher)(student_features=_stages(STUDENT), teacher_features=_stages(teacher))["learned_features"]
    assert [tuple(f.shape) for f in fused] == [(2, *shape) for shape in teacher]
    alone = _learned(STUDENT[:1], TEACHER[:1])
    assert not [name for name, _ in alone.named_parameters() if "attention" in name]
    assert alone(student_features=_stages(STUDENT[:1]), teacher_features=_stages(TEACHER[:1]))["learned_features"][0].shape == (
        2,
        32,
        32,
        32,
    )


def test_stages_are_fused_in_the_channels_of_the_deepest_but_at_most_the_middle() -> None:
    assert {tuple(fusion.enter[0].weight.shape) for fusion in _learned().fusions} == {(64, 16, 1, 1), (64, 32, 1, 1), (64, 64, 1, 1)}  # type: ignore[union-attr, index]
    assert {fusion.enter[0].weight.shape[0] for fusion in _learned(middle=24).fusions} == {24}  # type: ignore[union-attr, index]


def test_its_parameters_learn_and_the_teacher_gets_no_gradient() -> None:
    small, large = ((2, 8, 8), (3, 4, 4)), ((3, 8, 8), (5, 4, 4))
    learned, students, teachers = _learned(small, large), _stages(small, 4), [f.requires_grad_() for f in _stages(large, 4, seed=9)]
    optimizer = torch.optim.Adam(learned.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        loss = reviewkd_loss(teacher_features=teachers, **learned(student_features=students, teacher_features=teachers))
        optimizer.zero_grad()
        backward(loss)
        assert all(p.grad is not None for p in learned.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(f.grad is None for f in teachers)


def test_a_state_dict_round_trip_continues_bit_for_bit() -> None:
    tensors = {"student_features": _stages(STUDENT), "teacher_features": _stages(TEACHER)}
    one, other = _learned(), _learned()
    one(**tensors)
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert all(torch.equal(a, b) for a, b in zip(one(**tensors)["learned_features"], other(**tensors)["learned_features"], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_half_precision_features_give_a_finite_loss_and_gradient() -> None:
    students, teachers = [f.bfloat16().requires_grad_() for f in _stages(STUDENT)], [f.bfloat16() for f in _stages(TEACHER)]
    loss = reviewkd_loss(teacher_features=teachers, **_learned()(student_features=students, teacher_features=teachers))
    backward(loss)
    assert torch.isfinite(loss)
    assert all(f.grad is not None and torch.isfinite(f.grad).all() for f in students)


def test_what_cannot_be_fused_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"\['N', 64\].*tap convolutional layers"):
        _learned((*STUDENT[:2], (64,)), TEACHER)
    with pytest.raises(TrainingError, match="2 layers of the student and 3 of the teacher"):
        _learned(STUDENT[:2], TEACHER)
    with pytest.raises(TrainingError, match="`middle`"):
        _learned(middle=0)
    with pytest.raises(TrainingError, match="made for 3 layer pairs and got 2"):
        _learned()(student_features=_stages(STUDENT)[:2], teacher_features=_stages(TEACHER))
