from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdedge.data import open_examples
from kdedge.data.npz import read
from kdedge.errors import DataError


def save(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


def images(count: int, channels: int = 3, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (count, 5, 4, channels), dtype=np.uint8)


def test_a_split_is_opened_again_with_the_same_images_labels_and_ids(tmp_path: Path) -> None:
    x, y = images(6), np.array([2, 0, 1, 1, 0, 2], np.uint8)
    found = read(save(tmp_path / "a.npz", x_train=x, y_train=y, classes=np.array(["cat", "dog", "eel"])), "train", tmp_path, None, None)
    opened = open_examples(found.source)
    assert np.array_equal(opened.raw(np.array([4, 1])), x[[4, 1]])
    assert opened.labels.tolist() == y.tolist()
    assert opened.labels.dtype == np.int64
    assert (opened.ids[5], len(opened), found.source.size) == ("x_train[5]", 6, 6)
    assert found.classes == ("cat", "dog", "eel")
    assert found.images is not None
    assert found.images.mean == pytest.approx(tuple(x.reshape(-1, 3).mean(axis=0) / 255))


@pytest.mark.parametrize("second", ["y_train.npy", "y_train"])
def test_an_array_that_is_there_twice_is_refused(tmp_path: Path, second: str) -> None:
    file = save(tmp_path / "a.npz", x_train=images(3), y_train=[0, 1, 1])
    with zipfile.ZipFile(file, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile tells of it too
        archive.writestr(second, archive.read("y_train.npy"))
    with pytest.raises(DataError, match=r"a\.npz holds `y_train` more than once"):
        read(file, "train", tmp_path, None, None)


@pytest.mark.parametrize("shape", [(3, 5, 4), (3, 5, 4, 1)])
def test_grey_images_become_three_equal_channels(tmp_path: Path, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    opened = open_examples(read(save(tmp_path / "a.npz", x_train=x, y_train=[0, 1, 1]), "train", tmp_path, None, None).source)
    raw = opened.raw(np.arange(3))
    assert raw.shape == (3, 5, 4, 3)
    assert all(np.array_equal(raw[..., channel], x.reshape(3, 5, 4)) for channel in range(3))


def test_a_limit_takes_the_first_and_keeps_the_classes_of_all(tmp_path: Path) -> None:
    file = save(tmp_path / "a.npz", x_train=images(4), y_train=[0, 0, 1, 2])
    found = read(file, "train", tmp_path, 2, None)
    assert (found.source.size, found.labels.tolist(), found.classes) == (2, [0, 0], ("0", "1", "2"))


def test_the_fingerprint_follows_images_labels_and_nothing_else(tmp_path: Path) -> None:
    def fingerprint(name: str, **arrays: Any) -> str:
        return read(save(tmp_path / f"{name}.npz", **arrays), "train", tmp_path, None, None).source.fingerprint

    x, changed = images(3), images(3)
    changed[2, 0, 0, 0] ^= 1
    base = fingerprint("base", x_train=x, y_train=[0, 1, 1])
    assert fingerprint("again", x_train=x, y_train=np.array([0, 1, 1], np.uint8), other=[1]) == base
    assert fingerprint("pixel", x_train=changed, y_train=[0, 1, 1]) != base
    assert fingerprint("label", x_train=x, y_train=[0, 1, 0]) != base


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"x_test": images(2), "y_test": [0, 1]}, r"a\.npz has no `x_train` \(needed: x_train, y_train; found: x_test, y_test\)"),
        ({"x_train": images(2).astype(np.float32), "y_train": [0, 1]}, r"x_train has dtype float32; images must be uint8"),
        ({"x_train": images(2, 2), "y_train": [0, 1]}, r"x_train has shape \(2, 5, 4, 2\)"),
        ({"x_train": images(2), "y_train": [0.0, 1.0]}, r"y_train has dtype float64"),
        ({"x_train": images(2), "y_train": [0, 1, 1]}, r"x_train has 2 images and y_train 3 labels"),
        ({"x_train": images(0), "y_train": np.zeros(0, np.int64), "classes": ["a", "b"]}, r"x_train is empty: the train split"),
        ({"x_train": images(2), "y_train": [1, 2]}, r"no example of class 0, but y_train\[1\] has the label 2"),
        ({"x_train": images(2), "y_train": [0, 255]}, r"no example of class 1, but y_train\[1\] has the label 255"),
        ({"x_train": images(2), "y_train": [0, 1], "classes": ["a", "a"]}, r"classes names a class twice: a"),
        ({"x_train": images(2), "y_train": [0, 1], "classes": [1, 2]}, r"class names must be strings"),
        ({"x_train": np.array([{}, {}]), "y_train": [0, 1]}, r"`x_train` cannot be read \(arrays of Python objects are refused\)"),
    ],
)
def test_an_unusable_file_is_an_error_that_names_what_is_wrong(tmp_path: Path, arrays: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        read(save(tmp_path / "a.npz", **arrays), "train", tmp_path, None, None)


def test_a_file_that_is_no_npz_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        read(str(tmp_path / "none.npz"), "train", tmp_path, None, None)
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(DataError, match=r"text\.npz is not an \.npz file"):
        read(str(tmp_path / "text.npz"), "train", tmp_path, None, None)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"holds one array and not an \.npz archive"):
        read(str(tmp_path / "one.npy"), "train", tmp_path, None, None)


def test_a_damaged_archive_never_gives_anything_but_a_data_error(tmp_path: Path) -> None:
    whole = Path(save(tmp_path / "a.npz", x_train=images(2), y_train=[0, 1])).read_bytes()
    damaged = tmp_path / "damaged.npz"
    refused = 0
    for cut in range(0, len(whole), 7):
        damaged.write_bytes(whole[:cut])
        with pytest.raises(DataError):
            read(str(damaged), "train", tmp_path, None, None)
    for place in range(0, len(whole), 3):
        damaged.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            read(str(damaged), "train", tmp_path, None, None)
        except DataError:
            refused += 1
    assert refused > len(whole) / 3 / 2


def test_an_encrypted_archive_is_an_error_that_says_so(tmp_path: Path) -> None:
    path = Path(save(tmp_path / "locked.npz", x_train=images(2), y_train=[0, 1]))
    content = bytearray(path.read_bytes())
    content[content.find(b"PK\x03\x04") + 6] |= 1  # the flag of encryption, in front of the first member and in the list of all
    content[content.find(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="encrypted"):
        read(str(path), "train", tmp_path, None, None)


def test_class_names_of_the_two_splits_must_agree(tmp_path: Path) -> None:
    file = save(tmp_path / "a.npz", x_test=images(2), y_test=[0, 1], classes=["cat", "dog"])
    assert read(file, "test", tmp_path, None, ("cat", "dog")).classes == ("cat", "dog")
    with pytest.raises(DataError, match="class 0 is `cat`, but the training split calls it `dog`"):
        read(file, "test", tmp_path, None, ("dog", "cat"))
    with pytest.raises(DataError, match="names 2 classes and the training split 3"):
        read(file, "test", tmp_path, None, ("cat", "dog", "eel"))
