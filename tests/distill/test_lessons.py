"""A `distill` section as a list of lessons: which, in which order, taught by whom, and what does not go together."""

from __future__ import annotations

from typing import Any

import pytest
from distill_world import spec

from kdedge.distill.lessons import Lesson, check_inside, check_lessons, check_views, lessons, splits_mixed
from kdedge.distill.terms import training_spec
from kdedge.errors import RecipeError
from kdedge.recipe import DistillSection, TeacherSection, TrainSection

CE, KD = {"ce": 1.0}, {"kd": 1.0}
MUTUAL = {"mutual": 1.0}
AT = {"at": 1000.0, "layers": ["conv"]}
CNN = {"model": "kdedge:cnn"}


def course(teacher: bool = True, **section: Any) -> tuple[Lesson, ...]:
    read = DistillSection.model_validate(section)
    assistants, peers = ([spec(width=6)] * len(models) for models in (read.assistants, read.peers))
    return lessons(read, spec(), assistants=assistants, peers=peers, has_teacher=teacher, augment=("flip",), seed=3)


def names(lesson: Lesson) -> list[str]:
    return [term.name for term in lesson.training.terms]


# ---- which lessons there are


def test_a_plain_section_is_one_lesson_by_the_recipes_teacher() -> None:
    (only,) = course(losses=[CE, KD])
    assert (only.label, only.continues, only.taught_by, only.learn_from, names(only)) == ("", False, (), "train", ["ce", "kd"])


def test_a_moment_without_a_loss_in_the_generation_that_has_no_teacher_is_told_as_that() -> None:
    section: dict[str, Any] = {"losses": ({"ce": {"0": 0.0, "0.5": 1.0}}, {"kd": 1.0}), "generations": {"count": 2}}
    course(**section)
    with pytest.raises(RecipeError, match=r"at 0 of the first generation, which has no teacher, no loss counts \(`ce`\)"):
        course(teacher=False, **section)


def test_stages_go_on_from_each_other_and_say_what_is_theirs_alone() -> None:
    first, second = course(epochs=7, losses=[CE], stages=[{"epochs": 2}, {"losses": [KD], "learn_from": "unlabelled", "mixup": True}])
    assert [(each.label, each.continues, each.learn_from) for each in (first, second)] == [
        ("stage 1", False, "train"),
        ("stage 2", True, "unlabelled"),
    ]
    assert [(each.training.section.epochs, names(each), each.training.mixup) for each in (first, second)] == [(2, ["ce"], False), (7, ["kd"], True)]


def test_each_assistant_is_taught_by_the_one_before() -> None:
    first, second, student = course(losses=[CE, KD], assistants=[CNN, CNN])
    assert [each.label for each in (first, second, student)] == ["assistant 1", "assistant 2", ""]
    assert [each.taught_by for each in (first, second, student)] == [(), (0,), (1,)]
    assert (first.model, student.model) == (spec(width=6), spec())


@pytest.mark.parametrize(("who", "taught_by"), [("last", [(), (0,), (1,)]), ("average", [(), (0,), (0, 1)])])
def test_each_generation_begins_anew_and_is_taught_by_those_before(who: str, taught_by: list[tuple[int, ...]]) -> None:
    found = course(losses=[CE, KD], generations={"count": 3, "teacher": who})
    assert [each.taught_by for each in found] == taught_by
    assert not any(each.continues for each in found)
    assert [each.training.section.seed for each in found] == [3, 4, 5]
    # The views stay, so that what is kept of a teacher serves again.
    assert {each.training.view_seed for each in found} == {3}


def test_without_a_teacher_the_first_generation_learns_from_labels_alone() -> None:
    first, second = course(teacher=False, losses=[CE, KD], generations={"count": 2})
    assert (first.taught_by, names(first)) == (None, ["ce"])
    assert (second.taught_by, names(second)) == ((0,), ["ce", "kd"])


def test_generations_of_stages_are_taught_by_the_last_stage_before() -> None:
    found = course(losses=[CE, KD], stages=[{"losses": [CE]}, {}], generations={"count": 2})
    assert [each.label for each in found] == ["generation 1 stage 1", "generation 1 stage 2", "generation 2 stage 1", "generation 2 stage 2"]
    assert [(each.continues, each.taught_by) for each in found] == [(False, ()), (True, ()), (False, (1,)), (True, (1,))]


def test_peers_learn_in_the_stages_that_look_at_them() -> None:
    alone, together = course(losses=[CE], peers=[CNN], stages=[{}, {"losses": [CE, MUTUAL]}])
    assert (alone.training.peers, together.training.peers) == ((), (spec(width=6),))


def test_the_splits_that_are_mixed_are_those_of_the_stages_that_mix() -> None:
    section = DistillSection.model_validate({"mixup": True, "stages": [{"mixup": False}, {"learn_from": "unlabelled"}]})
    assert splits_mixed(section) == ("unlabelled",)
    assert splits_mixed(DistillSection()) == ()


# ---- what does not go together


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"losses": [CE], "peers": [CNN]}, "distill.peers: no loss looks at the peers"),
        ({"losses": [CE, MUTUAL]}, "distill.peers: `mutual` compares a student with its peers, and there is none"),
        ({"losses": [CE, KD, MUTUAL], "peers": [CNN], "assistants": [CNN]}, "distill.peers: peers learn beside the student"),
        (
            {"losses": [KD, CE], "learn_from": "unlabelled"},
            "distill.losses[1]: `ce` looks at labels (label_losses), and unlabelled examples have none",
        ),
        ({"losses": [KD, {"crd": 1.0, "layers": ["conv"]}], "learn_from": "unlabelled"}, "distill.losses[1]: `crd` looks at labels (labels)"),
        ({"losses": [MUTUAL], "peers": [CNN], "learn_from": "unlabelled"}, "distill.losses[0]: `mutual` looks at labels (peer_label_losses)"),
        (
            {"losses": [KD, CE], "mixup": True},
            "distill.losses[1]: `ce` looks at labels (label_losses), and a mixture of two examples has no one label",
        ),
        ({"losses": [KD], "stages": [{}, {"losses": [CE], "mixup": True}]}, "distill.stages[1].losses[0]: `ce` looks at labels"),
        ({"losses": [CE], "stages": [{"learn_from": "unlabelled"}]}, "distill.losses[0]: `ce` looks at labels"),
        (
            {"losses": [CE, AT], "generations": {"count": 3, "teacher": "average"}},
            "distill.generations.teacher: `at` looks at layers of the teacher, and the average of several generations shows none",
        ),
        ({"losses": [CE], "stages": [{"losses": [{"kx": 1}]}]}, "distill.stages[0].losses[0].kx: unknown loss"),
    ],
)
def test_strategies_that_do_not_go_together_are_refused_by_their_key(section: dict[str, Any], sentence: str) -> None:
    read = DistillSection.model_validate(section)
    for check in (lambda: check_lessons(read, has_teacher=True), lambda: course(**section)):
        with pytest.raises(RecipeError) as refused:
            check()
        assert str(refused.value).startswith(sentence)


def test_layers_of_one_generation_can_be_looked_at() -> None:
    for generations in ({"count": 2, "teacher": "average"}, {"count": 3, "teacher": "last"}):
        assert course(losses=[CE, AT], generations=generations)


def test_layers_of_a_teacher_that_shows_none_are_refused_by_the_key_of_the_loss() -> None:
    one = TeacherSection.model_validate({**CNN, "train": {"epochs": 1}})
    graph = TeacherSection.model_validate({"model": "onnx:teacher.onnx"})
    stages = DistillSection.model_validate({"losses": [CE], "stages": [{}, {"losses": [KD, AT]}]})
    for teachers, kind in (((one, one), "several teachers show none"), ((graph,), "an ONNX file shows none")):
        with pytest.raises(RecipeError, match=rf"^distill\.stages\[1\]\.losses\[1\]: `at` looks at layers of the teacher, and {kind}"):
            check_inside(stages, teachers)
        check_inside(DistillSection.model_validate({"losses": [CE, KD]}), teachers)
    check_inside(stages, (one,))
    # Exits look at the student's own layers.
    check_inside(DistillSection.model_validate({"losses": [CE, {"byot": 1.0, "layers": ["a", "b"]}]}), (graph,))


def test_unlabelled_examples_and_a_stage_that_learns_from_them_need_each_other() -> None:
    learns = DistillSection.model_validate({"losses": [KD], "stages": [{}, {"learn_from": "unlabelled"}]})
    with pytest.raises(RecipeError, match=r"distill\.stages\[1\]\.learn_from: there are no unlabelled examples: name them as data\.unlabelled"):
        check_lessons(learns, has_teacher=True, has_unlabelled=False)
    check_lessons(learns, has_teacher=True, has_unlabelled=True)
    with pytest.raises(RecipeError, match=r"data\.unlabelled: nothing learns from these examples"):
        check_lessons(DistillSection(), has_teacher=True, has_unlabelled=True)
    check_lessons(DistillSection(), has_teacher=True, has_unlabelled=False)


def test_answers_about_views_that_are_new_in_each_epoch_cannot_always_be_kept() -> None:
    always = {"use": "always"}
    check_views(DistillSection.model_validate({"cache": always, "views": 3}), ("flip",))
    check_views(DistillSection.model_validate({"cache": always}), ())
    mixed = {"cache": always, "losses": [{"kd": 1.0}], "stages": [{}, {"mixup": True}]}
    for section, augment in (({"cache": always}, ("flip",)), (mixed, ())):
        with pytest.raises(RecipeError, match=r"^distill\.cache\.use: `always`, and without `views` .*: set distill\.views: N"):
            check_views(DistillSection.model_validate(section), augment)


def test_where_nothing_changes_an_example_it_has_one_view() -> None:
    def views(said: int | None, *augment: str, **section: Any) -> int | None:
        read = DistillSection.model_validate({"views": said, "losses": [KD], **section})
        return lessons(read, spec(), has_teacher=True, augment=augment, seed=0)[0].training.views

    for said in (None, 5):
        assert (views(said), views(said, "flip"), views(said, mixup=True)) == (1, said, said)


def test_a_teacher_has_no_peers() -> None:
    with pytest.raises(RecipeError, match=r"teacher\.train\.losses\[1\]: `mutual` looks at peers, and a teacher learns alone"):
        training_spec(TrainSection(losses=(CE, MUTUAL)), augment=())


@pytest.mark.parametrize("key", ["assistants", "peers"])
def test_a_model_that_cannot_be_trained_is_no_assistant_and_no_peer(key: str) -> None:
    with pytest.raises(ValueError, match=rf"{key}\[1\]: an ONNX file cannot be trained"):
        DistillSection.model_validate({key: [CNN, {"model": "onnx:a.onnx"}]})
