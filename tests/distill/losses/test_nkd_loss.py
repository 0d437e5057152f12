from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_world import backward, feature

from kdedge.distill.losses.nkd import nkd_loss


def _softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    powers = np.exp(logits)
    result: npt.NDArray[np.float64] = powers / powers.sum()
    return result


def _reference(
    student: npt.NDArray[np.float64], teacher: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], temperature: float, gamma: float
) -> float:
    total = 0.0
    for z_s, z_t, label in zip(student, teacher, labels, strict=True):
        total -= _softmax(z_t)[label] * np.log(_softmax(z_s)[label])
        n_s, n_t = (_softmax(np.delete(z, label) / temperature) for z in (z_s, z_t))
        total -= gamma * temperature**2 * (n_t * np.log(n_s)).sum()
    return total / len(labels)


def test_nkd_is_the_value_worked_out_by_hand() -> None:
    # Teacher (0.6, 0.3, 0.1), student (0.5, 0.1, 0.4), label 0; among the others (3/4, 1/4) against (1/5, 4/5).
    student = torch.tensor([[math.log(0.5), math.log(0.1), math.log(0.4)]], dtype=torch.float64)
    teacher = torch.tensor([[math.log(0.6), math.log(0.3), math.log(0.1)]], dtype=torch.float64)
    expected = -0.6 * math.log(0.5) - 1.5 * (0.75 * math.log(0.2) + 0.25 * math.log(0.8))
    assert nkd_loss(student, teacher, torch.tensor([0])).item() == pytest.approx(expected, rel=1e-9)


def test_the_temperature_softens_the_other_classes_only() -> None:
    # At T = 2 the others' logits of 2 log p are log p; the label's part sees them as they are: p^2 over its sum.
    student = torch.tensor([[2 * math.log(0.5), 2 * math.log(0.1), 2 * math.log(0.4)]], dtype=torch.float64)
    teacher = torch.tensor([[2 * math.log(0.6), 2 * math.log(0.3), 2 * math.log(0.1)]], dtype=torch.float64)
    label = -(0.36 / 0.46) * math.log(0.25 / 0.42)
    others = -(0.75 * math.log(0.2) + 0.25 * math.log(0.8))
    found = nkd_loss(student, teacher, torch.tensor([0]), temperature=2.0, gamma=0.5)
    assert found.item() == pytest.approx(label + 0.5 * 4 * others, rel=1e-9)


@given(seed=st.integers(0, 1000), temperature=st.floats(0.5, 10), gamma=st.floats(0, 5), labels=st.lists(st.integers(0, 6), min_size=4, max_size=4))
@settings(max_examples=50, deadline=None)
def test_nkd_equals_a_reference_in_numpy(seed: int, temperature: float, gamma: float, labels: list[int]) -> None:
    student, teacher = feature(4, 7, seed=seed) * 3, feature(4, 7, seed=seed + 1000) * 3
    expected = _reference(student.numpy(), teacher.numpy(), np.array(labels), temperature, gamma)
    assert nkd_loss(student, teacher, torch.tensor(labels), temperature, gamma).item() == pytest.approx(expected, rel=1e-9)


def test_where_both_are_equal_the_other_classes_pull_no_more_and_the_label_still_does() -> None:
    labels = torch.tensor([0, 6, 3, 1])
    teacher = feature(4, 7)
    student = teacher.clone().requires_grad_()
    backward(nkd_loss(student, teacher, labels, temperature=3.0))
    # What is left is trust times the cross-entropy's gradient: p_t(y) (p - onehot(y)) / N.
    p = teacher.softmax(1)
    trust = p[range(4), labels].unsqueeze(1)
    assert student.grad is not None
    torch.testing.assert_close(student.grad, trust * (p - torch.nn.functional.one_hot(labels, 7)) / 4)


def test_a_teacher_that_doubts_the_label_takes_weight_off_it() -> None:
    student, label = torch.zeros(1, 3, dtype=torch.float64), torch.tensor([0])
    for trust in (0.9, 0.2):
        teacher = torch.tensor([[math.log(trust), math.log((1 - trust) / 2), math.log((1 - trust) / 2)]], dtype=torch.float64)
        assert nkd_loss(student, teacher, label, gamma=0.0).item() == pytest.approx(trust * math.log(3), rel=1e-9)
