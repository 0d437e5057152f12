"""Text classification: one string, one class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.artifact import ImportPath, PreparedData, TextEncoder
from kdedge.data import open_examples
from kdedge.data.encode import lengths
from kdedge.data.tokenizer import take, train, vocabulary_size
from kdedge.errors import RecipeError
from kdedge.recipe import DataSection
from kdedge.tasks.classification import Classification, calibration_sample, check_readers, read_both, read_unlabelled

_READERS = ("tsv", "python")


class TextClassification(Classification):
    """`kdedge.tasks.contract.Task` for texts."""

    name = "text-classification"

    def check(self, data: DataSection) -> None:
        """Look at the section alone.

        Raises:
            RecipeError: an augmentation, a key that is for images, a reader that gives no texts.
        """
        _no_augmentation(data.augment)
        if data.size is not None:
            raise RecipeError(f"data.size is for images; remove it, {self.name} does not use it")
        check_readers(data, _READERS, self.name)

    def prepare(self, data: DataSection, seed: int, folder: Path) -> PreparedData:
        """Read the splits; `limit_train` and `limit_test` take the first N in the reader's order. The tokenizer is copied, or trained on the
        training texts that are left.

        `statistics`: `lengths` are the smallest, median and largest number of tokens of a training text (cut at `max_length`), `vocabulary` is the
        number of ids.

        Raises:
            RecipeError: as `check`.
            DataError: as the readers; labels out of range; a tokenizer that cannot be read.
        """
        self.check(data)
        train_split, test_split = read_both(data, folder, readers=_READERS, kind="text", task=self.name)
        unlabelled = read_unlabelled(data, folder, train_split, readers=_READERS, task=self.name)
        examples = open_examples(train_split.source)
        texts = examples.raw(np.arange(len(examples), dtype=np.int64))
        file = folder / "tokenizer.json"
        section = data.tokenizer
        pad = take(section.folder, file) if section.folder else train(texts, section.vocabulary, section.lowercase, file)
        encoder = TextEncoder(tokenizer=file, max_length=data.max_length, pad_id=pad)
        counts = lengths(encoder, texts)
        return PreparedData(
            task=ImportPath("kdedge.tasks.text_classification:TASK"),
            splits={"train": train_split.source, "test": test_split.source} | {name: split.source for name, split in unlabelled.items()},
            classes=train_split.classes,
            calibration=calibration_sample(train_split.source.size, data.calibration, seed),
            encoder=encoder,
            statistics={
                "lengths": (float(counts.min()), float(np.median(counts)), float(counts.max())),
                "vocabulary": (float(vocabulary_size(file)),),
            },
        )

    def augment(self, raw: Any, samples: npt.NDArray[np.int64], view: int, seed: int, names: tuple[str, ...]) -> Any:
        """Texts as they are.

        Raises:
            RecipeError: any name; texts have no augmentation.
        """
        _no_augmentation(names)
        return raw


def _no_augmentation(names: tuple[str, ...]) -> None:
    if names:
        raise RecipeError(f"data.augment: `{names[0]}`: texts have no augmentations; leave data.augment out")


TASK = TextClassification()
