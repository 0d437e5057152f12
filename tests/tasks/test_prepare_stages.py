from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kdedge.artifact import ImageEncoder, ImportPath, PreparedData, TextEncoder
from kdedge.data import open_examples, sources_of
from kdedge.data.encode import encode
from kdedge.errors import DataError
from kdedge.recipe import DataSection
from kdedge.tasks import TASKS
from kdedge.tasks.prepare import by_length, encode_split, prepare
from kdedge.workspace import Workspace

WORDS = ["good", "bad", "film", "the", "very", "plot", "and", "no"]


def image_section(folder: Path, count: int = 300) -> DataSection:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (count, 4, 5, 3), dtype=np.uint8), np.arange(count) % 3
    np.savez(folder / "data.npz", x_train=x, y_train=y, x_test=x[::-1], y_test=y[::-1])
    return DataSection(train=f"npz:{folder}/data.npz", test=f"npz:{folder}/data.npz")


def text_section(folder: Path, count: int = 600) -> DataSection:
    rng = np.random.default_rng(0)
    rows = [f"{' '.join(rng.choice(WORDS, rng.integers(1, 40)))}\t{i % 2}\n" for i in range(count)]
    for split in ("train", "test"):
        (folder / f"{split}.tsv").write_text("sentence\tlabel\n" + "".join(rows))
    return DataSection(train=f"tsv:{folder}/train.tsv", test=f"tsv:{folder}/test.tsv", max_length=32)


def prepared(folder: Path, task: str, section: DataSection) -> PreparedData:
    stage = folder / "prepared"
    stage.mkdir()
    return prepare(ImportPath(TASKS[task]), section, 0, folder=stage)


def test_images_are_encoded_into_one_bucket_in_the_order_of_the_split(tmp_path: Path) -> None:
    data = prepared(tmp_path, "image-classification", image_section(tmp_path))
    inputs = encode_split(data, data.encoder, "test", folder=tmp_path)
    (bucket,) = inputs.buckets
    array = np.load(bucket.files["image"], mmap_mode="r")
    assert (array.dtype.name, array.shape, inputs.size, bucket.size) == ("float32", (300, 3, 4, 5), 300, 300)
    assert np.load(bucket.indices).tolist() == list(range(300))
    raw = open_examples(data.splits["test"]).raw(np.arange(300))
    assert np.array_equal(array, encode(data.encoder, raw)["image"])


def test_an_encoder_of_the_models_own_is_used(tmp_path: Path) -> None:
    data = prepared(tmp_path, "image-classification", image_section(tmp_path, 9))
    inputs = encode_split(data, ImageEncoder(size=(8, 8), resize=10, input_name="a/b:0"), "train", folder=tmp_path)
    assert np.load(inputs.buckets[0].files["a/b:0"]).shape == (9, 3, 8, 8)


def test_texts_in_buckets_are_those_of_the_split_when_their_order_is_restored(tmp_path: Path) -> None:
    data = prepared(tmp_path, "text-classification", text_section(tmp_path))
    assert isinstance(data.encoder, TextEncoder)
    inputs = encode_split(data, data.encoder, "test", folder=tmp_path)
    whole = encode(data.encoder, open_examples(data.splits["test"]).raw(np.arange(600)), 32)
    restored = {name: np.full_like(array, data.encoder.pad_id if name == "input_ids" else 0) for name, array in whole.items()}
    seen: list[int] = []
    for bucket in inputs.buckets:
        indices = np.load(bucket.indices)
        seen += indices.tolist()
        for name, file in bucket.files.items():
            array = np.load(file)
            assert (array.dtype.name, len(array)) == ("int64", bucket.size)
            restored[name][indices, : array.shape[1]] = array
    assert sorted(seen) == list(range(600)) == list(range(inputs.size))
    assert all(np.array_equal(restored[name], whole[name]) for name in whole)
    assert 2 <= len(inputs.buckets) <= 4
    assert [bucket.size for bucket in inputs.buckets] == sorted((bucket.size for bucket in inputs.buckets), reverse=True)


@given(st.lists(st.integers(1, 600), min_size=1, max_size=60))
def test_buckets_hold_every_text_once_and_never_more_than_half_padding(counts: list[int]) -> None:
    groups = by_length(np.array(counts, np.int64))
    assert sorted(int(index) for indices, _ in groups for index in indices) == list(range(len(counts)))
    for indices, length in groups:
        inside = [counts[index] for index in indices]
        assert max(inside) == length
        assert length <= 8 or 2 * min(inside) > length - 1
        assert indices.tolist() == sorted(indices.tolist())
    assert len(groups) <= 8


def test_a_split_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    data = prepared(tmp_path, "image-classification", image_section(tmp_path, 6))
    with pytest.raises(DataError, match=r"there is no split `dev` \(splits: train, test\)"):
        encode_split(data, data.encoder, "dev", folder=tmp_path)


@pytest.mark.parametrize("task", list(TASKS))
def test_through_a_workspace_the_second_run_reads_what_the_first_wrote(tmp_path: Path, task: str) -> None:
    section = image_section(tmp_path, 12) if task.startswith("image") else text_section(tmp_path, 30)

    def run() -> tuple[PreparedData, list[bool]]:
        workspace = Workspace(tmp_path / "workspace")
        data = workspace.stage("kdedge.tasks.prepare:prepare", ImportPath(TASKS[task]), section, 0, reads=sources_of(section))
        inputs = workspace.stage("kdedge.tasks.prepare:encode_split", data, data.encoder, "test")
        assert sum(bucket.size for bucket in inputs.buckets) == len(open_examples(data.splits["test"]))
        return data, [event.cached for event in workspace.events]

    first, second = run(), run()
    assert first[1] == [False, False]
    assert second == (first[0], [True, True])
    for file in (tmp_path / "workspace/stages").rglob("*"):
        if file.is_file():
            assert str(tmp_path).encode() not in file.read_bytes(), file
    assert open_examples(first[0].splits["test"]).labels.tolist() == open_examples(second[0].splits["test"]).labels.tolist()


@pytest.mark.parametrize("reader", ["folder", "python"])
def test_data_that_stays_where_it_is_is_opened_from_the_cache_and_noticed_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        file = tmp_path / "images" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    code = "import numpy as np\nPIXELS = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)\n"
    code += "def make():\n    return [(image, number % 2) for number, image in enumerate(PIXELS)]\n"
    (tmp_path / "dataset_that_stays.py").write_text(code)
    argument = f"{tmp_path}/images" if reader == "folder" else "dataset_that_stays:make"
    section = DataSection(train=f"{reader}:{argument}", test=f"{reader}:{argument}")

    def run() -> tuple[PreparedData, bool]:
        workspace = Workspace(tmp_path / "workspace")
        task = ImportPath(TASKS["image-classification"])
        data = workspace.stage("kdedge.tasks.prepare:prepare", task, section, 0, reads=sources_of(section))
        return data, workspace.events[-1].cached

    first, second = run(), run()
    assert (first[1], second) == (False, (first[0], True))
    assert np.array_equal(open_examples(second[0].splits["test"]).raw(np.array([3, 0])), pixels[[3, 0]])
    (tmp_path / "images/a/0.png").write_bytes((tmp_path / "images/a/2.png").read_bytes())
    (tmp_path / "dataset_that_stays.py").write_text(code.replace("default_rng(0)", "default_rng(1)"))
    importlib.invalidate_caches()
    sys.modules.pop("dataset_that_stays", None)
    third = run()
    assert not third[1]
    assert third[0].splits["train"].fingerprint != first[0].splits["train"].fingerprint


def test_changed_data_is_prepared_again(tmp_path: Path) -> None:
    section = image_section(tmp_path, 12)
    workspace = Workspace(tmp_path / "workspace")
    task = ImportPath(TASKS["image-classification"])
    before = workspace.stage("kdedge.tasks.prepare:prepare", task, section, 0, reads=sources_of(section))
    image_section(tmp_path, 15)
    after = workspace.stage("kdedge.tasks.prepare:prepare", task, section, 0, reads=sources_of(section))
    assert (before.splits["train"].size, after.splits["train"].size) == (12, 15)
