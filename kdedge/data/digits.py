"""The 1,797 real handwritten digits that scikit-learn ships: 8x8 grey images, upscaled to 32x32.

From UCI's "Optical recognition of handwritten digits" (Alpaydin, Kaynak 1998). `train` has 1,437 of them and `test` 360, 36 of each digit;
`unlabelled` are those of `train` without their labels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdedge.data import UNLABELLED
from kdedge.data.arrays import save_arrays
from kdedge.data.draws import Stream, draws
from kdedge.data.images import pillow
from kdedge.data.reading import ReadSplit, same_classes
from kdedge.errors import DataError, MissingExtra

TOOLS = ("scikit-learn", "pillow")

UInt8 = npt.NDArray[np.uint8]

_SIDE = 32
_DARKEST = 16  # scikit-learn counts the ink of a cell in 0..16
_TEST_PER_DIGIT = 36
# The split is the same for every recipe and seed, so that figures of two runs are of the same test images.
_SPLIT_SEED = 0


def read(argument: str, split: str, folder: Path, limit: int | None, classes: tuple[str, ...] | None) -> ReadSplit:
    """Read `sklearn:digits` and write one split of it as uint8 [n, 32, 32, 3], three equal channels.

    Raises:
        DataError: a name other than `digits`, or training classes other than the ten digits.
        MissingExtra: scikit-learn or Pillow is not installed.
    """
    if argument != "digits":
        raise DataError(f"sklearn:{argument}: of scikit-learn's data only `digits` can be read; write sklearn:digits")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtra("sklearn", "train", "reading sklearn:digits") from error
    values, labels = load_digits(return_X_y=True)
    labels = labels.astype(np.int64)
    chosen = np.flatnonzero(_is_test(labels) == (split == "test"))[:limit]
    known = np.zeros_like(labels) if split == UNLABELLED else labels
    names = same_classes(tuple(str(digit) for digit in range(10)), classes, "sklearn:digits")
    return save_arrays(_upscale(values[chosen].reshape(-1, 8, 8)), known[chosen], names, split, folder, f"digits_{split}")


def _is_test(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    order = draws(_SPLIT_SEED, 0, np.arange(len(labels), dtype=np.int64), Stream.DIGITS_SPLIT)
    chosen = np.zeros(len(labels), bool)
    for digit in range(10):
        members = np.flatnonzero(labels == digit)
        chosen[members[np.argsort(order[members], kind="stable")[:_TEST_PER_DIGIT]]] = True
    return chosen


def _upscale(values: npt.NDArray[np.float64]) -> UInt8:
    Image = pillow("upscaling the digits")
    grey = np.rint(values * (255 / _DARKEST)).astype(np.uint8)
    # 8-bit grey is resized in whole numbers: the same pixels on every machine.
    large = [np.asarray(Image.fromarray(image).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)) for image in grey]
    return np.stack(large)[..., None]
