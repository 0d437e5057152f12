"""Image classification: uint8 RGB images of any size, one class each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.artifact import ImageEncoder, ImportPath, PreparedData
from kdedge.data.augment import augment, parse
from kdedge.data.survey import ImageFacts
from kdedge.errors import DataError, RecipeError
from kdedge.recipe import DataSection
from kdedge.tasks.classification import Classification, calibration_sample, check_readers, read_both, read_unlabelled

_READERS = ("npz", "folder", "sklearn", "python")
_FOR_TEXTS = ("max_length", "tokenizer")


class ImageClassification(Classification):
    """`kdedge.tasks.contract.Task` for images."""

    name = "image-classification"

    def check(self, data: DataSection) -> None:
        """Look at the section alone.

        Raises:
            RecipeError: an unknown augmentation, a key that is for texts, a reader that gives no images.
        """
        parse(data.augment)
        for key in _FOR_TEXTS:
            if key in data.model_fields_set:
                raise RecipeError(f"data.{key} is for texts; remove it, {self.name} does not use it")
        check_readers(data, _READERS, self.name)

    def prepare(self, data: DataSection, seed: int, folder: Path) -> PreparedData:
        """Read the splits; `limit_train` and `limit_test` take the first N in the reader's order.

        `statistics` are `mean` and `std` of each channel over all pixels of the training images, unresized. Where all images have one size the
        encoder takes them as they are; `data.size` resizes the shorter side to the larger of height and width, then cuts at the centre.

        Raises:
            RecipeError: as `check`.
            DataError: as the readers; labels out of range; images of several sizes without `data.size`; a channel without contrast.
        """
        self.check(data)
        train, test = read_both(data, folder, readers=_READERS, kind="image", task=self.name)
        unlabelled = read_unlabelled(data, folder, train, readers=_READERS, task=self.name)
        if train.images is None or test.images is None:
            raise DataError("an image reader gave no facts of its images")
        facts = {name: split.images for name, split in unlabelled.items() if split.images is not None}
        std = train.images.std
        if min(std) == 0:
            raise DataError(
                f"data.train: all pixels of channel {std.index(0)} have the same value in all images; they cannot be normalised, nor told apart"
            )
        return PreparedData(
            task=ImportPath("kdedge.tasks.image_classification:TASK"),
            splits={"train": train.source, "test": test.source} | {name: split.source for name, split in unlabelled.items()},
            classes=train.classes,
            calibration=calibration_sample(train.source.size, data.calibration, seed),
            encoder=_encoder(data.size, {"training": train.images, "test": test.images} | facts),
            statistics={"mean": train.images.mean, "std": std},
        )

    def augment(self, raw: Any, samples: npt.NDArray[np.int64], view: int, seed: int, names: tuple[str, ...]) -> Any:
        """Crop and flip as `kdedge.data.augment` says.

        Raises:
            RecipeError: an unknown name.
        """
        how = parse(names)
        return augment(raw, samples, view, seed, how) if names else raw


def _encoder(size: tuple[int, int] | None, facts: dict[str, ImageFacts]) -> ImageEncoder:
    sizes = {each.size for each in facts.values()}
    (common,) = sizes if len(sizes) == 1 else (None,)
    if size is not None:
        return ImageEncoder(size=size, resize=None if common == size else max(size))
    if common is None:
        found = [f"{name} images {_size_of(each)}" for name, each in facts.items()]
        raise DataError(f"{', '.join(found).replace(' images of', ' images are of', 1)}; set data.size: [height, width] to what the model takes")
    return ImageEncoder(size=common)


def _size_of(facts: ImageFacts) -> str:
    return "of several sizes" if facts.size is None else f"of {facts.size[0]}x{facts.size[1]} pixels"


TASK = ImageClassification()
