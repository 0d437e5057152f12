from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_world import feature
from torch import Tensor

from kdedge.distill.losses.dkd import dkd_loss
from kdedge.distill.losses.kd import kd_loss

LABELS = torch.tensor([0, 6, 3, 1])


def _kl(target: list[float], prediction: list[float]) -> float:
    return sum(t * math.log(t / p) for t, p in zip(target, prediction, strict=True))


def _logs(probabilities: list[float]) -> Tensor:
    return torch.tensor([[math.log(p) for p in probabilities]], dtype=torch.float64)


def test_dkd_is_the_value_worked_out_by_hand() -> None:
    # Teacher (0.6, 0.3, 0.1), student (0.5, 0.25, 0.25), label 0: (0.6, 0.4) against (0.5, 0.5), and (3/4, 1/4) against (1/2, 1/2).
    label, others = _kl([0.6, 0.4], [0.5, 0.5]), _kl([0.75, 0.25], [0.5, 0.5])
    student, teacher = _logs([0.5, 0.25, 0.25]), _logs([0.6, 0.3, 0.1])
    found = dkd_loss(student, teacher, torch.tensor([0]), temperature=1.0, alpha=2.0, beta=3.0)
    assert found.item() == pytest.approx(2 * label + 3 * others, rel=1e-9)
    # Label 2: (0.1, 0.9) against (1/4, 3/4), and (2/3, 1/3) against (2/3, 1/3).
    found = dkd_loss(student, teacher, torch.tensor([2]), temperature=1.0, alpha=2.0, beta=3.0)
    assert found.item() == pytest.approx(2 * _kl([0.1, 0.9], [0.25, 0.75]), rel=1e-9)


def test_dkd_softens_both_parts_and_is_multiplied_by_the_square_of_the_temperature() -> None:
    # At T = 2 logits of 2 log p are log p.
    label, others = _kl([0.6, 0.4], [0.5, 0.5]), _kl([0.75, 0.25], [0.5, 0.5])
    found = dkd_loss(2 * _logs([0.5, 0.25, 0.25]), 2 * _logs([0.6, 0.3, 0.1]), torch.tensor([0]), temperature=2.0)
    assert found.item() == pytest.approx(4 * (label + 8 * others), rel=1e-9)


@pytest.mark.parametrize("standardize", [False, True])
@given(seed=st.integers(0, 1000), temperature=st.floats(0.5, 10))
@settings(max_examples=40, deadline=None)
def test_dkd_with_the_teachers_doubt_as_beta_is_kd(standardize: bool, seed: int, temperature: float) -> None:
    student, teacher = feature(4, 7, seed=seed) * 3, feature(4, 7, seed=seed + 1000) * 3
    seen = (teacher - teacher.mean(1, keepdim=True)) / teacher.std(1, keepdim=True) if standardize else teacher
    doubts = 1 - (seen / temperature).softmax(dim=1)[range(4), LABELS]
    parts = [
        dkd_loss(student[[i]], teacher[[i]], LABELS[[i]], temperature, alpha=1.0, beta=doubts[i].item(), standardize=standardize) for i in range(4)
    ]
    expected = kd_loss(student, teacher, temperature, standardize)
    assert torch.stack(parts).mean().item() == pytest.approx(expected.item(), rel=1e-5)


def test_alpha_counts_how_sure_and_beta_counts_the_ranking_of_the_others() -> None:
    student, teacher = feature(4, 7), feature(4, 7, seed=1)
    surer = teacher + 3 * torch.nn.functional.one_hot(LABELS, 7)  # the same ranking of the others
    only_others = [dkd_loss(student, each, LABELS, alpha=0.0, beta=1.0).item() for each in (teacher, surer)]
    assert only_others[0] == pytest.approx(only_others[1], rel=1e-9)
    only_label = [dkd_loss(student, each, LABELS, alpha=1.0, beta=0.0).item() for each in (teacher, surer)]
    assert abs(only_label[0] - only_label[1]) > 1e-2
    turned = teacher.clone()  # other classes swapped, the label's probability kept
    turned[0, [1, 3]] = teacher[0, [3, 1]]
    assert dkd_loss(student, turned, LABELS, alpha=1.0, beta=0.0).item() == pytest.approx(only_label[0], rel=1e-9)
    assert abs(dkd_loss(student, turned, LABELS, alpha=0.0, beta=1.0).item() - only_others[0]) > 1e-3


@given(scale=st.floats(0.1, 20), shift=st.floats(-50, 50), seed=st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_dkd_standardized_is_blind_to_scale_and_shift(scale: float, shift: float, seed: int) -> None:
    student, teacher = feature(4, 7, seed=seed), feature(4, 7, seed=seed + 1)
    plain = dkd_loss(student, teacher, LABELS, 2.0, standardize=True)
    assert dkd_loss(student, teacher * scale + shift, LABELS, 2.0, standardize=True).item() == pytest.approx(plain.item(), rel=1e-4)
    assert dkd_loss(student * scale + shift, teacher, LABELS, 2.0, standardize=True).item() == pytest.approx(plain.item(), rel=1e-4)


def test_a_nearly_one_hot_teacher_still_teaches_its_ranking_where_kd_does_not() -> None:
    # p_t(label) is 1 - 1e-9 or so at T = 1; among the others the teacher's 3 : 1 stands against the student's 1 : 1.
    teacher = torch.tensor([[21.0, math.log(3), 0.0]])
    student = torch.tensor([[21.0, math.log(2), math.log(2)]])
    ranking = _kl([0.75, 0.25], [0.5, 0.5])
    assert dkd_loss(student, teacher, torch.tensor([0]), 1.0, beta=1.0).item() == pytest.approx(ranking, rel=1e-5)
    assert kd_loss(student, teacher, 1.0).item() < 1e-6
