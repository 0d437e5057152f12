"""All checks of a recipe in their order. Only training data is opened here."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdedge import progress
from kdedge.artifact import PreparedData, TeacherFiles
from kdedge.data import open_examples
from kdedge.data.encode import encode
from kdedge.distill.cache_choice import asked_epochs, depends_on_padding
from kdedge.distill.doctor import Diagnosis, Finding, Layer, by_urgency
from kdedge.distill.doctor.cache_state import CachePlan, cache_state
from kdedge.distill.doctor.case import Case
from kdedge.distill.doctor.class_counts import class_balance, class_counts
from kdedge.distill.doctor.first_step import FirstStep
from kdedge.distill.doctor.gradient_flow import gradient_flow, teacher_steadiness
from kdedge.distill.doctor.probing import Probe, Sample, member, size_of_student, size_of_teacher
from kdedge.distill.doctor.sharpness import sharpness
from kdedge.distill.doctor.size_of_models import size_of_models
from kdedge.distill.doctor.tapping import layer_pairs, layers_of
from kdedge.distill.doctor.teacher_accuracy import TRUSTED, accuracy, augmented_accuracy, explanation
from kdedge.distill.doctor.term_balance import term_balance
from kdedge.distill.doctor.trials import remedy, trials
from kdedge.distill.ensemble import Teacher
from kdedge.distill.fingerprint import fingerprint
from kdedge.distill.lessons import Lesson
from kdedge.distill.rehearsal import stand_in
from kdedge.distill.room import refused, why_not_kept
from kdedge.distill.seeding import derived, reproducible, seed_everything
from kdedge.distill.spec import Shown, wanted_of_all
from kdedge.distill.warm_up import long_warm_ups
from kdedge.errors import KdedgeError
from kdedge.models.given import take
from kdedge.models.load import build, load
from kdedge.models.spec import ModelSpec, spec_of
from kdedge.recipe import CacheSection
from kdedge.workspace import Workspace

# Examples that a bad model is asked about once for each known fault.
_TRIED = 64


def examine(case: Case, workspace: Workspace, *, taps: bool = False) -> Diagnosis:
    """Find what would waste the run of a recipe, in seconds. Nothing is trained. `taps`: list the layers of student and teacher too.

    What cannot be examined because a model fails is a finding as well.
    """
    started = time.monotonic()
    with reproducible(), ExitStack() as stack:
        room = _Room(case, workspace, Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kdedge-doctor-"))))
        findings = by_urgency(room.findings())
        layers = dict(room.layers()) if taps else {}
    return Diagnosis(case.recipe, findings, time.monotonic() - started, layers)


class _Room:
    def __init__(self, case: Case, workspace: Workspace, folder: Path) -> None:
        self.case, self.workspace, self.folder = case, workspace, folder
        self.training = case.data.learning("train")
        self.probe: Probe | None = None

    def findings(self) -> Iterator[Finding]:
        case = self.case
        yield class_balance(open_examples(self.training.splits["train"]).labels, case.data.classes)
        yield from self._teacher()
        for said in long_warm_ups(case.teachers, case.lessons):
            yield Finding("warning", "warm-up", said, "make `warmup_epochs` smaller than `epochs`")
        yield from _attempted("student", self._student)
        seen: set[str] = set()
        for place, lesson in enumerate(case.lessons):
            goes_on = any(later.continues for later in case.lessons[place + 1 : place + 2])
            # Generations repeat one lesson with other seeds; one that is taught by one net and one that is taught by several say it all.
            kind = repr((lesson.model, lesson.training.terms, min(len(lesson.taught_by or ()), 2), lesson.learn_from, goes_on))
            if kind not in seen:
                seen.add(kind)
                yield from self._lesson(lesson, goes_on)

    # ---- the teacher

    def _teacher(self) -> Iterator[Finding]:
        case = self.case
        if case.refused:
            yield Finding("error", "teacher", case.refused, "nothing that needs the teacher was looked at")
        elif case.teacher is not None:
            yield from _attempted("teacher", self._teacher_answers)
        elif case.teachers:
            yield Finding(
                "note",
                "teacher",
                "the recipe trains its teacher, and the workspace does not hold it yet: its accuracy, its sharpness, the scale of the losses and the "
                "cache were not looked at",
                "ask again once it is trained (`kdedge distill RECIPE` trains it first)",
            )

    def _teacher_answers(self) -> Iterator[Finding]:
        case = self.case
        assert case.teacher is not None
        self.probe = Probe(case.teacher, self.training)
        sample = self.probe.sample(case.seed)
        shown = self._shown()
        plain = self.probe.logits(sample)
        augmented = self.probe.logits(sample, shown) if case.augment else plain
        for place in range(len(case.teacher.members)):
            one = len(case.teacher.members) == 1
            alone = self.probe if one else Probe(member(case.teacher, place), self.training)
            answers = plain if one else alone.logits(sample)
            yield from self._answers("teacher" if one else f"teacher[{place}]", alone, answers, case.teachers[place].model, sample)
        if case.augment:
            right = plain.argmax(1).numpy() == sample.labels
            yield augmented_accuracy("teacher", right, augmented.argmax(1).numpy() == sample.labels, case.augment)
        terms = [term for lesson in case.lessons if lesson.taught_by == () for term in lesson.training.terms]
        yield sharpness(augmented.double().numpy(), terms)

    def _answers(self, whose: str, probe: Probe, answers: Tensor, spec: ModelSpec, sample: Sample) -> Iterator[Finding]:
        labels, classes = sample.labels, self.case.data.classes
        right = answers.argmax(1).numpy() == labels
        majority = float(np.bincount(open_examples(self.training.splits["train"]).labels).max() / self.training.splits["train"].size)
        if right.mean() >= TRUSTED:
            yield accuracy(whose, right, majority)
            return
        progress.message(f"the {whose} is right on {100 * right.mean():.1f} % of {len(right)} training examples; looking for the reason")
        few = sample.first(max(_TRIED, min(len(labels), 8 * len(classes))))
        tried = trials(probe.ask(), classes, spec.normalize, self.case.data.statistics, probe.inputs(few), few.labels, probe.files.members[0].encoder)
        cause = explanation(tried)
        yield accuracy(whose, right, majority, tried, remedy(cause, whose, classes) if cause is not None else "")

    def _shown(self) -> Shown:
        found = self.case.lessons[0].training.shown(self.case.seed) if self.case.lessons else Shown(self.case.augment, self.case.seed)
        return replace(found, mixup=False)

    # ---- the student

    def _student(self) -> Iterator[Finding]:
        case = self.case
        if not case.lessons:
            files = take(case.student, self.training, folder=self._new_folder("student"))
            probe = Probe(TeacherFiles((files,), (1.0,)), self.training)
            sample = probe.sample(case.seed)
            yield from self._answers("student", probe, probe.logits(sample), case.student, sample)
            return
        seed_everything(derived(case.seed, "doctor"))
        model = build(case.student).eval()
        few = Sample(np.arange(min(16, self.training.splits["train"].size)), np.zeros(0, np.int64))
        inputs = {spec.encoder: _inputs(self.training, spec, few) for spec in (case.student, *(each.model for each in case.teachers))}
        given = [inputs[case.student.encoder][each.name] for each in case.student.inputs]
        counts = {"the student": int(model(*given)["logits"].shape[1])}
        if self.probe is not None:
            counts["the teacher"] = int(self.probe.logits(few).shape[1])
        yield class_counts(counts, case.data.classes)
        if self.probe is not None:
            teacher = size_of_teacher(self.probe.files, self.probe.milliseconds(few), inputs)
            born_again = any(lesson.label.startswith("generation") for lesson in case.lessons)
            yield size_of_models(size_of_student(model, case.student, inputs[case.student.encoder]), teacher, same_kind=born_again)

    # ---- the lessons

    def _lesson(self, lesson: Lesson, goes_on: bool) -> Iterator[Finding]:
        found = list(_attempted("first step", lambda: self._first_step(lesson, goes_on)))
        yield from (replace(each, check=f"{each.check} ({lesson.label})") for each in found) if lesson.label else found

    def _first_step(self, lesson: Lesson, goes_on: bool) -> Iterator[Finding]:
        case, training = self.case, lesson.training
        wanted = wanted_of_all(training.terms)
        if wanted and lesson.taught_by == () and case.refused:
            return
        data = case.data.learning(lesson.learn_from)
        files = self._taught_by(lesson) if wanted else None
        known = files is None or files is case.teacher
        guide = Teacher(files, data.task.load().logits, wanted) if files is not None else None
        step = FirstStep(lesson.model, training, data, guide, case.seed)
        if any(term.layers for term in training.terms):
            yield from _attempted("layers", lambda: [layer_pairs(step.pairs(), self._shapes(lesson, files))])
        yield from _attempted("gradients", lambda: [gradient_flow(step.flows(), goes_on=goes_on)])
        if guide is not None:
            yield from _attempted("teacher mode", lambda: [teacher_steadiness(step.steadiness())])
        if not known and lesson.taught_by:
            yield Finding(
                "note", "terms", "the teacher of this lesson is a student that is not trained yet: the scale of its losses was not looked at"
            )
        if known and lesson.continues:
            yield Finding("note", "terms", "this stage goes on from weights that are not trained yet: the scale of its losses was not looked at")
        elif known:
            yield from _attempted("terms", lambda: [term_balance(step.scales())])
        if files is not None and guide is not None and known:
            yield from _attempted("cache", lambda: [self._cache(lesson, files, guide, data)])

    def _taught_by(self, lesson: Lesson) -> TeacherFiles | None:
        """The teacher of a lesson; one that is not trained yet is stood in for by the same model with fresh weights, which has the same layers."""
        case = self.case
        if lesson.taught_by is None:
            return None
        if not lesson.taught_by:
            return case.teacher or self._untrained([each.model for each in case.teachers])
        return self._untrained([case.lessons[place].model for place in lesson.taught_by])

    def _untrained(self, specs: Sequence[ModelSpec]) -> TeacherFiles:
        return stand_in(specs, self.training, self.case.seed, self._new_folder("stand-in"))

    def _shapes(self, lesson: Lesson, files: TeacherFiles | None) -> dict[str, dict[str, tuple[int, ...]]]:
        shapes = {"student": _by_name(layers_of(build(lesson.model), lesson.model))}
        if files is not None and len(files.members) == 1 and files.members[0].onnx is None:
            shapes["teacher"] = _by_name(layers_of(load(files.members[0]), spec_of(files.members[0])))
        return shapes

    def _cache(self, lesson: Lesson, files: TeacherFiles, guide: Teacher, data: PreparedData) -> Finding:
        wanted = wanted_of_all(lesson.training.terms)
        section, shown = lesson.training.section, lesson.training.shown(self.case.seed)
        cache: CacheSection = getattr(section, "cache", CacheSection())
        views = range(min(lesson.training.views or 0, section.epochs))
        expected = {view: fingerprint(files, wanted, data, shown, view) for view in views}
        if unkept := why_not_kept(wanted, guide.encoders) or depends_on_padding(guide, wanted, data):
            refused(unkept, cache)  # where it must be kept, a run would end with this
        plan = CachePlan(lesson.training.views, cache.use, expected, asked_epochs(lesson.training), unkept)
        fill = "kdedge.distill.cache:fill"
        read = [view for view in views if self.workspace.kept(fill, files, wanted, data, shown, view, cache.top_k) is not None]
        return cache_state(plan, list(_kept_answers(self.workspace.root)), read)

    # ---- layers

    def layers(self) -> Iterator[tuple[str, tuple[Layer, ...]]]:
        """The layers of the student and of each torch teacher."""
        case = self.case
        if case.student.onnx is None:
            yield "student", layers_of(build(case.student), case.student)
        for place, spec in enumerate(each.model for each in case.teachers):
            if spec.onnx is None:
                # Weights make no difference to shapes, and given ones may not fit.
                bare = replace(spec, weights=None)
                yield "teacher" if len(case.teachers) == 1 else f"teacher[{place}]", layers_of(build(bare), bare)

    def _new_folder(self, name: str) -> Path:
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))


def _attempted(check: str, look: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """What `look` finds; where it cannot look because something fails, a run would fail as well."""
    try:
        yield from look()
    except KdedgeError as error:
        yield Finding("error", check, str(error), "a run would end with this")


def _inputs(data: PreparedData, spec: ModelSpec, sample: Sample) -> dict[str, Tensor]:
    raw = open_examples(data.splits["train"]).raw(sample.places)
    return {name: torch.tensor(array) for name, array in encode(spec.encoder, raw).items()}


def _by_name(layers: Iterable[Layer]) -> dict[str, tuple[int, ...]]:
    return {layer.name: layer.shape for layer in layers}


def _kept_answers(root: Path) -> Iterator[dict[str, str]]:
    """What each cached view in a workspace is about."""
    for manifest in sorted(root.glob("stages/cache.fill-*/manifest.json")):
        try:
            about = json.loads(manifest.read_text())["about"]
        except (OSError, ValueError, LookupError, TypeError):
            continue  # damaged, or evicted meanwhile: a run makes it again
        yield {str(part): str(digest) for part, digest in about.items()}
