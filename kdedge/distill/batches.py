"""Batches: which examples, augmented how, encoded for whom. All of it is a pure function of (seed, step), computed one batch ahead."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from kdedge.artifact import Encoder
from kdedge.data.encode import encode
from kdedge.data.examples import Examples, places_in_split
from kdedge.data.mix import check_pixels, mixed, partners, shares
from kdedge.distill.seeding import derived
from kdedge.distill.spec import Shown
from kdedge.errors import TrainingError
from kdedge.tasks.contract import Task

Int64 = npt.NDArray[np.int64]
Item = TypeVar("Item")

# Long enough that a batch's texts have nearly one length, short enough that what meets in a batch still changes with every epoch.
_STRETCH = 32


@dataclass(frozen=True)
class Batch:
    """One step's examples. `inputs`: arrays by input name, once for each distinct encoder (`Batches.encoders` in the same order); `samples`:
    their places in the split; `view`: which augmented view of them this is; `share`: which part of the whole batch this process has, times the
    number of processes (1 where it is spread evenly)."""

    inputs: tuple[dict[str, npt.NDArray[Any]], ...]
    labels: Int64
    samples: Int64
    view: int = 0
    share: float = 1.0

    def first(self, count: int) -> Batch:
        """The first examples of the batch alone."""
        return self._at(np.arange(min(count, len(self.samples))))

    def cut(self, pieces: int) -> list[Batch]:
        """The batch in at most `pieces` pieces of nearly one size, each with its share of the whole."""
        return [self._at(places) for places in np.array_split(np.arange(len(self.samples)), min(pieces, len(self.samples)))]

    def _at(self, places: Int64) -> Batch:
        inputs = tuple({name: array[places] for name, array in arrays.items()} for arrays in self.inputs)
        return Batch(inputs, self.labels[places], self.samples[places], self.view, self.share * len(places) / len(self.samples))


@dataclass(frozen=True)
class Plan:
    """How examples become batches: their order is drawn from `seed`; `views` limits the views of an example (view = epoch mod views), None
    gives a new one each epoch."""

    batch_size: int
    seed: int
    shown: Shown = field(default_factory=Shown)
    views: int | None = None


class Batches:
    """The batches of a training run, by step.

    An epoch is a seeded permutation, a pure function of (seed, epoch), cut into ceil(n / batch_size) batches whose sizes differ by at most one:
    every example is seen once an epoch, and there is no ragged last batch that would count too much or leave batch norm one example.
    With several processes, each takes its slice of every batch.

    Raises:
        TrainingError: there are more processes than examples in a batch.
    """

    def __init__(
        self,
        examples: Examples,
        task: Task,
        encoders: Sequence[Encoder],
        plan: Plan,
        *,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.encoders: tuple[Encoder, ...] = tuple(dict.fromkeys(encoders))
        self.steps_per_epoch = -(-len(examples) // plan.batch_size)
        self._examples, self._task, self._plan = examples, task, plan
        self._rank, self._processes = rank, processes
        smallest = len(examples) // self.steps_per_epoch
        # The fewest examples that a process has in a step.
        self.fewest = smallest // processes
        if smallest < processes:
            raise TrainingError(f"batches of {smallest} examples cannot be spread over {processes} processes: raise batch_size or start fewer")

    def order(self, epoch: int) -> Int64:
        """The order of all examples in an epoch (from 0)."""
        # RandomState's stream is frozen (NEP 19), a Generator's may change with numpy's version.
        return np.random.RandomState(derived(self._plan.seed, "order", epoch)).permutation(len(self._examples)).astype(np.int64)

    def parts(self, epoch: int) -> list[Int64]:
        """The examples of an epoch's batches. Texts are padded to the longest of their batch, so batches are made of texts of like length:
        each stretch of `_STRETCH` batches is sorted by length, cut again, and the batches take a seeded order."""
        parts = np.array_split(self.order(epoch), self.steps_per_epoch)
        sizes = self._examples.sizes
        if sizes is None:
            return parts
        sorted_parts: list[Int64] = []
        for start in range(0, len(parts), _STRETCH):
            stretch = parts[start : start + _STRETCH]
            samples = np.concatenate(stretch)
            samples = samples[np.argsort(sizes[samples], kind="stable")]
            sorted_parts += np.split(samples, np.cumsum([len(part) for part in stretch])[:-1])
        order = np.random.RandomState(derived(self._plan.seed, "batches", epoch)).permutation(len(sorted_parts))
        return [sorted_parts[index] for index in order]

    def from_step(self, first: int, last: int) -> Iterator[Batch]:
        """The batches of steps `first` to `last` - 1 (from 0, over all epochs)."""
        epoch, parts = -1, []
        for step in range(first, last):
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                parts = self.parts(epoch)
            yield self._batch(parts[step % self.steps_per_epoch], epoch)

    def _batch(self, whole: Int64, epoch: int) -> Batch:
        samples = np.array_split(whole, self._processes)[self._rank]
        view = epoch if self._plan.views is None else epoch % self._plan.views
        raw = augmented(self._examples, self._task, samples, view, self._plan.shown)
        inputs = tuple(encode(encoder, raw) for encoder in self.encoders)
        share = len(samples) * self._processes / len(whole)
        return Batch(inputs, self._examples.labels[samples], samples, view, share)


def augmented(examples: Examples, task: Task, samples: Int64, view: int, shown: Shown) -> Any:
    """One view of some samples: raw examples, a pure function of (seed, view, sample) whatever the batch that they come in.

    With `mixup` each is mixed with its partner as the partner looks in the same view.

    Raises:
        DataError: examples are to be mixed that are no images of one size.
    """
    own = _alone(examples, task, samples, view, shown)
    if not shown.mixup:
        return own
    check_pixels(own, "the split that is learned from")
    others = _alone(examples, task, partners(len(examples), shown.seed, view)[samples], view, shown)
    return mixed(own, others, shares(shown.seed, view, samples))


def _alone(examples: Examples, task: Task, samples: Int64, view: int, shown: Shown) -> Any:
    raw = examples.raw(samples)
    return task.augment(raw, places_in_split(examples, samples), view, shown.seed, shown.augment) if shown.augment else raw


def ahead(items: Iterator[Item], depth: int = 1) -> Generator[Item]:
    """The same items, each made in a background thread while the one before is used. What the thread raises is raised here.

    Close the iterator (or exhaust it) to end the thread.
    """
    made: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(entry: tuple[Item | None, BaseException | None]) -> None:
        while not stopped.is_set():
            try:
                made.put(entry, timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put((item, None))
                if stopped.is_set():
                    return
            put((None, None))
        except BaseException as error:  # handed over: the thread that uses the items raises it
            put((None, error))

    thread = threading.Thread(target=work, name="kdedge-batches", daemon=True)
    thread.start()
    try:
        while True:
            item, error = made.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        stopped.set()
        thread.join()
