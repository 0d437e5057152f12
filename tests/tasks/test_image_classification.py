from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdedge.artifact import ImageEncoder
from kdedge.data import open_examples
from kdedge.data.augment import Augmentation, augment
from kdedge.errors import DataError, RecipeError
from kdedge.recipe import DataSection, TokenizerSection
from kdedge.tasks.image_classification import TASK


def images(count: int, side: int = 6, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def section(folder: Path, train: dict[str, Any] | None = None, test: dict[str, Any] | None = None, **options: Any) -> DataSection:
    np.savez(folder / "train.npz", **{"x_train": images(6), "y_train": np.arange(6) % 3, **(train or {})})
    np.savez(folder / "test.npz", **{"x_test": images(4, seed=1), "y_test": np.arange(4) % 3, **(test or {})})
    return DataSection(train=f"npz:{folder}/train.npz", test=f"npz:{folder}/test.npz", **options)


def test_prepared_data_holds_everything_that_later_stages_ask_for(tmp_path: Path) -> None:
    data = TASK.prepare(section(tmp_path, augment=("crop2", "flip"), calibration=4), 7, tmp_path)
    assert {name: split.size for name, split in data.splits.items()} == {"train": 6, "test": 4}
    assert data.classes == ("0", "1", "2")
    assert data.encoder == ImageEncoder(size=(6, 6), resize=None)
    assert len(set(data.calibration)) == 4
    pixels = images(6).reshape(-1, 3) / 255
    assert data.statistics["mean"] == pytest.approx(tuple(pixels.mean(axis=0)))
    assert data.statistics["std"] == pytest.approx(tuple(pixels.std(axis=0)))
    assert data.task.load() is TASK
    assert np.array_equal(open_examples(data.splits["test"]).raw(np.arange(4)), images(4, seed=1))


def test_calibration_follows_the_seed_and_is_everything_where_too_much_is_asked(tmp_path: Path) -> None:
    chosen = [TASK.prepare(section(tmp_path, calibration=5), seed, tmp_path).calibration for seed in range(6)]
    assert len(set(chosen)) > 1
    assert chosen[0] == TASK.prepare(section(tmp_path, calibration=5), 0, tmp_path).calibration
    assert sorted(TASK.prepare(section(tmp_path, calibration=99), 0, tmp_path).calibration) == list(range(6))


def test_limits_take_the_first_and_keep_all_classes(tmp_path: Path) -> None:
    data = TASK.prepare(section(tmp_path, limit_train=2, limit_test=1), 0, tmp_path)
    assert {name: split.size for name, split in data.splits.items()} == {"train": 2, "test": 1}
    assert data.classes == ("0", "1", "2")


def test_a_size_resizes_only_what_has_another_size(tmp_path: Path) -> None:
    assert TASK.prepare(section(tmp_path, size=(6, 6)), 0, tmp_path).encoder == ImageEncoder(size=(6, 6), resize=None)
    assert TASK.prepare(section(tmp_path, size=(8, 12)), 0, tmp_path).encoder == ImageEncoder(size=(8, 12), resize=12)


def test_images_of_several_sizes_need_a_size(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"training images are of 6x6 pixels, test images of 8x8 pixels; set data\.size"):
        TASK.prepare(section(tmp_path, test={"x_test": images(4, 8)}), 0, tmp_path)
    data = TASK.prepare(section(tmp_path, test={"x_test": images(4, 8)}, size=(6, 6)), 0, tmp_path)
    assert data.encoder == ImageEncoder(size=(6, 6), resize=6)


@pytest.mark.parametrize(
    ("train", "test", "sentence"),
    [
        ({}, {"y_test": [0, 1, 3, 9]}, r"data\.test: x_test\[2\] has the label 3; allowed are 0 to 2 \(2 examples are out of range\)"),
        ({"y_train": [0, 1, 2, -1, 0, 1]}, {}, r"data\.train: x_train\[3\] has the label -1; allowed are 0 to 2$"),
        ({"classes": ["a", "b"]}, {}, r"data\.train: x_train\[2\] has the label 2; allowed are 0 to 1"),
        ({"y_train": [0] * 6}, {"y_test": [0] * 4}, r"data\.train has the one class `0`"),
        ({}, {"x_test": images(0), "y_test": np.zeros(0, np.int64)}, r"x_test is empty: the test split needs at least one image"),
        ({"x_train": images(6) * np.array([1, 0, 1], np.uint8)}, {}, r"data\.train: all pixels of channel 1 have the same value"),
        ({"classes": ["a", "b", "c"]}, {"classes": ["a", "c", "b"]}, r"class 1 is `c`, but the training split calls it `b`"),
    ],
)
def test_bad_data_is_an_error_that_names_the_first_example(tmp_path: Path, train: dict[str, Any], test: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        TASK.prepare(section(tmp_path, train, test), 0, tmp_path)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"augment": ("crop4", "mirror")}, r"data\.augment\[1\]: unknown augmentation `mirror`"),
        ({"max_length": 12}, r"data\.max_length is for texts; remove it, image-classification does not use it"),
        ({"tokenizer": TokenizerSection()}, r"data\.tokenizer is for texts"),
    ],
)
def test_a_section_that_is_wrong_for_images_is_a_recipe_error(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        TASK.prepare(section(tmp_path, **options), 0, tmp_path)


def test_a_reader_of_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"data\.train: reader `tsv` does not give what image-classification takes \(allowed: npz, folder, sklearn, python\)"
    ):
        TASK.prepare(DataSection(train="tsv:a.tsv", test="tsv:a.tsv"), 0, tmp_path)


def test_texts_from_a_python_dataset_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "texts_dataset.py").write_text("def make():\n    return [('one', 0), ('two', 1)]\n")
    with pytest.raises(DataError, match=r"data\.train gives text data; image-classification takes image data"):
        TASK.prepare(DataSection(train="python:texts_dataset:make", test="python:texts_dataset:make"), 0, tmp_path)


def test_the_task_augments_as_the_data_package_does() -> None:
    batch, samples = images(5), np.array([9, 1, 4, 4, 0])
    expected = augment(batch, samples, 3, 11, Augmentation(2, True))
    assert np.array_equal(TASK.augment(batch, samples, 3, 11, ("flip", "crop2")), expected)
    assert TASK.augment(batch, samples, 3, 11, ()) is batch


def test_the_same_recipe_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        TASK.prepare(section(tmp_path), 0, tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["test-images.npy", "test-labels.npy", "train-images.npy", "train-labels.npy"]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)
