from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from distill_world import ENCODER

from kdedge.artifact import ImageEncoder, PreparedData
from kdedge.data import open_examples
from kdedge.distill.batches import Batch, Batches, Plan, ahead
from kdedge.distill.spec import Shown
from kdedge.errors import TrainingError


def _batches(data: PreparedData, plan: Plan, encoders: tuple[ImageEncoder, ...] = (ENCODER,), rank: int = 0, processes: int = 1) -> Batches:
    return Batches(open_examples(data.splits["train"]), data.task.load(), encoders, plan, rank=rank, processes=processes)


def _same(a: Batch, b: Batch) -> bool:
    return np.array_equal(a.samples, b.samples) and all(
        np.array_equal(x[name], y[name]) for x, y in zip(a.inputs, b.inputs, strict=True) for name in x
    )


def test_every_example_is_seen_once_an_epoch_in_batches_of_almost_one_size(data: PreparedData) -> None:
    batches = _batches(data, Plan(16, seed=1))
    assert batches.steps_per_epoch == 4
    epoch = list(batches.from_step(0, 4))
    assert sorted(len(batch.labels) for batch in epoch) == [12, 12, 13, 13]
    assert sorted(np.concatenate([batch.samples for batch in epoch]).tolist()) == list(range(50))
    labels = open_examples(data.splits["train"]).labels
    assert all(np.array_equal(batch.labels, labels[batch.samples]) for batch in epoch)


def test_the_order_depends_on_seed_and_epoch_alone(data: PreparedData) -> None:
    first, again, other = (_batches(data, Plan(16, seed=seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.order(3), again.order(3))
    assert not np.array_equal(first.order(3), first.order(4))
    assert not np.array_equal(first.order(3), other.order(3))


def test_a_batch_is_the_same_wherever_the_run_starts(data: PreparedData) -> None:
    batches = _batches(data, Plan(16, seed=1, shown=Shown(("crop1", "flip"), 1)))
    whole = list(batches.from_step(0, 12))
    for start in (1, 4, 7):
        assert all(_same(a, b) for a, b in zip(batches.from_step(start, 12), whole[start:], strict=True))


def _by_sample(batches: Batches, epoch: int) -> np.ndarray:
    found = list(batches.from_step(4 * epoch, 4 * epoch + 4))
    images = np.concatenate([batch.inputs[0]["image"] for batch in found])
    return images[np.argsort(np.concatenate([batch.samples for batch in found]))]


def test_views_repeat_after_their_number_and_are_new_each_epoch_without_one(data: PreparedData) -> None:
    two = _batches(data, Plan(16, seed=1, shown=Shown(("crop1",), 1), views=2))
    assert np.array_equal(_by_sample(two, 0), _by_sample(two, 2))
    assert not np.array_equal(_by_sample(two, 0), _by_sample(two, 1))
    new = _batches(data, Plan(16, seed=1, shown=Shown(("crop1",), 1)))
    assert not np.array_equal(_by_sample(new, 0), _by_sample(new, 2))


def test_a_batch_is_encoded_once_for_each_distinct_encoder(data: PreparedData) -> None:
    small = ImageEncoder((4, 4), resize=4)
    batches = _batches(data, Plan(16, seed=1), (ENCODER, small, ENCODER))
    assert batches.encoders == (ENCODER, small)
    batch = next(batches.from_step(0, 1))
    assert [inputs["image"].shape[1:] for inputs in batch.inputs] == [(3, 6, 6), (3, 4, 4)]


def test_processes_share_each_batch_and_their_weights_make_up_its_mean(data: PreparedData) -> None:
    whole = list(_batches(data, Plan(16, seed=1, shown=Shown(("crop1",), 1))).from_step(0, 4))
    ranks = [list(_batches(data, Plan(16, seed=1, shown=Shown(("crop1",), 1)), rank=rank, processes=3).from_step(0, 4)) for rank in range(3)]
    for step, batch in enumerate(whole):
        assert np.array_equal(np.concatenate([rank[step].samples for rank in ranks]), batch.samples)
        assert np.array_equal(np.concatenate([rank[step].inputs[0]["image"] for rank in ranks]), batch.inputs[0]["image"])
        # A mean over processes of share * (mean over the process) is the mean over the batch.
        value = np.mean([rank[step].share * rank[step].inputs[0]["image"].mean() for rank in ranks])
        assert value == pytest.approx(batch.inputs[0]["image"].mean(), rel=1e-6)


def test_more_processes_than_examples_in_a_batch_are_refused(data: PreparedData) -> None:
    with pytest.raises(TrainingError, match="batches of 1 examples cannot be spread over 2 processes"):
        _batches(data, Plan(1, seed=1), processes=2)


def test_the_next_item_is_made_while_one_is_used() -> None:
    made: list[int] = []
    second = threading.Event()

    def items() -> Iterator[int]:
        for number in range(3):
            made.append(number)
            if number == 1:
                second.set()
            yield number

    found = ahead(items())
    assert next(found) == 0
    assert second.wait(10)
    assert list(found) == [1, 2]
    assert made == [0, 1, 2]


def test_an_error_of_the_background_thread_is_raised_where_the_items_are_used() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("unreadable")

    found = ahead(items())
    assert next(found) == 1
    with pytest.raises(ValueError, match="unreadable"):
        next(found)


def test_closing_ends_the_thread() -> None:
    def items() -> Iterator[int]:
        number = 0
        while True:
            number += 1
            yield number

    found = ahead(items())
    next(found)
    found.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "kdedge-batches"]


class _Texts:
    """Texts whose lengths are their numbers, shuffled."""

    def __init__(self, size: int) -> None:
        self.labels = np.zeros(size, np.int64)
        self.ids: Sequence[str] = [str(index) for index in range(size)]
        self.sizes: np.ndarray | None = np.random.RandomState(0).permutation(size).astype(np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def raw(self, indices: np.ndarray) -> list[str]:
        return ["x" * int(length) for length in self.sizes[indices]] if self.sizes is not None else []


def test_texts_of_like_length_share_a_batch_and_each_is_still_seen_once(data: PreparedData) -> None:
    texts = _Texts(640)
    batches = Batches(texts, data.task.load(), (ENCODER,), Plan(16, seed=1))
    assert texts.sizes is not None
    parts = batches.parts(2)
    assert sorted(np.concatenate(parts).tolist()) == list(range(640))
    assert {len(part) for part in parts} == {16}
    spread = [int(np.ptp(texts.sizes[part])) for part in parts]
    unsorted = [int(np.ptp(texts.sizes[part])) for part in np.array_split(batches.order(2), 40)]
    assert max(spread) < min(unsorted) / 3
    longest = [int(texts.sizes[part].max()) for part in parts]
    assert longest != sorted(longest), "short texts must not all come first"
    assert all(np.array_equal(a, b) for a, b in zip(parts, batches.parts(2), strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(parts, batches.parts(3), strict=True))
