"""Whether it pays to keep what a teacher says about each view: decided from what asking and reading cost on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from kdedge.artifact import PreparedData, TeacherFiles, TextEncoder
from kdedge.data import open_examples
from kdedge.data.encode import encode
from kdedge.distill.answers import Answers, AnswerWriter
from kdedge.distill.batches import Batch, ahead
from kdedge.distill.cache import CHUNK, answers_about, chunks
from kdedge.distill.ensemble import Teacher
from kdedge.distill.room import asked_once, decided, refused, why_not_kept
from kdedge.distill.seeding import reproducible
from kdedge.distill.spec import TrainingSpec, wanted_of_all
from kdedge.recipe import CacheSection
from kdedge.trained import CacheChoice

TOOLS = ("torch",)
# Enough that the fastest of them is the teacher's time and not that of what else the machine does.
_CHUNKS = 3
_WARM = 16
_ENOUGH = 2.0  # seconds
_READS = 5
# At how many moments of an epoch it is looked whether a loss needs the teacher.
_MOMENTS = 8
# Texts whose answers are compared under two paddings, tokens more of padding, and the largest difference that rounding explains, relative to
# the largest answer.
_TEXTS, _MORE, _ROUNDING = 8, 16, 1e-3


def choose(teacher: TeacherFiles, training: TrainingSpec, data: PreparedData, *, folder: Path) -> CacheChoice:
    """Stage, a measurement: ask the teacher about a few chunks of examples, read its answers back, and compare what the whole run would cost.

    Live: epochs * examples answers. Kept: views * examples answers, and epochs * examples to read. `cache.use` of the section decides before
    the figures do.

    Raises:
        RecipeError: `cache.use` is `always`, and the answers cannot be kept.
        TrainingError: the teacher does not fit the data, or answers what is no number.
        ModelError: the teacher cannot be run.
    """
    section, wanted = training.section, wanted_of_all(training.terms)
    cache: CacheSection = getattr(section, "cache", CacheSection())
    views = training.views
    if (already := decided(views, cache, section.epochs)) is not None:
        return already
    assert views is not None
    if reason := why_not_kept(wanted, [member.encoder for member in teacher.members]):
        return refused(reason, cache)
    asked = asked_epochs(training)
    if once := asked_once(views, cache.use, asked):
        return CacheChoice(False, f"{once} ({asked} of {section.epochs} epochs ask the teacher)")
    guide = Teacher(teacher, data.task.load().logits, wanted)
    guide.check(data)
    guide.move(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    with reproducible():
        if reason := depends_on_padding(guide, wanted, data):
            return refused(reason, cache)
        teacher_seconds, answers = _time_asking(guide, wanted, training, data)
        read_seconds, row_bytes = _time_reading(answers, cache.top_k, len(data.classes), section.batch_size, folder)
    size = data.splits["train"].size
    live, kept = asked * size * teacher_seconds, views * size * teacher_seconds + asked * size * read_seconds
    said = f"{views} views" if views > 1 else "the only view"
    pays = f"asking the teacher in {asked} epochs takes about {_time(live)}, asking it about {said} and reading its answers back {_time(kept)}"
    use = cache.use == "always" or kept < live
    reason = f"cache.use is `always`; {pays}" if cache.use == "always" else pays
    return CacheChoice(use, reason, teacher_seconds * 1e3, read_seconds * 1e3, size * row_bytes, asked)


def own_answers(teacher: TeacherFiles, wanted: tuple[str, ...], data: PreparedData, *, folder: Path) -> str:
    """Stage: why what the teacher says about an example is not that example's own, so that it cannot be kept; empty where it can.

    Raises:
        TrainingError: the teacher does not fit the data, or answers what is no number.
        ModelError: the teacher cannot be run.
    """
    guide = Teacher(teacher, data.task.load().logits, wanted)
    guide.check(data)
    with reproducible():
        return depends_on_padding(guide, wanted, data)


def asked_epochs(training: TrainingSpec) -> int:
    """In how many epochs a loss that compares with the teacher counts at all."""
    epochs, terms = training.section.epochs, [term for term in training.terms if term.needs_teacher]
    moments = [[(epoch + part / _MOMENTS) / epochs for part in range(_MOMENTS)] for epoch in range(epochs)]
    return sum(any(term.active(moment) for term in terms for moment in each) for each in moments)


def depends_on_padding(guide: Teacher, wanted: tuple[str, ...], data: PreparedData) -> str:
    """Why answers about texts are not the texts' own (in a step they are padded to the longest of their batch, and kept ones were among others), or
    "".

    Raises:
        TrainingError: an answer is no finite number.
    """
    encoders = tuple(dict.fromkeys(guide.encoders))
    texts = [encoder for encoder in encoders if isinstance(encoder, TextEncoder)]
    if not texts:
        return ""
    examples = open_examples(data.splits["train"])
    # The shortest ones: no model takes more tokens than its `max_length`, so that only these surely have room for padding.
    order = np.argsort(examples.sizes, kind="stable") if examples.sizes is not None else np.arange(len(examples))
    samples = order[:_TEXTS].astype(np.int64)
    raw = examples.raw(samples)
    found = []
    for more in (0, _MORE):
        inputs = tuple(encode(encoder, raw, _longest(encoder, raw, more) if encoder in texts else None) for encoder in encoders)
        found.append(answers_about(Batch(inputs, np.zeros(len(samples), np.int64), samples), guide, wanted))
    for name, plain in found[0].items():
        padded = found[1][name]
        if plain.shape != padded.shape or np.abs(plain - padded).max() > _ROUNDING * max(np.abs(plain).max(), 1e-6):
            return f"what the teacher says about a text (`{name}`) depends on how long the other texts of the batch are"
    return ""


def _longest(encoder: TextEncoder, raw: Any, more: int) -> int:
    return min(int(encode(encoder, raw)[encoder.input_names[0]].shape[1]) + more, encoder.max_length)


def _time_asking(guide: Teacher, wanted: tuple[str, ...], training: TrainingSpec, data: PreparedData) -> tuple[float, Mapping[str, npt.NDArray[Any]]]:
    """Seconds an example, and the answers about a chunk."""
    examples = open_examples(data.splits["train"])
    shown = training.shown(training.section.seed or 0)
    batches = ahead(chunks(examples, data.task.load(), guide.encoders, shown, 0, _CHUNKS * CHUNK))
    seconds: list[float] = []
    spent = 0.0
    with closing(batches):
        for batch in batches:
            if not seconds:
                answers_about(batch.first(_WARM), guide, wanted)  # what a teacher does once, it does here
            taken, answers = _timed(partial(answers_about, batch, guide, wanted))
            seconds.append(taken / len(batch.samples))
            spent += taken
            if spent > _ENOUGH:
                break
    return min(seconds), answers


def _time_reading(answers: Mapping[str, npt.NDArray[Any]], top_k: int | None, classes: int, batch_size: int, folder: Path) -> tuple[float, int]:
    """Seconds to read an answer back, and how many bytes it takes. The files are in memory, as those of a run are after its first epochs."""
    count = len(next(iter(answers.values())))
    files = _written(answers, count, top_k, folder)
    known = Answers(files, count, classes)
    places = np.random.RandomState(0).randint(0, count, batch_size).astype(np.int64)
    seconds = [_timed(lambda: [torch.tensor(known.rows(name, places)) for name in answers])[0] for _ in range(_READS)]
    size = sum(path.stat().st_size for path in files.values())
    for path in files.values():
        path.unlink()
    return min(seconds) / batch_size, -(-size // count)


def _written(answers: Mapping[str, npt.NDArray[Any]], count: int, top_k: int | None, folder: Path) -> dict[str, Path]:
    try:
        with AnswerWriter(folder, count, "float16", top_k) as writer:
            writer.add(answers)
    except OverflowError:
        with AnswerWriter(folder, count, "float32", top_k) as writer:
            writer.add(answers)
    return writer.files


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    found = work()
    return time.perf_counter() - started, found


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
