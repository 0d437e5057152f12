"""Texts with labels from a tab-separated file (`.gz` too), UTF-8, with the header `sentence<TAB>label` and one example a line.

Unlabelled texts need no second column: their header may be `sentence` alone.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdedge.data import UNLABELLED
from kdedge.data.reading import NumberedIds, ReadSplit, number_of, numbered_classes
from kdedge.data.texts import save_texts
from kdedge.errors import DataError

Int64 = npt.NDArray[np.int64]

_HEADER, _WITHOUT_LABELS = "sentence\tlabel", "sentence"
_FIRST = 2  # the line of the first example; the header is line 1


def read(argument: str, split: str, folder: Path, limit: int | None, classes: tuple[str, ...] | None) -> ReadSplit:
    """Read the file, in its order. Labels are either all whole numbers from 0, or all names (classes are then the names, sorted).

    Raises:
        DataError: a missing or damaged file, another header, a line of another form, an empty sentence,
            bytes that are not UTF-8 (names file and line).
    """
    path = Path(argument)
    unlabelled = split == UNLABELLED
    lines = _lines(path, (_HEADER, _WITHOUT_LABELS) if unlabelled else (_HEADER,))
    _, header = next(lines)
    texts, labels = [], []
    for number, line in lines:
        fields = line.split("\t")
        if len(fields) != len(header.split("\t")):
            raise DataError(f"{path}:{number}: {len(fields)} fields; a line is `{_written(header)}`")
        if not fields[0].strip():
            raise DataError(f"{path}:{number}: the sentence is empty")
        texts.append(fields[0])
        labels.append(fields[-1].strip())
    if not texts:
        raise DataError(f"{path} has a header and no examples: the {split} split needs at least one")
    numbers, names = (np.zeros(len(texts), np.int64), classes or ()) if unlabelled else _classes(labels, classes, path)
    return save_texts(texts[:limit], numbers[:limit], names, split, folder, path.name, _FIRST)


def _classes(labels: list[str], classes: tuple[str, ...] | None, path: Path) -> tuple[Int64, tuple[str, ...]]:
    places = NumberedIds(f"{str(path).replace('{', '{{').replace('}', '}}')}:{{}}", len(labels), _FIRST)
    if classes is None:
        whole = [_is_whole(label) for label in labels]
        slip = next((position for position, value in enumerate(whole) if value != whole[0]), None)
        if slip is not None:
            kinds = ("a whole number", "names") if whole[slip] else ("no whole number", "whole numbers")
            raise DataError(f"{places[slip]}: label `{labels[slip]}` is {kinds[0]}, but those before it are {kinds[1]}")
        if not whole[0]:
            names = tuple(sorted(set(labels)))
            return number_of(labels, names, places), names
        numbers = _numbers(labels)
        return numbers, numbered_classes(numbers, places, str(path))
    if classes == tuple(str(number) for number in range(len(classes))) and all(_is_whole(label) for label in labels):
        return _numbers(labels), classes
    return number_of(labels, classes, places), classes


def _numbers(labels: list[str]) -> Int64:
    return np.array([int(label) for label in labels], dtype=np.int64)


def _is_whole(label: str) -> bool:
    digits = label.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) < 18


def _written(header: str) -> str:
    return header.replace("\t", "<TAB>")


def _lines(path: Path, headers: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """The header, which must be one of `headers`, and all other lines, with their numbers."""
    needed = " or ".join(f"`{_written(header)}`" for header in headers)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as handle:
            for number, content in enumerate(handle, start=1):
                line = _text(content, path, number)
                if number == 1:
                    line = line.removeprefix("\ufeff")
                    if line not in headers:
                        raise DataError(f"{path}:1: the header is {line[:60]!r}; it must be {needed}")
                yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read after line {number}: {error}") from error
    if number == 0:
        raise DataError(f"{path} is empty; its first line must be {needed}")


def _text(content: bytes, path: Path, number: int) -> str:
    try:
        return content.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{number}: byte {error.start + 1} is not UTF-8 ({error.reason})") from error
