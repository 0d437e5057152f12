"""Readers of raw examples, replayable augmentation, and the encoding of examples into what a graph takes.

`READERS` names them; a recipe says `reader:argument`. What a reader made is opened again with `open_examples`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kdedge.artifact import ImportPath, SplitSource
from kdedge.data.names import unknown
from kdedge.errors import DataError, RecipeError
from kdedge.source import file_of

if TYPE_CHECKING:
    from kdedge.data.examples import Examples
    from kdedge.recipe import DataSection

# Each is `read(argument, split, folder, limit, classes) -> kdedge.data.reading.ReadSplit`. A split `unlabelled` needs no labels, and gives 0 for all.
READERS: dict[str, str] = {
    "npz": "kdedge.data.npz:read",
    "folder": "kdedge.data.folder:read",
    "sklearn": "kdedge.data.digits:read",
    "tsv": "kdedge.data.tsv:read",
    "python": "kdedge.data.python_dataset:read",
}

# What each reader reads: a file or folder, the user's code, or nothing outside its package.
_READS = {"npz": "file", "folder": "folder", "sklearn": "nothing", "tsv": "file", "python": "code"}
_SAMPLE = ImportPath("kdedge.data.python_dataset:sample")
# The split whose examples have no labels.
UNLABELLED = "unlabelled"


def split_source(key: str, text: str) -> tuple[str, str]:
    """Reader and argument of `reader:argument`; `key` is the recipe's key, for the error.

    Raises:
        RecipeError: the text has another form, or names no reader.
    """
    reader, colon, argument = text.partition(":")
    if not colon or not argument:
        raise RecipeError(f"{key}: `{text}` must look like `reader:argument` (readers: {', '.join(READERS)})")
    if reader not in READERS:
        raise RecipeError(unknown(key, "reader", reader, READERS))
    return reader, argument


def sources_of(data: DataSection) -> tuple[Path | ImportPath, ...]:
    """Everything that reading this section depends on: the readers' code, and the files, folders or user's code that they read.

    Raises:
        RecipeError: an unknown reader, or code that is not named as `module:factory`.
        DataError: a file, folder or module that is not there.
    """
    found: list[Path | ImportPath] = []
    for key, text, _, _ in _splits(data):
        reader, argument = split_source(key, text)
        found.append(ImportPath(READERS[reader]))
        if _READS[reader] == "code":
            found.append(_code(key, argument))
        elif _READS[reader] != "nothing":
            path = Path(argument)
            if not (path.is_dir() if _READS[reader] == "folder" else path.is_file()):
                raise DataError(f"{key}: there is no {_READS[reader]} {path}")
            found.append(path)
    if data.tokenizer.folder is not None and not data.tokenizer.folder.is_dir():
        raise DataError(f"data.tokenizer.folder: there is no folder {data.tokenizer.folder}")
    return tuple(dict.fromkeys(found))


def samples_of(data: DataSection) -> tuple[str, ...]:
    """A digest for each split that the user's code makes, of what it gives now: the code may be the same and read files that are not.

    Raises:
        DataError: the code fails.
    """
    found = []
    for key, text, split, limit in _splits(data):
        reader, argument = split_source(key, text)
        if _READS[reader] == "code":
            found.append(_SAMPLE.load()(argument, split, limit))
    return tuple(found)


def _splits(data: DataSection) -> list[tuple[str, str, str, int | None]]:
    """The recipe's key of each split, its source, its name and its limit."""
    splits = (("train", data.train, data.limit_train), ("test", data.test, data.limit_test), (UNLABELLED, data.unlabelled, data.limit_unlabelled))
    return [(f"data.{split}", text, split, limit) for split, text, limit in splits if text is not None]


def _code(key: str, argument: str) -> ImportPath:
    module, _, name = argument.partition(":")
    if not module or not name:
        raise RecipeError(f"{key}: `python:{argument}` must look like `python:package.module:factory`")
    if file_of(module) is None:
        raise DataError(f"{key}: there is no module `{module}` with a source file (is its folder on PYTHONPATH?)")
    return ImportPath(argument)


def open_examples(split: SplitSource) -> Examples:
    """Open a split that `prepare` read once.

    Raises:
        DataError: its files cannot be read any more.
    """
    opened: Examples = split.reader.load()(**split.arguments)
    return opened
