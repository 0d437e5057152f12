from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from kdedge.data import open_examples
from kdedge.data.digits import read
from kdedge.errors import DataError, MissingExtra


def test_the_splits_part_all_digits_with_36_of_each_in_test(tmp_path: Path) -> None:
    train, test = (read("digits", split, tmp_path, None, None) for split in ("train", "test"))
    assert (train.source.size, test.source.size) == (1437, 360)
    assert np.bincount(test.labels).tolist() == [36] * 10
    assert sorted([*train.labels, *test.labels]) == sorted(load_digits().target)
    images = [open_examples(split.source).raw(np.arange(split.source.size)) for split in (train, test)]
    assert images[0].shape == (1437, 32, 32, 3)
    assert not {image.tobytes() for image in images[0]} & {image.tobytes() for image in images[1]}


def test_an_upscaled_digit_still_looks_like_itself(tmp_path: Path) -> None:
    opened = open_examples(read("digits", "train", tmp_path, 50, None).source)
    raw = opened.raw(np.arange(50))
    assert np.array_equal(raw[..., 0], raw[..., 2])
    ink, digits = load_digits(return_X_y=True)
    cells = raw[..., 0].reshape(50, 8, 4, 8, 4).mean(axis=(2, 4)).reshape(50, 64) * 16 / 255  # the mean of each cell's 4x4 pixels
    distance = np.abs(cells[:, None] - ink[None]).mean(axis=2)
    assert digits[distance.argmin(axis=1)].tolist() == opened.labels.tolist()
    assert distance.min(axis=1).max() < 1.5  # of 16; smoothing moves a little ink into neighbouring cells


def test_the_same_bytes_are_written_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        read("digits", "test", tmp_path / name, None, None)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_other_names_and_classes_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sklearn:iris: of scikit-learn's data only `digits` can be read"):
        read("iris", "train", tmp_path, None, None)
    with pytest.raises(DataError, match="names 10 classes and the training split 2"):
        read("digits", "test", tmp_path, None, ("0", "1"))


def test_a_missing_scikit_learn_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtra, match=r"sklearn:digits needs `sklearn`.*kdedge\[train\]"):
        read("digits", "train", tmp_path, None, None)
