"""Examples without labels: each reader gives them, and their labels are 0 and never looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdedge.artifact import ImportPath
from kdedge.data import open_examples, samples_of, sources_of
from kdedge.data.reading import ReadSplit, read_split
from kdedge.errors import DataError
from kdedge.recipe import DataSection
from kdedge.tasks.image_classification import TASK as IMAGES
from kdedge.tasks.text_classification import TASK as TEXTS

CLASSES = ("ant", "bee")
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)


def unlabelled(source: str, folder: Path, limit: int | None = None) -> ReadSplit:
    readers = ("npz", "folder", "tsv", "sklearn", "python")
    found = read_split("data.unlabelled", source, "unlabelled", folder, limit=limit, classes=CLASSES, readers=readers, task="any")
    assert found.classes == CLASSES
    assert found.labels.tolist() == [0] * found.source.size
    assert open_examples(found.source).labels.tolist() == [0] * found.source.size
    return found


def raw(found: ReadSplit) -> Any:
    return open_examples(found.source).raw(np.arange(found.source.size, dtype=np.int64))


def put(folder: Path, place: str, pixels: Any) -> None:
    from PIL import Image

    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / place)


def test_an_npz_needs_no_labels_and_its_own_images_come_before_the_training_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", x_unlabelled=PIXELS[:4], x_train=PIXELS[4:])
    np.savez(tmp_path / "train.npz", x_train=PIXELS, y_train=np.full(6, 99))
    own = unlabelled(f"npz:{tmp_path}/own.npz", tmp_path)
    assert np.array_equal(raw(own), PIXELS[:4])
    assert own.ids[1] == "x_unlabelled[1]"
    assert np.array_equal(raw(unlabelled(f"npz:{tmp_path}/train.npz", tmp_path, limit=5)), PIXELS[:5])


def test_an_npz_without_images_or_with_none_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "none.npz", x_test=PIXELS)
    with pytest.raises(DataError, match=r"has no `x_unlabelled` \(needed: x_unlabelled; found: x_test\)"):
        unlabelled(f"npz:{tmp_path}/none.npz", tmp_path)
    np.savez(tmp_path / "empty.npz", x_unlabelled=PIXELS[:0])
    with pytest.raises(DataError, match="x_unlabelled is empty: the unlabelled split"):
        unlabelled(f"npz:{tmp_path}/empty.npz", tmp_path)


def test_a_folder_needs_no_class_folders_and_may_have_some(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for place, pixels in zip(("b.png", "deep/er/a.png", ".hidden/c.png"), PIXELS, strict=False):
        put(root, place, pixels)
    found = unlabelled(f"folder:{root}", tmp_path)
    assert list(found.ids) == ["b.png", "deep/er/a.png"]
    assert np.array_equal(raw(found), PIXELS[:2])
    (tmp_path / "empty").mkdir()
    for name, message in (("empty", "holds no image"), ("none", "there is no such folder")):
        with pytest.raises(DataError, match=message):
            unlabelled(f"folder:{tmp_path}/{name}", tmp_path)


@pytest.mark.parametrize("content", ["sentence\na\nb c\n", "sentence\tlabel\na\tant\nb c\tno class at all\n"])
def test_a_tsv_needs_no_label_column(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.tsv").write_text(content)
    found = unlabelled(f"tsv:{tmp_path}/a.tsv", tmp_path)
    assert raw(found) == ["a", "b c"]
    assert list(found.ids) == ["a.tsv:2", "a.tsv:3"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text\na\n", "must be `sentence<TAB>label` or `sentence`"),
        ("sentence\na\tb\n", r":2: 2 fields; a line is `sentence`"),
        ("sentence\tlabel\na\n", r":2: 1 fields; a line is `sentence<TAB>label`"),
        ("sentence\n", "no examples: the unlabelled split"),
        ("", "is empty; its first line must be `sentence<TAB>label` or `sentence`"),
    ],
)
def test_a_tsv_of_another_form_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.tsv").write_text(content)
    with pytest.raises(DataError, match=message):
        unlabelled(f"tsv:{tmp_path}/a.tsv", tmp_path)


def test_a_labelled_tsv_still_needs_its_labels(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("sentence\na\n")
    with pytest.raises(DataError, match=r"the header is 'sentence'; it must be `sentence<TAB>label`$"):
        read_split("data.train", f"tsv:{tmp_path}/a.tsv", "train", tmp_path, limit=None, classes=None, readers=("tsv",), task="any")


@pytest.mark.parametrize("factory", ["bare", "pairs"])
def test_a_dataset_of_the_users_may_give_examples_without_labels(tmp_path: Path, factory: str) -> None:
    found = unlabelled(f"python:unlabelled_for_tests:{factory}", tmp_path)
    assert np.array_equal(raw(found), np.full((3, 2, 2, 3), 7, np.uint8))


def test_a_labelled_dataset_still_needs_its_labels(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must be a tuple \(example, label\)"):
        read_split("data.train", "python:unlabelled_for_tests:bare", "train", tmp_path, limit=None, classes=None, readers=("python",), task="any")


def test_digits_without_labels_are_those_of_the_training_split(tmp_path: Path) -> None:
    train = read_split("data.train", "sklearn:digits", "train", tmp_path, limit=9, classes=None, readers=("sklearn",), task="any")
    digits = tuple(str(digit) for digit in range(10))
    found = read_split("data.unlabelled", "sklearn:digits", "unlabelled", tmp_path, limit=9, classes=digits, readers=("sklearn",), task="any")
    assert np.array_equal(raw(found), raw(train))
    assert found.labels.tolist() == [0] * 9
    assert train.labels.any()


# ---- in the recipe


def section(folder: Path, **changes: Any) -> DataSection:
    np.savez(folder / "a.npz", x_train=PIXELS, y_train=np.arange(6) % 2, x_test=PIXELS, y_test=np.arange(6) % 2)
    np.savez(folder / "more.npz", x_unlabelled=PIXELS[::-1])
    return DataSection(**{"train": f"npz:{folder}/a.npz", "test": f"npz:{folder}/a.npz", "unlabelled": f"npz:{folder}/more.npz", **changes})


def test_unlabelled_images_are_a_split_beside_the_others_and_change_nothing_in_them(tmp_path: Path) -> None:
    with_them, without = (tmp_path / name for name in ("with", "without"))
    for folder in (with_them, without):
        folder.mkdir()
    found = IMAGES.prepare(section(tmp_path, limit_unlabelled=4), 0, with_them)
    plain = IMAGES.prepare(section(tmp_path, unlabelled=None), 0, without)
    assert set(plain.splits) == {"train", "test"}
    assert set(found.splits) == {"train", "test", "unlabelled"}
    assert (found.statistics, found.calibration, found.classes, found.encoder) == (plain.statistics, plain.calibration, plain.classes, plain.encoder)
    assert found.splits["train"].fingerprint == plain.splits["train"].fingerprint
    learning = found.learning("unlabelled")
    assert list(learning.splits) == ["train"]
    assert np.array_equal(open_examples(learning.splits["train"]).raw(np.arange(4)), PIXELS[::-1][:4])


def test_unlabelled_images_of_another_size_need_a_size(tmp_path: Path) -> None:
    np.savez(tmp_path / "large.npz", x_unlabelled=np.zeros((2, 8, 8, 3), np.uint8))
    other = f"npz:{tmp_path}/large.npz"
    with pytest.raises(
        DataError, match=r"training images are of 4x5 pixels, test images of 4x5 pixels, unlabelled images of 8x8 pixels; set data\.size"
    ):
        IMAGES.prepare(section(tmp_path, unlabelled=other), 0, tmp_path)
    assert IMAGES.prepare(section(tmp_path, unlabelled=other, size=(4, 5)), 0, tmp_path).encoder.resize == 5  # type: ignore[union-attr]


def test_unlabelled_texts_are_a_split_that_the_tokenizer_is_not_trained_on(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("sentence\tlabel\ngood film\t1\nbad film\t0\n")
    (tmp_path / "more.tsv").write_text("sentence\nzzz zzz zzz\n")
    folders = [tmp_path / name for name in ("with", "without")]
    tokenizers = []
    for folder, extra in zip(folders, (f"tsv:{tmp_path}/more.tsv", None), strict=True):
        folder.mkdir()
        data = DataSection(train=f"tsv:{tmp_path}/a.tsv", test=f"tsv:{tmp_path}/a.tsv", unlabelled=extra)
        assert ("unlabelled" in TEXTS.prepare(data, 0, folder).splits) == (extra is not None)
        tokenizers.append((folder / "tokenizer.json").read_bytes())
    assert tokenizers[0] == tokenizers[1]


def test_examples_of_another_kind_are_refused(tmp_path: Path) -> None:
    other = "python:unlabelled_for_tests:texts"
    with pytest.raises(DataError, match=r"data\.unlabelled gives text data; image-classification takes image data"):
        IMAGES.prepare(section(tmp_path, unlabelled=other), 0, tmp_path)


def test_what_is_read_depends_on_the_unlabelled_file_too(tmp_path: Path) -> None:
    assert tmp_path / "more.npz" in sources_of(section(tmp_path))
    with pytest.raises(DataError, match=r"data\.unlabelled: there is no file"):
        sources_of(section(tmp_path, unlabelled=f"npz:{tmp_path}/none.npz"))
    code = section(tmp_path, unlabelled="python:unlabelled_for_tests:bare")
    assert ImportPath("unlabelled_for_tests:bare") in sources_of(code)
    assert len(samples_of(code)) == 1
