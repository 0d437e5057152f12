from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdedge.artifact import TextEncoder
from kdedge.data import open_examples, tokenizer
from kdedge.errors import DataError, RecipeError
from kdedge.recipe import DataSection, TokenizerSection
from kdedge.tasks.text_classification import TASK

TRAIN = [("a good film", 1), ("a bad film", 0), ("so very good , so very nice and long a sentence that it must be cut", 1), ("dull", 0)]
TEST = [("nice", 1), ("bad and dull", 0)]


def write(path: Path, rows: list[tuple[str, Any]]) -> None:
    path.write_text("sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows), encoding="utf-8")


def section(folder: Path, train: list[tuple[str, Any]] = TRAIN, test: list[tuple[str, Any]] = TEST, **options: Any) -> DataSection:
    write(folder / "train.tsv", train)
    write(folder / "test.tsv", test)
    return DataSection(train=f"tsv:{folder}/train.tsv", test=f"tsv:{folder}/test.tsv", **{"max_length": 12, **options})


def test_prepared_data_holds_everything_that_later_stages_ask_for(tmp_path: Path) -> None:
    data = TASK.prepare(section(tmp_path, tokenizer=TokenizerSection(vocabulary=100)), 0, tmp_path)
    assert data.encoder == TextEncoder(tmp_path / "tokenizer.json", 12, 0)
    assert {name: split.size for name, split in data.splits.items()} == {"train": 4, "test": 2}
    assert data.classes == ("0", "1")
    assert sorted(data.calibration) == [0, 1, 2, 3]
    opened = tokenizer.load(tmp_path / "tokenizer.json", 12)
    counts = [len(opened.encode(text).ids) for text, _ in TRAIN]
    assert list(data.statistics["lengths"]) == [min(counts), float(np.median(counts)), 12.0]
    assert list(data.statistics["vocabulary"]) == [opened.get_vocab_size()]
    assert open_examples(data.splits["test"]).raw(np.array([1])) == ["bad and dull"]


def test_the_tokenizer_learns_from_the_training_texts_alone(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    TASK.prepare(section(tmp_path), 0, one)
    TASK.prepare(section(tmp_path, test=[("zyx wvu", 1)]), 0, two)
    assert (one / "tokenizer.json").read_bytes() == (two / "tokenizer.json").read_bytes()


def test_a_tokenizer_from_a_folder_is_copied_into_the_stage(tmp_path: Path) -> None:
    model, stage = tmp_path / "model", tmp_path / "stage"
    model.mkdir()
    stage.mkdir()
    tokenizer.train(["something else"], 64, False, model / "tokenizer.json")
    data = TASK.prepare(section(tmp_path, tokenizer=TokenizerSection(folder=model)), 0, stage)
    assert isinstance(data.encoder, TextEncoder)
    assert data.encoder.tokenizer == stage / "tokenizer.json"
    assert data.encoder.tokenizer.read_bytes() == (model / "tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"augment": ("flip",)}, r"data\.augment: `flip`: texts have no augmentations"),
        ({"size": (4, 4)}, r"data\.size is for images"),
    ],
)
def test_a_section_that_is_wrong_for_texts_is_a_recipe_error(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        TASK.prepare(section(tmp_path, **options), 0, tmp_path)


def test_a_reader_of_images_and_a_label_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"reader `npz` does not give what text-classification takes \(allowed: tsv, python\)"):
        TASK.prepare(DataSection(train="npz:a.npz", test="npz:a.npz"), 0, tmp_path)
    with pytest.raises(DataError, match=r"data\.test: test\.tsv:3 has the label 2; allowed are 0 to 1"):
        TASK.prepare(section(tmp_path, test=[("a", 0), ("b", 2)]), 0, tmp_path)


def test_texts_are_never_augmented(tmp_path: Path) -> None:
    assert TASK.augment(["a", "b"], np.array([0, 1]), 0, 0, ()) == ["a", "b"]
    with pytest.raises(RecipeError, match="texts have no augmentations"):
        TASK.augment(["a"], np.array([0]), 0, 0, ("crop4",))
