"""A search that several processes on several machines share: an Optuna study, whose trials are places that each process takes one by one.

No process leads. Every rule is a function of the study's trials in the order of their numbers, which the storage gives out one at a time, so
that all processes come to the same conclusion without asking each other.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdedge import progress
from kdedge.distill.candidates import (
    ALPHA,
    ALPHAS,
    BETA,
    BETAS,
    LOSS,
    SEARCHED,
    STANDARDIZE,
    TEMPERATURE,
    TEMPERATURES,
    Candidate,
    Entries,
    Space,
    is_balanced,
    standardizes,
)
from kdedge.distill.seeding import derived
from kdedge.errors import MissingExtra, WorkspaceError

try:
    import optuna
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import FrozenTrial, TrialState
    from sqlalchemy import event
    from sqlalchemy.exc import SQLAlchemyError
except ModuleNotFoundError as missing:
    raise MissingExtra(missing.name or "optuna", "tune", "kdedge tune") from missing

__all__ = ["FrozenTrial", "Place", "Study", "TrialState", "UpdateFinishedTrialError", "importances"]

# What a trial's attributes are called in the storage.
LOSSES, ORIGIN, IN_SPACE, WORKER, BEAT, ATTEMPT, ABOUT, SCORES, SECONDS, REASON = (
    "losses",
    "origin",
    "in_space",
    "worker",
    "beat",
    "attempt",
    "about",
    "scores",
    "seconds",
    "reason",
)
# A trial that says nothing for so long (seconds) has died with its machine; on its own machine its process is looked up instead.
_BEAT, _GRACE = 15.0, 120.0
# A trial whose process died is done again once, with the same losses; if it dies again it is the losses that kill it.
_ATTEMPTS = 2
_PATIENCE = 60.0  # seconds for which a process waits for another one's write to an SQLite file
_STARTUP = 8  # trials before the sampler draws by what it learned; those that are tried first are among them
_REFUSED = (optuna.exceptions.StorageInternalError, SQLAlchemyError, OSError, ImportError, ValueError, RuntimeError)


@dataclass(frozen=True)
class Place:
    """A trial that this process has taken: its number, what it tries, and whether it runs to its end whatever the others do."""

    trial: optuna.Trial
    origin: str
    losses: Entries
    to_the_end: bool


class Study:
    """One search in a storage (any that Optuna takes as a URL, or `journal:FILE`).

    `about` says by digests what the figures of its trials depend on; it names the study, so that trials about something else are never mixed in.

    Raises, from every method:
        WorkspaceError: the storage cannot be opened, read or written.
    """

    def __init__(self, storage: str, recipe: str, about: Mapping[str, str], space: Space, epochs: int, seed: int) -> None:
        self.name = f"{recipe}-{derived_name(about)}"
        self.storage = shown(storage)
        self._space, self._epochs, self._seed = space, epochs, seed
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with self._explained("opened"):
            self._study = self._opened(storage, recipe, about)

    # ---- places

    def take(self, total: int, first: Sequence[Candidate]) -> Place | None:
        """The next trial for this process, or None where `total` trials are taken. What is tried `first` comes first; what a process that
        died had taken is done again."""
        with self._explained("read"):
            while True:
                self._give_back_dead()
                if self.taken() >= total:
                    return None
                self._enqueue(first[:total])
                trial = self._study.ask()
                if self._is_ours(trial, total):
                    return self._begun(trial)
                # Another process was faster: its trial has the smaller number.
                self._study.tell(trial.number, state=TrialState.FAIL)

    def taken(self) -> int:
        """How many trials are done or at work."""
        return sum(each.state not in (TrialState.FAIL, TrialState.WAITING) for each in self.trials())

    def trials(self) -> list[FrozenTrial]:
        """All trials by their numbers, also those that failed."""
        with self._explained("read"):
            return self._study.get_trials(deepcopy=False)

    def _is_ours(self, trial: optuna.Trial, total: int) -> bool:
        before = [each for each in self.trials() if each.number < trial.number and each.state != TrialState.FAIL]
        losses = trial.user_attrs.get(LOSSES)
        return len(before) < total and (losses is None or losses not in [each.user_attrs.get(LOSSES) for each in before])

    def _enqueue(self, first: Sequence[Candidate]) -> None:
        """Have candidates tried that no trial has; one that failed as often as may be is not tried again."""
        known = {
            each.user_attrs.get(LOSSES) for each in self.trials() if each.state != TrialState.FAIL or each.user_attrs.get(ATTEMPT, 0) >= _ATTEMPTS
        }
        for candidate in first:
            losses = json.dumps(candidate.losses)
            if losses not in known:
                about = {LOSSES: losses, ORIGIN: candidate.origin, IN_SPACE: bool(candidate.parameters), ATTEMPT: 0}
                self._study.enqueue_trial(candidate.parameters, about)

    def _begun(self, trial: optuna.Trial) -> Place:
        trial.set_user_attr(BEAT, time.time())
        trial.set_user_attr(WORKER, me())
        origin, losses = trial.user_attrs.get(ORIGIN, "drawn"), trial.user_attrs.get(LOSSES)
        # A sampler of its own for each place: what is drawn does not depend on how often the search was broken off before.
        place = sum(each.number < trial.number and each.state != TrialState.FAIL for each in self.trials())
        self._study.sampler = _sampler(derived(self._seed, "trial", place))
        # What the space has no numbers for is tried as it is, and teaches the sampler nothing.
        drawn = _draw(trial) if trial.user_attrs.get(IN_SPACE, True) else {}
        entries: Entries = tuple(json.loads(losses)) if losses is not None else self._space.losses(drawn)
        trial.set_user_attr(LOSSES, json.dumps(entries))
        trial.set_user_attr(ORIGIN, origin)
        trial.set_user_attr(ATTEMPT, trial.user_attrs.get(ATTEMPT, 0) + 1)
        return Place(trial, origin, entries, to_the_end=origin != "drawn")

    # ---- what became of a trial

    def report(self, place: Place, epoch: int, value: float) -> bool:
        """Tell how good a trial is after an epoch (from 1); whether it goes on."""
        with self._explained("written"):
            place.trial.report(value, epoch)
            # Asked also of a trial that is not given up: it is what the others are compared with.
            hopeless = epoch < self._epochs and place.trial.should_prune()
            return place.to_the_end or not hopeless

    def finish(self, place: Place, value: float, scores: str, seconds: float) -> None:
        """A trial went to its end."""
        with self._explained("written"):
            place.trial.set_user_attr(SCORES, scores)
            place.trial.set_user_attr(SECONDS, seconds)
            self._study.tell(place.trial, value)

    def give_up(self, place: Place, reason: str, seconds: float) -> None:
        """A trial was pruned, or its losses did not train."""
        with self._explained("written"):
            place.trial.set_user_attr(REASON, reason)
            place.trial.set_user_attr(SECONDS, seconds)
            self._study.tell(place.trial, state=TrialState.PRUNED)

    def give_back(self, place: Place) -> None:
        """A trial was interrupted: it counts for nothing, and the next process begins it anew."""
        with self._explained("written"):
            frozen = self._study.tell(place.trial, state=TrialState.FAIL)
            self._again(frozen, frozen.user_attrs.get(ATTEMPT, 1) - 1)

    @contextmanager
    def alive(self, place: Place) -> Iterator[None]:
        """Inside the block the other machines hear every few seconds that this process works on the trial."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(_BEAT):
                # A beat that is lost is followed by others; what is wrong with the storage is told by the report after the epoch.
                with suppress(*_REFUSED):
                    place.trial.set_user_attr(BEAT, time.time())

        thread = threading.Thread(target=beat, name="kdedge-beat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _give_back_dead(self) -> None:
        for trial in self.trials():
            if trial.state == TrialState.RUNNING and is_dead(trial):
                frozen = self._study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
                if frozen.state == TrialState.FAIL:
                    progress.message(f"trial {trial.number}: its process died; its place is given back")
                    self._again(frozen, frozen.user_attrs.get(ATTEMPT, 1))

    def _again(self, trial: FrozenTrial, attempts: int) -> None:
        if LOSSES in trial.user_attrs and attempts < _ATTEMPTS:
            kept = {name: trial.user_attrs[name] for name in (LOSSES, ORIGIN)}
            self._study.enqueue_trial(trial.params, {**kept, IN_SPACE: bool(trial.params), ATTEMPT: attempts})

    # ---- the storage

    def _opened(self, url: str, recipe: str, about: Mapping[str, str]) -> optuna.Study:
        storage = _storage(url)
        known = {study.study_name: study.user_attrs.get(ABOUT, {}) for study in optuna.get_all_study_summaries(storage)}
        others = {name: other for name, other in known.items() if name.startswith(f"{recipe}-")}
        if self.name not in known and others:
            changes = [[part for part in about if other.get(part) != about[part]] for other in others.values()]
            changed = min(changes, key=lambda parts: len(parts))
            progress.message(
                f"a new search begins, with other {' and '.join(changed)} than the one before: its trials would say nothing about this one"
            )
        # Trials are given up at a quarter of the epochs and at half of them, the worse half each time.
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=max(1, self._epochs // 4), reduction_factor=2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(
                study_name=self.name, storage=storage, sampler=_sampler(self._seed), pruner=pruner, direction="maximize", load_if_exists=True
            )
        study.set_user_attr(ABOUT, dict(about))
        return study

    @contextmanager
    def _explained(self, done: str) -> Iterator[None]:
        try:
            yield
        except (optuna.exceptions.StorageInternalError, SQLAlchemyError, OSError, ImportError, ValueError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            what = shown(str(error.__cause__ or error).partition("\n")[0])
            raise WorkspaceError(f"the storage of trials {self.storage} cannot be {done}: {what}; trials that ended are kept") from error


def _draw(trial: optuna.Trial) -> dict[str, Any]:
    drawn: dict[str, Any] = {
        LOSS: trial.suggest_categorical(LOSS, SEARCHED),
        ALPHA: trial.suggest_float(ALPHA, *ALPHAS, log=True),
        TEMPERATURE: trial.suggest_float(TEMPERATURE, *TEMPERATURES, log=True),
    }
    if is_balanced(drawn[LOSS]):
        drawn[BETA] = trial.suggest_float(BETA, *BETAS, log=True)
    if standardizes(drawn[LOSS]):
        drawn[STANDARDIZE] = trial.suggest_categorical(STANDARDIZE, (False, True))
    return drawn


def _sampler(seed: int) -> optuna.samplers.TPESampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # Jointly, because temperature and alpha trade off; with those at work counted as poor, so that processes do not draw the same.
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=_STARTUP)


def _storage(url: str) -> optuna.storages.BaseStorage:
    kind, _, rest = url.partition(":")
    if kind == "journal":
        from optuna.storages.journal import JournalFileBackend

        return optuna.storages.JournalStorage(JournalFileBackend(rest.removeprefix("//")))
    if kind == "sqlite" and (file := rest.removeprefix("///")):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
    # Two processes that make the tables at the same moment: one of them finds half of them made, and all a moment later.
    for attempt in range(4):
        with suppress(SQLAlchemyError):
            return optuna.storages.get_storage(_tables(url, kind))
        time.sleep(0.2 * 2**attempt)
    return optuna.storages.get_storage(_tables(url, kind))


def _tables(url: str, kind: str) -> optuna.storages.RDBStorage:
    if kind == "sqlite":
        return _locking(optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": _PATIENCE}}))
    return optuna.storages.RDBStorage(url)


def _locking(storage: optuna.storages.RDBStorage) -> optuna.storages.RDBStorage:
    """Begin each transaction with the write lock. Optuna locks the row of a trial before it takes it, which SQLite has no means for, and
    Python's sqlite3 begins a transaction only at its first write: two processes would read that a trial waits, and both take it."""

    def hand_over(connection: Any, _: object) -> None:
        connection.isolation_level = None

    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(storage.engine, "connect", hand_over)
    event.listen(storage.engine, "begin", begin)
    storage.engine.dispose()  # connections from before, which still begin late
    return storage


def importances(study: Study) -> dict[str, float]:
    """How much of what makes a trial good each searched number explains, as shares of 1 (PED-ANOVA; Watanabe et al., IJCAI 2023); empty where
    there are too few trials that differ."""
    complete = [each for each in study.trials() if each.state == TrialState.COMPLETE and each.params]
    if len(complete) < 4 or len({each.value for each in complete}) < 2:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = optuna.importance.get_param_importances(study._study, evaluator=evaluator)
    return {name: float(share) for name, share in found.items()} if sum(found.values()) > 0 else {}


def shown(url: str) -> str:
    """A storage's URL, or a text that holds it, without its password."""
    return re.sub(r"://([^:/@\s]+):[^@\s]*@", r"://\1:***@", url)


def derived_name(about: Mapping[str, str]) -> str:
    """Sixteen digits that stand for what a study is about."""
    return hashlib.sha256(json.dumps(dict(about), sort_keys=True).encode()).hexdigest()[:16]


# ---- who works on a trial


def me() -> dict[str, Any]:
    """This process, so that others on this machine can tell whether it lives."""
    return {"machine": _machine(), "process": os.getpid(), "started": _started(os.getpid())}


def is_dead(trial: FrozenTrial) -> bool:
    """Whether the process that took a trial has died."""
    worker = trial.user_attrs.get(WORKER)
    if worker is not None and worker["machine"] == _machine() and worker["started"]:
        return _started(int(worker["process"])) != str(worker["started"])
    begun = trial.datetime_start.timestamp() if trial.datetime_start is not None else 0.0
    return time.time() - float(trial.user_attrs.get(BEAT, begun)) > _GRACE


def _machine() -> str:
    parts = [socket.gethostname()]
    # Containers share a host's name or its boot, never both and the space of their process numbers.
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _started(process: int) -> str:
    """When a process was started, in the system's own clock; empty where it does not exist, or the system has no /proc."""
    with suppress(OSError):
        fields = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    return ""
