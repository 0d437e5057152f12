"""The student without a teacher learns from what is left, at the same cost."""

from __future__ import annotations

from typing import Any

import pytest
from distill_world import spec

from kdedge.distill.baseline import baseline
from kdedge.distill.contestants import check_compare, training_seeds, with_snapshots
from kdedge.distill.lessons import lessons
from kdedge.errors import RecipeError
from kdedge.recipe import DistillSection, Recipe

CE, KD = {"ce": 0.1}, {"kd": 9.0, "temperature": 2.0}
OWN = "distill_world:per_example"


def section(*losses: dict[str, Any], **more: Any) -> DistillSection:
    return DistillSection.model_validate({"losses": losses, **more})


def recipe(distill: dict[str, Any] | None, teacher: bool = True, baseline: bool = True) -> Recipe:
    content: dict[str, Any] = {
        "name": "small",
        "task": "image-classification",
        "data": {"train": "sklearn:digits", "test": "sklearn:digits"},
        "student": {"model": "distill_world:tiny"},
        "compare": {"seeds": 2, "baseline": baseline},
    }
    content |= {"distill": distill} if distill is not None else {}
    content |= {"teacher": {"model": "kdedge:cnn", "train": {"epochs": 1}}} if teacher else {}
    return Recipe.model_validate(content)


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ([CE, KD], [{"ce": 1.0}]),
        ([KD], [{"ce": 1.0}]),
        ([{"ce": 3.0}, {OWN: 1.0}, KD], [{"ce": 0.75}, {OWN: 0.25}]),
        # 1 at first, then down to 0: half of it on average; it counts from the first step to the last.
        ([{"ce": {0: 1.0, 1: 0.0}}, KD], [{"ce": 1.0}]),
        ([{"ce": {0: 1.0, 1: 0.0}}, {OWN: 1.0, "start": 0.5}, KD], [{"ce": 0.5}, {OWN: 0.5}]),
        ([{"ce": 0.0}, {OWN: 2.0}], [{OWN: 1.0}]),
        ([{"ce": 1.0}, {"mutual": 1.0}], [{"ce": 1.0}]),
    ],
)
def test_losses_that_compare_with_nobody_are_left_and_sum_to_one(given: list[dict[str, Any]], left: list[dict[str, Any]]) -> None:
    assert list(baseline(section(*given)).losses) == left


def test_everything_that_costs_stays_as_it_was() -> None:
    given = section(CE, KD, epochs=7, batch_size=32, optimizer={"lr": 0.3}, schedule="multistep", views=3, ema=0.9, accumulate=2, seed=5)
    left = baseline(given)
    same = set(DistillSection.model_fields) - {"losses"}
    assert {name: getattr(left, name) for name in same} == {name: getattr(given, name) for name in same}


def test_stages_stay_with_their_own_epochs_and_what_is_left_of_their_losses() -> None:
    given = section(CE, KD, epochs=4, stages=[{"epochs": 2, "losses": [{"ce": 2.0}]}, {"losses": [KD], "optimizer": {"lr": 0.01}}, {}])
    course = lessons(baseline(given), spec(), has_teacher=False, augment=(), seed=0)
    assert [lesson.training.section.epochs for lesson in course] == [2, 4, 4]
    assert [[(term.name, term.weight.at(0.0)) for term in lesson.training.terms] for lesson in course] == [[("ce", 1.0)]] * 3
    assert course[1].training.section.optimizer.lr == 0.01


def test_nobody_is_left_to_learn_from() -> None:
    given = section({"hard": 1.0}, learn_from="unlabelled", mixup=True, generations={"count": 2})
    (lesson,) = lessons(baseline(given), spec(), has_teacher=False, augment=(), seed=0)
    assert (lesson.learn_from, lesson.training.mixup, lesson.taught_by) == ("train", False, None)


def test_seeds_follow_each_other_and_generations_keep_apart() -> None:
    assert training_seeds(section(CE, KD), 7, 3) == (7, 8, 9)
    assert training_seeds(section(CE, KD, seed=3), 7, 3) == (3, 4, 5)
    given = section(CE, KD, generations={"count": 2})
    starts = training_seeds(given, 0, 3)
    taken = [
        lesson.training.section.seed
        for start in starts
        for lesson in lessons(given.model_copy(update={"seed": start}), spec(), has_teacher=True, augment=(), seed=0)
    ]
    assert taken == [0, 1, 2, 3, 4, 5]


def test_the_views_stay_those_of_the_recipe_whatever_the_training_seed() -> None:
    shown = {
        lesson.training.shown(11)
        for seed in (0, 1, 2)
        for lesson in lessons(section(CE, KD, seed=seed), spec(), has_teacher=True, augment=("flip",), seed=11)
    }
    assert {each.seed for each in shown} == {11}


def test_only_the_student_itself_is_kept_after_each_epoch() -> None:
    given = section(CE, KD, stages=[{"epochs": 1}, {"epochs": 2}])
    course = with_snapshots(lessons(given, spec(), assistants=[spec(width=8)], has_teacher=True, augment=(), seed=0), given)
    assert [lesson.training.snapshots for lesson in course] == [False, False, True, True]


@pytest.mark.parametrize(
    ("distill", "teacher", "words"),
    [(None, True, "compare: the recipe trains no student"), ({"losses": [CE]}, False, "it is its own baseline: set compare.baseline: false")],
)
def test_a_comparison_of_nothing_is_refused(distill: dict[str, Any] | None, teacher: bool, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        check_compare(recipe(distill, teacher))


def test_what_can_be_compared_is_not_refused() -> None:
    check_compare(recipe({"losses": [CE, KD]}))
    check_compare(recipe({"losses": [CE]}, teacher=False, baseline=False))
    check_compare(recipe({"losses": [CE, KD], "generations": {"count": 2}}, teacher=False))
