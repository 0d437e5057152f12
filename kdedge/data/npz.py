"""Images and labels from one `.npz` file: `x_SPLIT` (uint8 NHWC, RGB or grey), `y_SPLIT` (whole numbers), optional `classes` (names).

Unlabelled images are `x_unlabelled`, or `x_train` where there is none.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.data import UNLABELLED
from kdedge.data.arrays import save_arrays
from kdedge.data.npy import UNREADABLE, check_members
from kdedge.data.reading import NumberedIds, ReadSplit, numbered_classes, same_classes
from kdedge.errors import DataError

Array = npt.NDArray[Any]


def read(argument: str, split: str, folder: Path, limit: int | None, classes: tuple[str, ...] | None) -> ReadSplit:
    """Read `x_SPLIT` and `y_SPLIT` of the file, in the order of the file, and copy them to memory-mappable arrays.

    Raises:
        DataError: a missing file, not an npz, a missing key (lists the keys found), one that is there twice, a wrong dtype or shape, different
            lengths, an empty split.
    """
    path = Path(argument)
    if split == UNLABELLED:
        return _unlabelled(path, folder, limit, classes or ())
    x, y = f"x_{split}", f"y_{split}"
    found = _load(path, (x, y), "classes")
    images, labels = _images(found[x], f"{path}: {x}"), _labels(found[y], f"{path}: {y}")
    if not len(images):
        raise DataError(f"{path}: {x} is empty: the {split} split needs at least one image")
    if len(images) != len(labels):
        raise DataError(f"{path}: {x} has {len(images)} images and {y} {len(labels)} labels; both must have the same length")
    if "classes" in found:
        names = same_classes(_names(found["classes"], f"{path}: classes"), classes, str(path))
    elif classes is not None:
        names = classes
    else:
        names = numbered_classes(labels, NumberedIds(y + "[{}]", len(labels)), f"{path}: {y}")
    return save_arrays(images[:limit], labels[:limit], names, split, folder, x)


def _unlabelled(path: Path, folder: Path, limit: int | None, classes: tuple[str, ...]) -> ReadSplit:
    ((x, array),) = _load(path, ("x_unlabelled",), instead="x_train").items()
    images = _images(array, f"{path}: {x}")[:limit]
    if not len(images):
        raise DataError(f"{path}: {x} is empty: the unlabelled split needs at least one image")
    return save_arrays(images, np.zeros(len(images), np.int64), classes, UNLABELLED, folder, x)


def _load(path: Path, needed: tuple[str, ...], optional: str = "", instead: str = "") -> dict[str, Array]:
    """The arrays `needed`, and `optional` if it is there; `instead` is taken where the only one that is needed is missing."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    try:
        archive = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        # What numpy cannot recognise it takes for a pickle, and says how to load that all the same.
        what = error if zipfile.is_zipfile(path) else "it is no zip archive"
        raise DataError(f"{path} is not an .npz file that can be read: {what}") from error
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise DataError(f"{path} holds one array and not an .npz archive; save it with numpy.savez(path, {'=..., '.join(needed)}=...)")
    with archive:
        check_members(path, archive.files)
        if instead in archive.files and needed[0] not in archive.files:
            needed = (instead,)
        missing = [key for key in needed if key not in archive.files]
        if missing:
            raise DataError(f"{path} has no `{missing[0]}` (needed: {', '.join(needed)}; found: {', '.join(sorted(archive.files)) or 'nothing'})")
        found: dict[str, Array] = {}
        for key in (*needed, *([optional] if optional in archive.files else [])):
            try:
                found[key] = archive[key]
            except UNREADABLE as error:
                raise DataError(f"{path}: `{key}` cannot be read (arrays of Python objects are refused): {error}") from error
    return found


def _images(array: Array, where: str) -> npt.NDArray[np.uint8]:
    if array.dtype != np.uint8:
        raise DataError(f"{where} has dtype {array.dtype}; images must be uint8 in 0..255, not normalised")
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[-1] not in (1, 3) or 0 in array.shape[1:]:
        raise DataError(f"{where} has shape {array.shape}; images must be [n, height, width, 3] (RGB), [n, height, width, 1] or [n, height, width]")
    return array


def _labels(array: Array, where: str) -> npt.NDArray[np.int64]:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(f"{where} has dtype {array.dtype} and shape {array.shape}; labels must be whole numbers [n] that count classes from 0")
    return array.astype(np.int64)


def _names(array: Array, where: str) -> tuple[str, ...]:
    if array.ndim != 1 or array.dtype.kind not in "US" or len(array) == 0:
        raise DataError(f"{where} has dtype {array.dtype} and shape {array.shape}; class names must be strings [number of classes]")
    names = tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in array.tolist())
    if len(set(names)) != len(names):
        raise DataError(f"{where} names a class twice: {', '.join(sorted({name for name in names if names.count(name) > 1}))}")
    return names
