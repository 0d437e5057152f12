from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kdedge.artifact import ImportPath
from kdedge.data import READERS, sources_of, split_source
from kdedge.data.arrays import ArrayExamples
from kdedge.data.examples import Examples
from kdedge.data.folder import FolderExamples
from kdedge.data.python_dataset import DatasetExamples
from kdedge.data.texts import TextExamples
from kdedge.errors import DataError, RecipeError
from kdedge.recipe import DataSection, TokenizerSection


def test_what_is_opened_are_examples_for_the_type_checker(tmp_path: Path) -> None:
    labels = np.zeros(0, np.int64)
    opened: list[Examples] = [
        ArrayExamples(np.zeros((0, 2, 2, 3), np.uint8), labels, []),
        FolderExamples(tmp_path, [], labels, True),
        TextExamples(np.zeros(0, np.uint8), np.zeros(1, np.int64), labels, []),
        DatasetExamples([], labels, "nothing", "image", True),
    ]
    assert [len(examples) for examples in opened] == [0, 0, 0, 0]
    assert [len(examples.raw(labels)) for examples in opened] == [0, 0, 0, 0]


def test_every_reader_that_is_named_exists() -> None:
    for path in READERS.values():
        assert callable(ImportPath(path).load())


def test_sources_are_the_readers_code_and_what_they_read(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    file.write_bytes(b"")
    both = DataSection(train=f"npz:{file}", test=f"npz:{file}")
    assert sources_of(both) == (ImportPath(READERS["npz"]), file)
    mixed = DataSection(train=f"folder:{tmp_path}", test="python:json.decoder:JSONDecoder")
    assert sources_of(mixed) == (
        ImportPath(READERS["folder"]),
        tmp_path,
        ImportPath(READERS["python"]),
        ImportPath("json.decoder:JSONDecoder"),
    )
    assert sources_of(DataSection(train="sklearn:digits", test="sklearn:digits")) == (ImportPath(READERS["sklearn"]),)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("npx:data.npz", r"data\.train: unknown reader `npx`; did you mean `npz`\? \(allowed: npz, folder, sklearn, tsv, python\)"),
        ("data.npz", r"data\.train: `data\.npz` must look like `reader:argument`"),
        ("npz:", r"must look like `reader:argument`"),
    ],
)
def test_a_wrong_source_is_a_recipe_error_with_what_is_allowed(text: str, sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        split_source("data.train", text)


def test_a_missing_file_is_named_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"data\.test: there is no file {tmp_path}/none\.npz"):
        sources_of(DataSection(train="sklearn:digits", test=f"npz:{tmp_path}/none.npz"))
    with pytest.raises(DataError, match=r"data\.tokenizer\.folder: there is no folder"):
        sources_of(DataSection(train="sklearn:digits", test="sklearn:digits", tokenizer=TokenizerSection(folder=tmp_path / "none")))


def test_readers_and_tasks_load_nothing_heavy_before_they_read() -> None:
    code = (
        "import importlib, pkgutil, sys, kdedge.data, kdedge.tasks\n"
        "for package in (kdedge.data, kdedge.tasks):\n"
        "    for module in pkgutil.iter_modules(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
        "heavy = {'torch', 'PIL', 'sklearn', 'scipy', 'tokenizers', 'transformers', 'onnx'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
