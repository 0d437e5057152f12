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
from kdedge.tasks.classification import Classification, calibration_sample, read_both

_READERS = ("npz", "folder", "sklearn", "python")
_FOR_TEXTS = ("max_length", "tokenizer")


class ImageClassification(Classification):
    """`kdedge.tasks.contract.Task` for images."""

    name = "image-classification"

    def prepare(self, data: DataSection, seed: int, folder: Path) -> PreparedData:
        """Read both splits; `limit_train` and `limit_test` take the first N in the reader's order.

        `statistics` are `mean` and `std` of each channel over all pixels of the training images, unresized. Where all images have one size the
        encoder takes them as they are; `data.size` resizes the shorter side to the larger of height and width, then cuts at the centre.

        Raises:
            RecipeError: an unknown reader or augmentation, a key that is for texts.
            DataError: as the readers; labels out of range; images of several sizes without `data.size`; a channel without contrast.
        """
        parse(data.augment)
        for key in _FOR_TEXTS:
            if key in data.model_fields_set:
                raise RecipeError(f"data.{key} is for texts; remove it, {self.name} does not use it")
        train, test = read_both(data, folder, readers=_READERS, kind="image", task=self.name)
        if train.images is None or test.images is None:
            raise DataError("an image reader gave no facts of its images")
        std = train.images.std
        if min(std) == 0:
            raise DataError(
                f"data.train: all pixels of channel {std.index(0)} have the same value in all images; they cannot be normalised, nor told apart"
            )
        return PreparedData(
            task=ImportPath("kdedge.tasks.image_classification:TASK"),
            splits={"train": train.source, "test": test.source},
            classes=train.classes,
            calibration=calibration_sample(train.source.size, data.calibration, seed),
            encoder=_encoder(data.size, train.images, test.images),
            statistics={"mean": train.images.mean, "std": std},
        )

    def augment(self, raw: Any, samples: npt.NDArray[np.int64], view: int, seed: int, names: tuple[str, ...]) -> Any:
        """Crop and flip as `kdedge.data.augment` says.

        Raises:
            RecipeError: an unknown name.
        """
        how = parse(names)
        return augment(raw, samples, view, seed, how) if names else raw


def _encoder(size: tuple[int, int] | None, train: ImageFacts, test: ImageFacts) -> ImageEncoder:
    both = train + test
    if size is not None:
        return ImageEncoder(size=size, resize=None if both.size == size else max(size))
    if both.size is None:
        sizes = ("of several sizes" if facts.size is None else f"of {facts.size[0]}x{facts.size[1]} pixels" for facts in (train, test))
        raise DataError(f"training images are {next(sizes)}, test images {next(sizes)}; set data.size: [height, width] to what the model takes")
    return ImageEncoder(size=both.size)


TASK = ImageClassification()
