from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdedge.data import open_examples, samples_of
from kdedge.data.python_dataset import read
from kdedge.data.reading import ReadSplit
from kdedge.errors import KdedgeError
from kdedge.recipe import DataSection


@pytest.fixture(autouse=True)
def _datasets_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))


def found(name: str, folder: Path, split: str = "train", limit: int | None = None) -> ReadSplit:
    return read(f"datasets_for_tests:{name}", split, folder, limit, None)


@pytest.mark.parametrize("name", ["arrays", "pictures", "tensors", "bytes_tensors"])
def test_images_of_every_kind_are_the_same_bytes(tmp_path: Path, name: str) -> None:
    from datasets_for_tests import LABELS, PIXELS

    split = found(name, tmp_path)
    opened = open_examples(split.source)
    assert np.array_equal(opened.raw(np.array([5, 0, 3])), PIXELS[[5, 0, 3]])
    assert opened.labels.tolist() == LABELS
    assert split.classes == (("ant", "bee", "cow") if name == "arrays" else ("0", "1", "2"))
    assert opened.ids[2] == f"datasets_for_tests:{name}(train)[2]"
    assert split.images is not None
    assert split.images.mean == pytest.approx(tuple(PIXELS.reshape(-1, 3).mean(axis=0) / 255))
    assert split.source.fingerprint == found("arrays", tmp_path).source.fingerprint


def test_data_that_changed_under_the_same_code_changes_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets_for_tests

    data = DataSection(train="python:datasets_for_tests:arrays", test="python:datasets_for_tests:arrays", limit_train=5)
    before = samples_of(data)
    assert len(set(before)) == 2  # 5 examples of train, 3 of test
    assert samples_of(data) == before
    changed = datasets_for_tests.PIXELS.copy()
    changed[4] += 1
    monkeypatch.setattr(datasets_for_tests, "PIXELS", changed)
    assert samples_of(data)[0] != before[0]
    assert samples_of(DataSection(train="sklearn:digits", test="npz:nowhere.npz")) == ()


def test_a_factory_is_told_the_split_if_it_asks(tmp_path: Path) -> None:
    assert found("arrays", tmp_path, "test").source.size == 3
    assert open_examples(found("texts", tmp_path, "test").source).raw(np.array([1])) == ["test 1"]


def test_grey_images_and_several_sizes_are_taken(tmp_path: Path) -> None:
    from datasets_for_tests import PIXELS

    grey = open_examples(found("grey", tmp_path).source).raw(np.array([4]))
    assert np.array_equal(grey[0], np.repeat(PIXELS[4, :, :, :1], 3, axis=-1))
    raw = open_examples(found("sizes", tmp_path).source).raw(np.array([0, 1]))
    assert [image.shape for image in raw] == [(2, 5, 3), (3, 5, 3)]


def test_a_limit_takes_the_first(tmp_path: Path) -> None:
    split = found("arrays", tmp_path, limit=2)
    assert (split.source.size, split.labels.tolist(), split.classes) == (2, [0, 1], ("ant", "bee", "cow"))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("restless", r"restless\(train\)\[0\] is another example each time it is asked for"),
        ("mixed", r"mixed\(train\)\[1\] is text data, unlike the examples before it"),
        ("normalised", r"has values from -1\.5 to -1\.5; a float tensor must be in \[0, 1\]"),
        ("no_pairs", r"no_pairs\(train\)\[0\] is a ndarray; it must be a tuple \(example, label\)"),
        ("words_as_labels", r"the label is a str; it must be a whole number"),
        ("odd_things", r"odd_things\(train\)\[0\] is a dict; it must be a PIL image"),
        ("floats", r"has dtype float32 and shape \(4, 5, 3\); an array must be uint8"),
        ("breaks", r"breaks\(train\)\[2\] cannot be read: OSError: disk on fire"),
        ("raises", r"raises failed to make the train dataset: RuntimeError: no credentials"),
        ("stream", r"has no __len__ and __getitem__"),
        ("empty", r"empty\(train\) is empty: the train split"),
        ("NUMBER", r"NUMBER is not a function or class"),
        ("missing", r"has no `missing`"),
    ],
)
def test_a_dataset_that_cannot_be_used_is_a_sentence(tmp_path: Path, name: str, sentence: str) -> None:
    with pytest.raises(KdedgeError, match=sentence):
        found(name, tmp_path)


def test_a_module_that_does_not_exist_or_does_not_compile_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "broken_dataset_module.py").write_text("def f(:\n")
    with pytest.raises(KdedgeError, match="no module `nowhere`"):
        read("nowhere:f", "train", tmp_path, None, None)
    with pytest.raises(KdedgeError, match="`broken_dataset_module:f` cannot be imported: SyntaxError"):
        read("broken_dataset_module:f", "train", tmp_path, None, None)
