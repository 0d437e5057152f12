"""What every loss on logits promises. Values and identities of each stand in its own file."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_world import backward, check_finite_in_half_precision, check_teacher_gets_no_gradient, feature, has_its_formulas_gradient
from torch import Tensor

from kdedge.distill.losses.dist import dist_loss
from kdedge.distill.losses.distributions import kl_divergence, log_label_or_other, other_logits
from kdedge.distill.losses.dkd import dkd_loss
from kdedge.distill.losses.hard import hard_loss
from kdedge.distill.losses.kd import kd_loss
from kdedge.distill.losses.nkd import nkd_loss
from kdedge.distill.losses.ttm import ttm_loss
from kdedge.distill.losses.wttm import wttm_loss
from kdedge.errors import TrainingError

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]

LOSSES: dict[str, Loss] = {
    "kd": lambda s, t, y: kd_loss(s, t),
    "kd standardised": lambda s, t, y: kd_loss(s, t, 2.0, standardize=True),
    "dkd": dkd_loss,
    "dkd standardised": lambda s, t, y: dkd_loss(s, t, y, 2.0, standardize=True),
    "dist": lambda s, t, y: dist_loss(s, t),
    "nkd": nkd_loss,
    "nkd at 3": lambda s, t, y: nkd_loss(s, t, y, 3.0),
    "ttm": lambda s, t, y: ttm_loss(s, t),
    "wttm": lambda s, t, y: wttm_loss(s, t),
    "hard": lambda s, t, y: hard_loss(s, t),
}
WITH_TEMPERATURE: dict[str, Callable[[Tensor, Tensor, Tensor, float | Tensor], Tensor]] = {
    "kd": lambda s, t, y, temperature: kd_loss(s, t, temperature),
    "kd standardised": lambda s, t, y, temperature: kd_loss(s, t, temperature, standardize=True),
    "dkd": dkd_loss,
    "dkd standardised": lambda s, t, y, temperature: dkd_loss(s, t, y, temperature, standardize=True),
    "dist": lambda s, t, y, temperature: dist_loss(s, t, temperature),
    "nkd": nkd_loss,
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)

LABELS = torch.tensor([0, 6, 3, 3, 1])


def _pair(seed: int = 0, examples: int = 5, classes: int = 7) -> tuple[Tensor, Tensor]:
    return feature(examples, classes, seed=seed) * 3, feature(examples, classes, seed=seed + 1000) * 3


@every_loss
@given(seed=st.integers(0, 1000), order=st.permutations(range(5)))
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_batch_does_not_matter(loss: Loss, seed: int, order: list[int]) -> None:
    student, teacher = _pair(seed)
    assert loss(student[order], teacher[order], LABELS[order]).item() == pytest.approx(loss(student, teacher, LABELS).item(), rel=1e-9)


@every_loss
@given(seed=st.integers(0, 1000), order=st.permutations(range(7)))
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_classes_does_not_matter(loss: Loss, seed: int, order: list[int]) -> None:
    student, teacher = _pair(seed)
    place = torch.tensor(order).argsort()  # where class c went
    assert loss(student[:, order], teacher[:, order], place[LABELS]).item() == pytest.approx(loss(student, teacher, LABELS).item(), rel=1e-9)


@every_loss
@given(seed=st.integers(0, 1000), own=st.floats(-50, 50), others=st.floats(-50, 50))
@settings(max_examples=20, deadline=None)
def test_a_shift_of_all_logits_does_not_matter(loss: Loss, seed: int, own: float, others: float) -> None:
    student, teacher = _pair(seed)
    assert loss(student + own, teacher + others, LABELS).item() == pytest.approx(loss(student, teacher, LABELS).item(), rel=1e-8)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "dist"])
def test_a_batch_counts_as_the_mean_of_its_examples(name: str) -> None:
    student, teacher = _pair()
    alone = [LOSSES[name](student[[i]], teacher[[i]], LABELS[[i]]).item() for i in range(5)]
    assert LOSSES[name](student, teacher, LABELS).item() == pytest.approx(sum(alone) / 5, rel=1e-9)


@pytest.mark.parametrize("name", ["kd", "kd standardised", "dkd", "dkd standardised", "dist"])
def test_it_is_zero_where_both_agree_and_positive_elsewhere(name: str) -> None:
    student, teacher = _pair()
    nothing = 1e-4 if name == "dist" else 1e-10  # dist: 1e-8 beside the squared lengths of what varies
    assert LOSSES[name](teacher.clone(), teacher, LABELS).item() == pytest.approx(0, abs=nothing)
    assert LOSSES[name](student, teacher, LABELS).item() > 1e-2


@every_loss
def test_its_gradient_is_that_of_its_formula(loss: Loss) -> None:
    student, teacher = _pair()
    assert has_its_formulas_gradient(lambda z: loss(z, teacher, LABELS), student)


@every_loss
def test_the_teacher_gets_no_gradient(loss: Loss) -> None:
    check_teacher_gets_no_gradient(lambda s, t: loss(s, t, LABELS), *_pair())


@every_loss
@pytest.mark.parametrize("size", [1, 300])
def test_half_precision_is_computed_in_float32(loss: Loss, size: float) -> None:
    student, teacher = _pair()
    check_finite_in_half_precision(lambda s, t: loss(s, t, LABELS), student * size, teacher * size)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("log_odds", [20.7, 60.0, 20000.0])  # 20.7: p_t(label) = 1 - 1e-9, which float32 rounds to 1
def test_a_nearly_one_hot_teacher_or_student_gives_finite_values_and_gradients(loss: Loss, dtype: torch.dtype, log_odds: float) -> None:
    plain, _ = _pair()
    sure = torch.zeros_like(plain).scatter_(1, LABELS.unsqueeze(1), log_odds)
    wrong = sure.roll(1, dims=1)
    for student, teacher in [(plain, sure), (plain, wrong), (sure, plain), (wrong, plain), (wrong, sure), (sure, sure)]:
        given_student = student.to(dtype).requires_grad_()
        value = loss(given_student, teacher.to(dtype), LABELS)
        backward(value)
        assert torch.isfinite(value)
        assert given_student.grad is not None
        assert torch.isfinite(given_student.grad).all()


@every_loss
def test_equal_logits_of_a_fresh_student_give_finite_gradients(loss: Loss) -> None:
    student = torch.zeros(5, 7, requires_grad=True)
    value = loss(student, _pair()[1].float(), LABELS)
    backward(value)
    assert torch.isfinite(value)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


@every_loss
def test_a_batch_of_one_and_two_classes_are_enough(loss: Loss) -> None:
    student = feature(1, 2).requires_grad_()
    value = loss(student, feature(1, 2, seed=1), torch.tensor([1]))
    backward(value)
    assert torch.isfinite(value)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("loss", WITH_TEMPERATURE.values(), ids=WITH_TEMPERATURE)
def test_a_temperature_may_be_a_tensor_that_is_learned(loss: Callable[[Tensor, Tensor, Tensor, float | Tensor], Tensor]) -> None:
    student, teacher = _pair()
    plain = loss(student, teacher, LABELS, 2.5)
    learned = torch.tensor(2.5, dtype=torch.float64, requires_grad=True)
    value = loss(student, teacher, LABELS, learned)
    assert value.item() == pytest.approx(plain.item(), rel=1e-12)
    assert torch.autograd.gradcheck(lambda temperature: loss(student, teacher, LABELS, temperature), (learned,))
    backward(value)
    assert learned.grad is not None
    assert learned.grad.abs() > 1e-6


@pytest.mark.parametrize("loss", WITH_TEMPERATURE.values(), ids=WITH_TEMPERATURE)
@pytest.mark.parametrize("kept_in", [torch.float32, torch.float64])
def test_a_temperatures_dtype_does_not_change_the_losss(
    loss: Callable[[Tensor, Tensor, Tensor, float | Tensor], Tensor], kept_in: torch.dtype
) -> None:
    student, teacher = _pair()
    value = loss(student.bfloat16(), teacher.float(), LABELS, torch.tensor(2.5, dtype=kept_in))
    assert value.dtype == torch.float32
    assert value.ndim == 0


@every_loss
@pytest.mark.parametrize(("student", "teacher"), [((5, 7), (5, 6)), ((5, 7), (5, 1)), ((5, 7), (1, 7)), ((5, 7, 2), (5, 7, 2)), ((5, 1), (5, 1))])
def test_logits_that_are_not_over_the_same_classes_are_refused(loss: Loss, student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    with pytest.raises(TrainingError, match="same list of at least two classes"):
        loss(torch.zeros(student), torch.zeros(teacher), LABELS)


def test_a_class_that_the_teacher_rules_out_adds_nothing() -> None:
    log_target = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64).log()
    log_prediction = torch.tensor([[0.25, 0.5, 0.25]], dtype=torch.float64).log().requires_grad_()
    value = kl_divergence(log_target, log_prediction)
    backward(value.sum())
    assert value.item() == pytest.approx(0.5 * 0.6931471805599453, rel=1e-12)
    assert log_prediction.grad is not None
    assert log_prediction.grad.tolist() == [pytest.approx([-0.5, -0.5, 0.0])]


def test_the_logits_of_the_other_classes_keep_their_order() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [6.0, 7.0, 8.0]])
    assert other_logits(logits, torch.tensor([0, 1, 2])).tolist() == [[1.0, 2.0], [3.0, 5.0], [6.0, 7.0]]


def test_what_is_left_beside_a_sure_label_is_not_rounded_away() -> None:
    # p(label) = 1 / (1 + 2 exp(-40)): float32 takes it for 1, whose complement has no logarithm.
    found = log_label_or_other(torch.tensor([[40.0, 0.0, 0.0]]), torch.tensor([0]))
    assert found.tolist() == [pytest.approx([-2 * 4.248354255291589e-18, 0.6931471805599453 - 40], rel=1e-6)]
