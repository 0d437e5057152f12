"""How a student learns, as a list of plain lessons: stages, assistants, generations. Each lesson is one training run. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdedge.distill.losses import LOSSES
from kdedge.distill.spec import LABELS, TermSpec, TrainingSpec, wanted_of
from kdedge.distill.terms import check_always, terms_of
from kdedge.errors import RecipeError
from kdedge.models.spec import ModelSpec
from kdedge.recipe import DistillSection, StageSection, TeacherSection


@dataclass(frozen=True)
class Lesson:
    """One training run. `continues`: it goes on from the weights of the lesson before. `taught_by`: the lessons (by their place) whose students
    are its teacher; empty for the recipe's teacher, None for nobody. `learn_from`: the split of the data that it sees."""

    label: str
    model: ModelSpec
    training: TrainingSpec
    continues: bool = False
    taught_by: tuple[int, ...] | None = ()
    learn_from: str = "train"


def lessons(
    section: DistillSection,
    student: ModelSpec,
    *,
    assistants: Sequence[ModelSpec] = (),
    peers: Sequence[ModelSpec] = (),
    has_teacher: bool,
    augment: tuple[str, ...],
    seed: int,
) -> tuple[Lesson, ...]:
    """The lessons of a `distill` section in their order; the last one ends in the student.

    Raises:
        RecipeError: losses that are wrong, or strategies that do not go together.
    """
    _check(section, has_teacher)
    base = section.seed if section.seed is not None else seed
    made: list[Lesson] = []
    teacher: tuple[int, ...] | None = () if has_teacher else None
    for number, assistant in enumerate(assistants):
        made += _stages(section, _Course(f"assistant {number + 1}", assistant, (), teacher, augment, base, seed))
        teacher = (len(made) - 1,)
    generations = section.generations.count if section.generations is not None else 1
    earlier: list[int] = []
    for generation in range(generations):
        label = f"generation {generation + 1}" if generations > 1 else ""
        # Born again: each generation begins from weights of its own.
        made += _stages(section, _Course(label, student, tuple(peers), teacher, augment, base + generation, seed, born_first=generations > 1))
        earlier.append(len(made) - 1)
        teacher = tuple(earlier) if section.generations is not None and section.generations.teacher == "average" else (earlier[-1],)
    return tuple(made)


def check_lessons(section: DistillSection, *, has_teacher: bool, has_unlabelled: bool | None = None) -> None:
    """Everything about the lessons that can be known before the data is read. `has_unlabelled`: whether the data section names unlabelled
    examples, where that is known.

    Raises:
        RecipeError: as `lessons`, or there are no unlabelled examples to learn from, or nothing learns from them.
    """
    _check(section, has_teacher)
    from_unlabelled = []
    for number, stage in enumerate(section.stages or (None,)):
        _terms(section, stage, number, has_teacher or section.generations is not None, alone=not has_teacher)
        if _seen_by(section, stage).learn_from == "unlabelled":
            from_unlabelled.append(_key_of(stage, number, "learn_from"))
    if from_unlabelled and has_unlabelled is False:
        raise RecipeError(f"{from_unlabelled[0]}: there are no unlabelled examples: name them as data.unlabelled")
    if has_unlabelled and not from_unlabelled:
        raise RecipeError("data.unlabelled: nothing learns from these examples: set distill.learn_from (or that of a stage) to unlabelled")


@dataclass(frozen=True)
class Rehearsal:
    """A lesson whose first step is taken before any training, and the models that teach it."""

    lesson: Lesson
    teachers: tuple[ModelSpec, ...]


def rehearsals_of(course: Sequence[Lesson], teachers: tuple[ModelSpec, ...]) -> tuple[Rehearsal, ...]:
    """The lessons of a course with losses that may find something else in the models than they look for, each kind once: losses that look at layers,
    that learn a part of their own, or that are the user's. `teachers`: the recipe's."""
    found: dict[str, Rehearsal] = {}
    for lesson in course:
        terms = lesson.training.terms
        if any(term.layers or term.learned is not None or term.name not in LOSSES for term in terms):
            taught_by = lesson.taught_by
            # One student that teaches shows layers, the average of several shows none: which ones they are makes no difference.
            models = tuple(course[place].model for place in taught_by[:2]) if taught_by else teachers if taught_by is not None else ()
            found.setdefault(repr((lesson.model, terms, models, lesson.learn_from)), Rehearsal(lesson, models))
    return tuple(found.values())


def check_inside(section: DistillSection, teachers: Sequence[TeacherSection]) -> None:
    """Refuse a loss that looks inside a teacher which shows no layers, before such a teacher is trained.

    Raises:
        RecipeError: it is an ensemble, or an ONNX file.
    """
    if len(teachers) > 1:
        closed = "several teachers show none"
    elif any(teacher.kind == "onnx" for teacher in teachers):
        closed = "an ONNX file shows none"
    else:
        return
    for number, stage in enumerate(section.stages or (None,)):
        for place, term in enumerate(_declared(section, stage, number, taught=True)):
            if _looks_inside(term):
                key = f"{_key_of(stage, number, 'losses')}[{place}]"
                raise RecipeError(f"{key}: `{term.name}` looks at layers of the teacher, and {closed}: take it out, or name one teacher of PyTorch")


def check_views(section: DistillSection, augment: Sequence[str]) -> None:
    """Refuse to keep always what a teacher says about views of which each epoch has new ones.

    Raises:
        RecipeError: it is asked for.
    """
    if section.cache.use == "always" and section.views is None and (augment or splits_mixed(section)):
        raise RecipeError(
            "distill.cache.use: `always`, and without `views` every epoch shows examples that the teacher has not seen: set distill.views: N"
        )


def splits_mixed(section: DistillSection) -> tuple[str, ...]:
    """The splits whose examples are mixed in pairs in some stage."""
    seen = [_seen_by(section, stage) for stage in section.stages or (None,)]
    return tuple(dict.fromkeys(each.learn_from for each in seen if each.mixup))


def merged(section: DistillSection, stage: StageSection) -> DistillSection:
    """The section as one of its stages sees it: what the stage says, else what the section says."""
    said = {name: getattr(stage, name) for name in stage.model_fields_set if getattr(stage, name) is not None}
    return section.model_copy(update={**said, "stages": ()})


def _seen_by(section: DistillSection, stage: StageSection | None) -> DistillSection:
    return section if stage is None else merged(section, stage)


def _check(section: DistillSection, has_teacher: bool) -> None:
    terms = [term for number, stage in enumerate(section.stages or (None,)) for term in _declared(section, stage, number, taught=True)]
    looks_at_peers = [term.name for term in terms if term.needs_peers]
    if section.peers and not looks_at_peers:
        raise RecipeError("distill.peers: no loss looks at the peers, so they would learn nothing: add `mutual: 1.0` to the losses, or remove them")
    if looks_at_peers and not section.peers:
        raise RecipeError(
            f"distill.peers: `{looks_at_peers[0]}` compares a student with its peers, and there is none: name models to learn beside it"
        )
    inside = [term.name for term in terms if _looks_inside(term)]
    if inside and section.generations is not None and section.generations.teacher == "average" and section.generations.count > 2:
        raise RecipeError(
            f"distill.generations.teacher: `{inside[0]}` looks at layers of the teacher, and the average of several generations shows none: take it "
            "out, or say `teacher: last`"
        )
    if section.peers and section.assistants:
        raise RecipeError("distill.peers: peers learn beside the student, and a chain of assistants has several students: choose one of both")
    if section.assistants and not has_teacher:
        raise RecipeError("distill.assistants: an assistant stands between a teacher and a student, and there is no teacher")
    if section.assistants and section.generations is not None:
        raise RecipeError(
            "distill.generations: born-again students are all of one kind; a chain of assistants ends in one student: choose one of both"
        )


def _looks_inside(term: TermSpec) -> bool:
    return any(":" in what for what in wanted_of(term))


@dataclass(frozen=True)
class _Course:
    label: str
    model: ModelSpec
    peers: tuple[ModelSpec, ...]
    teacher: tuple[int, ...] | None
    augment: tuple[str, ...]
    seed: int
    view_seed: int
    born_first: bool = False


def _stages(section: DistillSection, course: _Course) -> list[Lesson]:
    made = []
    for number, stage in enumerate(section.stages or (None,)):
        own = _seen_by(section, stage).model_copy(update={"seed": course.seed})
        terms = _terms(section, stage, number, course.teacher is not None or course.born_first, alone=course.teacher is None)
        # Where no loss looks at them, peers would cost a forward pass for nothing.
        peers = course.peers if any(term.needs_peers for term in terms) else ()
        training = TrainingSpec(own, terms, course.augment, course.view_seed, peers, own.mixup)
        label = " ".join(part for part in (course.label, f"stage {number + 1}" if section.stages else "") if part)
        made.append(Lesson(label, course.model, training, number > 0, course.teacher, own.learn_from))
    return made


def _terms(section: DistillSection, stage: StageSection | None, number: int, taught: bool, *, alone: bool) -> tuple[TermSpec, ...]:
    """The terms of one stage. `alone`: the first generation of all has nobody to learn from but the labels, so that these are left."""
    terms = _declared(section, stage, number, taught)
    left = tuple(term for term in terms if not (alone and term.needs_teacher))
    key = _key_of(stage, number, "losses")
    if not left:
        raise RecipeError(f"{key}: the first generation has no teacher, and every loss compares with one: add `ce`, or give the recipe a teacher")
    check_always(left, key, "the first generation, which has no teacher," if len(left) < len(terms) else "")
    return left


def _declared(section: DistillSection, stage: StageSection | None, number: int, taught: bool) -> tuple[TermSpec, ...]:
    own, key = _seen_by(section, stage), _key_of(stage, number, "losses")
    terms = terms_of(own, taught, key)
    _check_labels(own, terms, key)
    return terms


def _check_labels(section: DistillSection, terms: tuple[TermSpec, ...], key: str) -> None:
    """Refuse losses that look at labels where an example has none, or would have two."""
    for place, term in enumerate(terms):
        asked = [name for name in term.asked if name in LABELS]
        if asked and section.learn_from == "unlabelled":
            raise RecipeError(f"{key}[{place}]: `{term.name}` looks at labels ({', '.join(asked)}), and unlabelled examples have none: take it out")
        if asked and section.mixup:
            raise RecipeError(
                f"{key}[{place}]: `{term.name}` looks at labels ({', '.join(asked)}), and a mixture of two examples has no one label: take it out, "
                "or remove `mixup`"
            )


def _key_of(stage: StageSection | None, number: int, field: str) -> str:
    """Where the recipe says a field of a stage: in the stage, or for all stages."""
    return f"distill.{field}" if stage is None or getattr(stage, field) is None else f"distill.stages[{number}].{field}"
