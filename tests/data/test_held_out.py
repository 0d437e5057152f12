from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdedge.artifact import SplitSource
from kdedge.data import open_examples
from kdedge.data.arrays import save_arrays
from kdedge.data.held_out import held_places, hold_out
from kdedge.errors import DataError
from kdedge.record import from_plain, to_plain


def split(folder: Path, labels: list[int]) -> SplitSource:
    """One image an example, whose every pixel is the example's number."""
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    return save_arrays(images, np.array(labels, np.int64), ("a", "b", "c"), "train", folder, "made").source


def numbers(source: SplitSource) -> list[int]:
    examples = open_examples(source)
    return examples.raw(np.arange(len(examples)))[:, 0, 0, 0].tolist()  # type: ignore[no-any-return]


def test_both_parts_together_are_the_split_and_share_nothing(tmp_path: Path) -> None:
    labels = [0] * 20 + [1] * 10 + [2] * 5
    rest, held = hold_out(split(tmp_path, labels), 0.2, seed=3)
    assert sorted(numbers(rest) + numbers(held)) == list(range(35))
    assert (rest.size, held.size) == (28, 7)
    examples = open_examples(held)
    assert [labels[number] for number in numbers(held)] == examples.labels.tolist()
    assert np.bincount(examples.labels).tolist() == [4, 2, 1]
    assert list(examples.ids) == [f"made[{number}]" for number in numbers(held)]
    assert examples.ids[1:3] == [f"made[{number}]" for number in numbers(held)[1:3]]
    assert numbers(rest) == sorted(numbers(rest))


def test_the_seed_alone_decides_and_tells_the_parts_apart(tmp_path: Path) -> None:
    source = split(tmp_path, [0, 1, 2] * 10)
    assert hold_out(source, 0.2, 1) == hold_out(source, 0.2, 1)
    assert numbers(hold_out(source, 0.2, 1)[1]) != numbers(hold_out(source, 0.2, 2)[1])
    changed = replace(source, fingerprint="other bytes")
    prints = {part.fingerprint for whole, seed in ((source, 1), (source, 2), (changed, 1)) for part in hold_out(whole, 0.2, seed)}
    assert len(prints) == 6


def test_a_part_is_opened_again_from_its_record(tmp_path: Path) -> None:
    _, held = hold_out(split(tmp_path, [0, 1, 2] * 10), 0.2, 0)
    again = from_plain(to_plain(held, tmp_path, tmp_path), tmp_path, tmp_path)
    assert again == held
    assert numbers(again) == numbers(held)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.sampled_from((0.1, 0.2, 0.5)), st.integers(0, 9))
def test_each_class_gives_its_share_and_keeps_an_example(labels: list[int], share: float, seed: int) -> None:
    array = np.array(labels, np.int64)
    held = held_places(array, share, seed)
    assert held.tolist() == sorted(set(held.tolist()))
    assert held.size <= round(share * array.size)
    for name in set(labels):
        of_class, given_up = int((array == name).sum()), int((array[held] == name).sum())
        assert given_up < of_class
        assert given_up == 0 or abs(given_up - share * of_class) < 1 + 1e-9


def test_where_nothing_can_be_held_out_a_sentence_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="of 3 training examples none can be held out"):
        hold_out(split(tmp_path, [0, 1, 2]), 0.2, 0)
