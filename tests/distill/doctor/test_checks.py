"""Each check of the doctor on figures that can be worked out on paper."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kdedge.distill.doctor import Diagnosis, Finding, by_urgency
from kdedge.distill.doctor.cache_state import CachePlan, cache_state
from kdedge.distill.doctor.class_counts import class_balance, class_counts
from kdedge.distill.doctor.gradient_flow import Flow, Steadiness, gradient_flow, teacher_steadiness
from kdedge.distill.doctor.image_faults import renormalized
from kdedge.distill.doctor.label_order import best_order, described, right_when_reordered
from kdedge.distill.doctor.sharpness import entropy, sharpness, softmax, standardized
from kdedge.distill.doctor.size_of_models import ModelSize, size_of_models
from kdedge.distill.doctor.teacher_accuracy import NORMALIZE, ORDER, Trial, accuracy, augmented_accuracy, explanation
from kdedge.distill.doctor.term_balance import TermScale, term_balance
from kdedge.distill.losses import distributions
from kdedge.distill.terms import training_spec
from kdedge.recipe import TrainSection

STEADY = Steadiness(repeats=True, alone=0.0, unchanged=True, gradient=False, shares=False)


def test_only_an_error_ends_with_2_and_the_most_urgent_stands_first() -> None:
    found = [Finding(level, "check", "said") for level in ("ok", "warning", "error", "note")]
    assert [each.level for each in by_urgency(found)] == ["error", "warning", "note", "ok"]
    assert Diagnosis("r", tuple(found), 1.0).exit_code == 2
    assert Diagnosis("r", (found[0], found[1], found[3]), 1.0).exit_code == 0


def test_class_counts_that_differ_are_named() -> None:
    assert class_counts({"the teacher": 2, "the student": 2}, ("a", "b")).level == "ok"
    found = class_counts({"the teacher": 3, "the student": 2}, ("a", "b"))
    assert found.level == "error"
    assert "the teacher gives 3" in found.message


@pytest.mark.parametrize(
    ("counts", "level"), [((30, 30), "ok"), ((60, 10), "note"), ((300, 5), "warning"), ((30, 3), "warning"), ((30, 0), "warning")]
)
def test_uneven_classes_are_told_by_how_uneven_they_are(counts: tuple[int, int], level: str) -> None:
    assert class_balance(np.repeat([0, 1], counts), ("a", "b")).level == level


def test_an_order_of_labels_is_found_and_read_as_cycles() -> None:
    labels = np.arange(40) % 4
    meant = np.array([0, 2, 1, 3])
    predicted = np.argsort(meant)[labels]
    assert best_order(predicted, labels, 4).tolist() == meant.tolist()
    reordered = right_when_reordered(predicted, labels, 4)
    assert reordered is not None
    assert reordered.all()
    assert described(meant, ("bird", "cat", "dog", "frog")) == "cat <-> dog"
    assert described(np.array([1, 2, 0, 3]), ("a", "b", "c", "d")) == "a -> b -> c -> a"
    assert described(np.arange(4), ("a", "b", "c", "d")) == ""


def test_an_order_that_fits_by_chance_does_not_make_noise_right() -> None:
    generator = np.random.default_rng(0)
    labels, predicted = generator.integers(0, 10, 400), generator.integers(0, 10, 400)
    reordered = right_when_reordered(predicted, labels, 10)
    assert reordered is not None
    assert reordered.mean() < 0.2
    assert right_when_reordered(predicted[:30], labels[:30], 10) is None


def test_images_for_another_normalisation_come_out_as_it_would_make_them() -> None:
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    now, meant = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))

    def column(values: tuple[float, ...]) -> torch.Tensor:
        return torch.tensor(values).view(1, 3, 1, 1)

    seen = (renormalized(images, now, meant) - column(now[0])) / column(now[1])
    torch.testing.assert_close(seen, (images - column(meant[0])) / column(meant[1]))
    torch.testing.assert_close(renormalized(images, now, now), images)
    torch.testing.assert_close(renormalized(images, None, meant), seen)


def _trial(right: int, *changes: tuple[str, str], total: int = 100, before: int = 50) -> Trial:
    return Trial(changes, np.arange(total) < right, np.arange(total) < before)


def test_the_simplest_of_equal_explanations_is_taken_and_chance_explains_nothing() -> None:
    simple, both = _trial(98, (NORMALIZE, "imagenet")), _trial(99, (NORMALIZE, "imagenet"), (ORDER, "a <-> b"))
    assert explanation([_trial(50), both, simple]) is simple
    assert explanation([_trial(50), _trial(55, (NORMALIZE, "data"))]) is None  # 5 of 5 by chance: p = 0.06


def test_a_bad_teacher_is_an_error_and_its_explanation_is_said() -> None:
    tried = [_trial(50), _trial(99, (NORMALIZE, "imagenet")), _trial(60, (NORMALIZE, "none"))]
    found = accuracy("teacher", np.arange(100) < 50, 0.1, tried, "set teacher.normalize: imagenet")
    assert (found.level, found.advice) == ("error", "set teacher.normalize: imagenet")
    assert "`normalize: imagenet` it is right on 99.0 %" in found.message
    assert "none 60.0 %" in found.message
    assert accuracy("teacher", np.arange(100) < 12, 0.1).level == "error"
    assert accuracy("teacher", np.arange(100) < 40, 0.1).level == "warning"
    assert accuracy("teacher", np.arange(100) < 95, 0.1).level == "ok"


def test_an_augmentation_that_the_teacher_never_saw_is_told() -> None:
    plain = np.ones(100, bool)
    assert augmented_accuracy("teacher", plain, np.arange(100) < 95, ("flip",)).level == "ok"
    assert augmented_accuracy("teacher", plain, np.arange(100) < 70, ("flip",)).level == "warning"


def test_entropy_of_known_distributions() -> None:
    logits = np.array([[0.0, 0.0, 0.0, 0.0], [math.log(3), 0.0, -1e9, -1e9]])
    assert entropy(softmax(logits[:1])) == pytest.approx(math.log(4))
    assert entropy(softmax(logits[1:])) == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert softmax(logits[1:], 2.0)[0, 0] == pytest.approx(math.sqrt(3) / (math.sqrt(3) + 1))


def test_standardised_logits_are_those_that_the_loss_compares() -> None:
    logits = np.array([[3.0, 1.0], [0.0, -4.0]])
    # The unbiased deviation of two values is their difference over the square root of two, so each lies at 1 / sqrt(2) from their mean.
    assert standardized(logits) == pytest.approx(np.array([[0.5, -0.5], [0.5, -0.5]]) * math.sqrt(2), rel=1e-6)
    wide = np.random.RandomState(0).randn(4, 10)
    assert standardized(wide) == pytest.approx(distributions.standardized(torch.tensor(wide)).numpy(), rel=1e-9)


def test_a_near_one_hot_teacher_is_noted_and_a_temperature_at_which_it_says_nothing_is_a_warning() -> None:
    sharp = np.eye(10)[np.arange(20) % 10] * 12.0
    cold = training_spec(TrainSection(losses=({"kd": 1.0, "temperature": 1.0},)), has_teacher=True, augment=()).terms
    warm = training_spec(TrainSection(losses=({"kd": 1.0, "temperature": 4.0},)), has_teacher=True, augment=()).terms
    level = training_spec(TrainSection(losses=({"kd": 1.0, "temperature": 1.0, "standardize": True},)), has_teacher=True, augment=()).terms
    found = sharpness(sharp, cold)
    assert found.level == "warning"
    assert "`kd` sees it at T = 1" in found.message
    assert sharpness(sharp, warm).level == "note"
    assert sharpness(sharp, level).level == "note"
    assert sharpness(sharp / 12.0, cold).level == "ok"


def test_a_student_larger_than_its_teacher_is_told() -> None:
    small, large = ModelSize(100, 1000, 1.0), ModelSize(200, 2000, 2.0)
    assert size_of_models(small, large).level == "ok"
    assert size_of_models(large, small).level == "warning"
    assert size_of_models(ModelSize(200, 500, 1.0), small).level == "note"
    assert size_of_models(small, small).level == "note"
    assert size_of_models(small, small, same_kind=True).level == "ok"
    assert size_of_models(ModelSize(50, 10, 3.0), ModelSize(0, 0, 1.0)).level == "note"  # an ONNX teacher says its time alone


def test_a_term_that_drowns_the_others_is_named_with_the_weight_that_balances_it() -> None:
    found = term_balance([TermScale("ce", 0.5, 1.0, 2.0), TermScale("at", 100.0, 3.0, 4.0)])  # pulls 1 and 400
    assert found.level == "warning"
    assert "a weight of 0.25 for at (now 100)" in found.advice
    assert term_balance([TermScale("ce", 0.5, 1.0, 2.0), TermScale("at", 10.0, 3.0, 4.0)]).level == "ok"
    assert term_balance([TermScale("ce", 0.5, math.nan, 2.0)]).level == "error"
    assert term_balance([TermScale("ce", 1.0, 1.0, 1.0), TermScale("kd", 1.0, 0.0, 0.0)]).level == "warning"


def test_gradients_that_do_not_arrive_are_told() -> None:
    assert gradient_flow([Flow("the student", ("a", "b"))]).level == "ok"
    assert gradient_flow([Flow("the student", ("a", "b"), frozen=("b",))]).level == "note"
    assert gradient_flow([Flow("the student", ("a", "b"), without=("b",))]).level == "warning"
    assert gradient_flow([Flow("the student", ("a", "b"), frozen=("a",), without=("b",))]).level == "error"


def test_what_a_later_stage_trains_need_get_no_gradient_in_this_one() -> None:
    hints = gradient_flow([Flow("the student", ("a", "b"), without=("b",))], goes_on=True)
    assert (hints.level, hints.advice) == ("note", "fine where a later stage trains them")
    assert gradient_flow([Flow("the student", ("a", "b"), without=("a", "b"))], goes_on=True).level == "error"


def test_a_teacher_that_is_not_steady_is_told() -> None:
    assert teacher_steadiness(STEADY).level == "ok"
    for change, level in (({"repeats": False}, "error"), ({"unchanged": False}, "error"), ({"gradient": True}, "error"), ({"alone": 0.5}, "warning")):
        assert teacher_steadiness(Steadiness(**{**vars(STEADY), **change})).level == level


def test_what_is_stale_in_the_cache_is_named() -> None:
    def about(**changes: str) -> dict[str, str]:
        return {"teacher": "t", "data": "d", "augmentation": "a", "view": "0", "questions": "q", **changes}

    plan = CachePlan(2, "auto", {0: about(), 1: about(view="1")}, 4)
    assert cache_state(plan, [], []).level == "ok"
    assert cache_state(plan, [about(), about(view="1")], [0, 1]).level == "ok"
    stale = cache_state(plan, [about(), about(teacher="other"), about(view="1", teacher="other")], [0])
    assert stale.level == "note"
    assert "2 kept are of no use here: another teacher" in stale.message
    assert cache_state(CachePlan(None, "never", {}, 4), [], []).level == "ok"


@pytest.mark.parametrize(("epochs", "views"), [(30, 5), (4, 2), (2, 1)])
def test_fewer_views_than_half_the_epochs_are_advised_where_each_epoch_asks_anew(epochs: int, views: int) -> None:
    found = cache_state(CachePlan(None, "auto", {}, epochs), [], [])
    assert (found.level, found.advice) == ("note", f"set distill.views: {views} to pay for its answers once")


def test_no_cache_is_advised_or_told_where_none_will_be_kept() -> None:
    once = cache_state(CachePlan(None, "auto", {}, 1), [], [])
    assert (once.level, once.advice) == ("ok", "")
    # As many views as epochs: `auto` keeps none of them, `always` does.
    full = {0: {"view": "0"}, 1: {"view": "1"}}
    assert "asked about in one epoch at most" in cache_state(CachePlan(2, "auto", full, 2), [], []).message
    assert cache_state(CachePlan(2, "always", full, 2), [], []).message == "2 views will be asked for, none is kept yet"
    assert cache_state(CachePlan(1, "always", {0: full[0]}, 1), [], []).message == "1 views will be asked for, none is kept yet"
    for views in (None, 2):
        maps = cache_state(CachePlan(views, "auto", full, 9, "whole feature maps are too large to keep"), [], [])
        assert (maps.level, maps.advice) == ("ok", "")
        assert maps.message == "the teacher is asked in every step: whole feature maps are too large to keep"
