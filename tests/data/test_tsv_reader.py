from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from kdedge.data import open_examples
from kdedge.data.tsv import read
from kdedge.errors import DataError

TEXT = "sentence\tlabel\ngrüße, wörld\t1\nbad 🙁\t0\nfine\t1\n"


def put(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz"])
def test_texts_are_opened_again_with_labels_and_lines(tmp_path: Path, name: str) -> None:
    content = TEXT.encode()
    found = read(put(tmp_path / name, gzip.compress(content) if name.endswith("gz") else content), "train", tmp_path, None, None)
    opened = open_examples(found.source)
    assert opened.raw(np.array([1, 0])) == ["bad 🙁", "grüße, wörld"]
    assert (opened.labels.tolist(), found.classes, found.kind, found.source.size) == ([1, 0, 1], ("0", "1"), "text", 3)
    assert (opened.ids[0], opened.ids[-1]) == (f"{name}:2", f"{name}:4")
    assert list(opened.ids[1:]) == [f"{name}:3", f"{name}:4"]


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(tmp_path: Path) -> None:
    plain = read(put(tmp_path / "a.tsv", TEXT), "train", tmp_path, None, None)
    other = read(put(tmp_path / "b.tsv", b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode()), "train", tmp_path, None, None)
    assert other.source.fingerprint == plain.source.fingerprint


def test_labels_may_be_names(tmp_path: Path) -> None:
    train = read(put(tmp_path / "a.tsv", "sentence\tlabel\na\tpos\nb\tneg\nc\tpos\n"), "train", tmp_path, None, None)
    assert (train.classes, train.labels.tolist()) == (("neg", "pos"), [1, 0, 1])
    test = read(put(tmp_path / "b.tsv", "sentence\tlabel\na\tpos\n"), "test", tmp_path, None, train.classes)
    assert test.labels.tolist() == [1]
    for label in ("meh", "0"):
        with pytest.raises(DataError, match=rf"c\.tsv:3: class `{label}` does not occur in the training split \(its classes: neg, pos\)"):
            read(put(tmp_path / "c.tsv", f"sentence\tlabel\na\tpos\nb\t{label}\n"), "test", tmp_path, None, train.classes)


def test_a_limit_takes_the_first_and_keeps_the_classes_of_all(tmp_path: Path) -> None:
    found = read(put(tmp_path / "a.tsv", TEXT), "train", tmp_path, 1, None)
    assert (found.source.size, found.classes, open_examples(found.source).raw(np.array([0]))) == (1, ("0", "1"), ["grüße, wörld"])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", r"a\.tsv is empty"),
        (b"sentence\tlabel\n", r"a\.tsv has a header and no examples: the train split"),
        (b"text\tlabel\na\t1\n", r"a\.tsv:1: the header is 'text\\tlabel'; it must be"),
        (b"sentence\tlabel\na\t0\nb 1\n", r"a\.tsv:3: 1 fields; a line is"),
        (b"sentence\tlabel\na\t0\t\n", r"a\.tsv:2: 3 fields"),
        (b"sentence\tlabel\na\t0\n\nb\t1\n", r"a\.tsv:3: 1 fields"),
        (b"sentence\tlabel\n \t0\n", r"a\.tsv:2: the sentence is empty"),
        (b"sentence\tlabel\na\t0\n\xff\xfe\t1\n", r"a\.tsv:3: byte 1 is not UTF-8"),
        (b"sentence\tlabel\na\t0\nb\tx\n", r"a\.tsv:3: label `x` is no whole number, but those before it are whole numbers"),
        (b"sentence\tlabel\na\tx\nb\t1\n", r"a\.tsv:3: label `1` is a whole number, but those before it are names"),
        (b"sentence\tlabel\na\t1\nb\t2\n", r"no example of class 0, but \S*a\.tsv:3 has the label 2"),
    ],
)
def test_an_error_names_file_and_line(tmp_path: Path, content: bytes, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        read(put(tmp_path / "a.tsv", content), "train", tmp_path, None, None)


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        read(str(tmp_path / "none.tsv"), "train", tmp_path, None, None)
    whole = gzip.compress(TEXT.encode())
    for name, content in (("cut.tsv.gz", whole[:-9]), ("plain.tsv.gz", TEXT.encode()), ("flip.tsv.gz", whole[:12] + b"\x00\xff" + whole[14:])):
        with pytest.raises(DataError, match=rf"{name} cannot be read after line \d"):
            read(put(tmp_path / name, content), "train", tmp_path, None, None)
