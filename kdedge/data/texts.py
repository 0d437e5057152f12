"""Texts as one blob of UTF-8 and offsets into it, memory-mapped when they are opened again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdedge.artifact import ImportPath, SplitSource
from kdedge.data.npy import map_npy, save_npy
from kdedge.data.reading import NumberedIds, ReadSplit
from kdedge.errors import DataError

Int64 = npt.NDArray[np.int64]


class TextExamples:
    """Texts in one memory-mapped blob: text i is the bytes from offsets[i] to offsets[i + 1]."""

    def __init__(self, blob: npt.NDArray[np.uint8], offsets: Int64, labels: Int64, ids: Sequence[str]) -> None:
        self.blob = blob
        self.offsets = offsets
        self.labels = labels
        self.ids = ids
        self.sizes: Int64 | None = np.diff(offsets)

    def __len__(self) -> int:
        return len(self.labels)

    def raw(self, indices: Int64) -> list[str]:
        """The texts."""
        return [self.blob[self.offsets[index] : self.offsets[index + 1]].tobytes().decode("utf-8") for index in indices.tolist()]


def open_texts(blob: Path, offsets: Path, labels: Path, ids: str, first: int) -> TextExamples:
    """Open what `save_texts` wrote."""
    numbers = np.load(labels, allow_pickle=False)
    return TextExamples(map_npy(blob), np.load(offsets, allow_pickle=False), numbers, NumberedIds(ids, len(numbers), first))


def save_texts(texts: Sequence[str], labels: Int64, classes: tuple[str, ...], split: str, folder: Path, name: str, first: int) -> ReadSplit:
    """Write texts and labels [n] and say how to open them; the examples have the ids `name:first`, `name:first+1`, ... (lines of a file).

    Raises:
        DataError: there is no text.
    """
    if not texts:
        raise DataError(f"{name} has no examples: the {split} split needs at least one")
    encoded = [text.encode("utf-8") for text in texts]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(text) for text in encoded], out=offsets[1:])
    blob = np.frombuffer(b"".join(encoded), np.uint8)
    files = {part: folder / f"{split}-{part}.npy" for part in ("blob", "offsets", "labels")}
    save_npy(files["blob"], blob)
    save_npy(files["offsets"], offsets)
    save_npy(files["labels"], labels)
    digest = hashlib.sha256(blob.tobytes() + offsets.tobytes() + labels.tobytes()).hexdigest()
    pattern = f"{name.replace('{', '{{').replace('}', '}}')}:{{}}"
    source = SplitSource(ImportPath("kdedge.data.texts:open_texts"), {**files, "ids": pattern, "first": first}, len(texts), digest)
    return ReadSplit(source, "text", labels, classes, NumberedIds(pattern, len(texts), first))
