"""The search for losses: each trial trains a student on one part of the training data and is scored on the other. Test data is not here."""

from __future__ import annotations

import base64
import json
import tempfile
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdedge import progress, ranks
from kdedge.artifact import PreparedData, SplitSource
from kdedge.data import open_examples
from kdedge.data.encode import encode
from kdedge.data.examples import places_in_split
from kdedge.distill import study as names
from kdedge.distill.acceleration import accelerated
from kdedge.distill.cache import Remembered
from kdedge.distill.candidates import Entries, written
from kdedge.distill.ensemble import Teacher
from kdedge.distill.guide import Guide
from kdedge.distill.loop import train
from kdedge.distill.study import FrozenTrial, Place, Study, TrialState, UpdateFinishedTrialError, importances
from kdedge.distill.terms import terms_of
from kdedge.distill.tuning import Outcome, Search, TrialRecord, Tuning
from kdedge.errors import Diverged, TrainingError
from kdedge.fidelity.scoring import task_scores
from kdedge.intervals import mean_estimate, paired_difference
from kdedge.models.load import build
from kdedge.models.spec import ModelSpec
from kdedge.tasks.prepare import grouped

Float64 = npt.NDArray[np.float64]

_BATCH = 256


class _GivenUp(Exception):
    """Ends the training of a trial that others are better than."""


def search(what: Search, storage: str) -> Tuning:
    """Take trials until `what.trials` of the study in `storage` are done or at work, in this process and in others that do the same.

    Trials that are there already count. A trial that others are better than after a quarter or half of its epochs is given up; the recipe's
    own losses and the published ones come first and run to their end, so that what is found is never worse than they are on the held-out
    part. All trials begin with the same weights and see the same batches. Ctrl-C ends the search with what was found so far.

    Raises:
        WorkspaceError: the storage cannot be used.
        TrainingError, ModelError: the student cannot be trained whatever its losses are.
    """
    if ranks.processes() > 1:
        raise TrainingError("a search trains one student a process: start `kdedge tune` several times with one --storage, not by torchrun")
    study = Study(storage, what.recipe, what.about, what.space, what.training.section.epochs, what.seed)
    task = what.data.task.load()
    guide = _guide(what)
    score = HeldOut(what.student, what.data, what.held_out)
    added, interrupted = 0, False
    try:
        while (place := study.take(what.trials, what.space.first(what.own))) is not None:
            added += _try(place, study, what, guide, score)
    except KeyboardInterrupt:
        interrupted = True
        progress.message("interrupted: what was found so far is kept; the same command goes on")
    found = Tuning(
        recipe=what.recipe,
        metric=task.metric,
        study=study.name,
        storage=study.storage,
        total=what.trials,
        added=added,
        epochs=what.training.section.epochs,
        views=what.training.views,
        learned_from=what.data.splits["train"].size,
        held_out=what.held_out.size,
        trials=(),
        interrupted=interrupted,
    )
    return _judged(found, study, what.own)


def _try(place: Place, study: Study, what: Search, guide: Guide, score: HeldOut) -> int:
    """One trial; 1 if it counts, 0 if another process has declared it dead in the meantime."""
    started = time.monotonic()
    section = what.training.section.model_copy(update={"losses": place.losses})
    training = replace(what.training, section=section, terms=terms_of(section, True))
    last: list[Float64] = []

    def told(epoch: int, state: dict[str, Tensor]) -> None:
        last[:] = [score.of(state)]
        value = float(last[0].mean())
        if not study.report(place, epoch, value):
            raise _GivenUp(f"{value:.4g} after {epoch} of {section.epochs} epochs: the better half had more")

    try:
        with study.alive(place), tempfile.TemporaryDirectory(prefix="kdedge-trial-") as name, accelerated(section.precision) as accelerator:
            score.device, folder = accelerator.device, Path(name)
            train(
                accelerator, what.student, training, what.data, what.seed, folder=folder, what="trial", guide=guide, after_epoch=told, smoothed=True
            )
        study.finish(place, float(last[0].mean()), packed(last[0]), time.monotonic() - started)
        said = f"{last[0].mean():.4g}"
    except (_GivenUp, Diverged) as error:
        said = f"given up: {error}" if isinstance(error, _GivenUp) else f"diverged: {error}"
        study.give_up(place, said, time.monotonic() - started)
    except UpdateFinishedTrialError:
        progress.message(f"trial {place.trial.number}: another process took this one for dead; it is left to that one")
        return 0
    except BaseException:  # also Ctrl-C: whoever comes next begins this trial anew
        study.give_back(place)
        raise
    progress.message(f"trial {place.trial.number} ({place.origin}) {written(place.losses)}: {said}")
    return 1


def _guide(what: Search) -> Guide:
    if what.cache:
        part = open_examples(what.data.splits["train"])
        places = places_in_split(part, np.arange(len(part), dtype=np.int64))
        return Remembered(what.cache, what.teacher, what.wanted, what.whole, what.training.shown(what.seed), places)
    return Teacher(what.teacher, what.data.task.load().logits, what.wanted)


class HeldOut:
    """Scores a student on the part of the training data that it does not learn from, in float32."""

    def __init__(self, student: ModelSpec, data: PreparedData, held_out: SplitSource) -> None:
        self.device = torch.device("cpu")
        self._model = build(student).float().eval()
        self._spec, self._task = student, data.task.load()
        self._examples = open_examples(held_out)
        self._groups = grouped(student.encoder, self._examples)

    def of(self, state: dict[str, Tensor]) -> Float64:
        """The task's metric of each held-out example, for a student with these weights."""
        self._model.load_state_dict(state)
        self._model.to(self.device)
        found: dict[str, npt.NDArray[Any]] = {}
        with torch.inference_mode():
            for places, length in self._groups:
                for start in range(0, len(places), _BATCH):
                    chosen = places[start : start + _BATCH]
                    inputs = encode(self._spec.encoder, self._examples.raw(chosen), length)
                    outputs = self._model(*(torch.from_numpy(inputs[spec.name]).to(self.device) for spec in self._spec.inputs))
                    for name, value in outputs.items():
                        rows = value.float().cpu().numpy()
                        found.setdefault(name, np.empty((len(self._examples), *rows.shape[1:]), rows.dtype))[chosen] = rows
        return task_scores(self._task, found, self._examples.labels)


# ---- what was found


def _judged(found: Tuning, study: Study, own: Entries) -> Tuning:
    """The search with its trials, and the best of them against the recipe's own losses."""
    frozen = {trial.number: trial for trial in study.trials() if trial.state not in (TrialState.FAIL, TrialState.WAITING)}
    trials = tuple(_record(trial) for _, trial in sorted(frozen.items()))
    complete = [trial for trial in trials if trial.outcome == "complete" and trial.value is not None]
    best = max(complete, key=lambda trial: (trial.value or 0.0, -trial.number), default=None)
    # As the storage holds them: JSON knows no difference between 4 and 4.0, but Python's equality does not care either.
    mine = next((trial for trial in complete if trial.losses == tuple(json.loads(json.dumps(own)))), None)
    found = found.having(trials=trials, best=best, own=mine, importances=importances(study))
    if best is None:
        return found
    scores = unpacked(frozen[best.number].user_attrs[names.SCORES])
    found = found.having(best_score=mean_estimate(found.metric, scores))
    if mine is None:
        return found
    baseline = unpacked(frozen[mine.number].user_attrs[names.SCORES])
    difference = paired_difference(found.metric, scores, baseline)
    return found.having(own_score=mean_estimate(found.metric, baseline), difference=difference)


def _record(trial: FrozenTrial) -> TrialRecord:
    values = [trial.intermediate_values[epoch] for epoch in sorted(trial.intermediate_values)]
    reason = str(trial.user_attrs.get(names.REASON, ""))
    outcome: Outcome = "running"
    if trial.state == TrialState.COMPLETE:
        outcome = "complete"
    elif trial.state == TrialState.PRUNED:
        outcome = "diverged" if reason.startswith("diverged") else "pruned"
    return TrialRecord(
        number=trial.number,
        origin=str(trial.user_attrs.get(names.ORIGIN, "drawn")),
        losses=tuple(json.loads(trial.user_attrs.get(names.LOSSES, "[]"))),
        parameters=dict(trial.params),
        outcome=outcome,
        epochs=len(values),
        value=values[-1] if values else None,
        values=tuple(values),
        seconds=trial.user_attrs.get(names.SECONDS),
        reason=reason,
    )


def packed(scores: Float64) -> str:
    """One number an example as a short text that any storage keeps: bits where all are 0 or 1, else float32."""
    bits = bool(np.isin(scores, (0.0, 1.0)).all())
    content = np.packbits(scores.astype(bool)).tobytes() if bits else scores.astype(np.float32).tobytes()
    return f"{'bits' if bits else 'floats'} {scores.size} {base64.b85encode(zlib.compress(content, 9)).decode()}"


def unpacked(text: str) -> Float64:
    """The numbers that `packed` wrote."""
    kind, size, content = text.split(" ", 2)
    raw = zlib.decompress(base64.b85decode(content))
    if kind == "bits":
        return np.unpackbits(np.frombuffer(raw, np.uint8), count=int(size)).astype(np.float64)
    return np.frombuffer(raw, np.float32).astype(np.float64)
