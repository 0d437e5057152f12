"""A folder of images, one folder a class: `DIR/CLASS/**/*.jpg`. Files are decoded when they are asked for; sizes may differ.

Unlabelled images lie anywhere below the folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdedge import progress
from kdedge.artifact import ImportPath, SplitSource
from kdedge.data import UNLABELLED
from kdedge.data.images import SUFFIXES, decode
from kdedge.data.reading import ReadSplit, number_of
from kdedge.data.survey import ImageFacts, facts_of
from kdedge.data.threads import in_threads
from kdedge.errors import DataError

Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]


class FolderExamples:
    """Image files under one folder. `raw` is one array where all images have one size, else a list."""

    def __init__(self, folder: Path, files: Sequence[str], labels: Int64, uniform: bool) -> None:
        self.folder = folder
        self.ids = files
        self.labels = labels
        self.sizes: Int64 | None = None
        self.uniform = uniform

    def __len__(self) -> int:
        return len(self.ids)

    def raw(self, indices: Int64) -> UInt8 | list[UInt8]:
        """uint8 [b, H, W, 3], or a list of uint8 [H, W, 3] where sizes differ.

        Raises:
            DataError: a file cannot be read (names it).
        """
        images = list(in_threads(lambda index: _decode(self.folder / self.ids[index]), indices.tolist()))
        return np.stack(images) if self.uniform and images else images


def open_folder(index: Path, folder: Path) -> FolderExamples:
    """Open what `read` listed in the index.

    Raises:
        DataError: the folder is gone.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: the image folder is not there any more")
    listing = json.loads(index.read_text(encoding="utf-8"))
    return FolderExamples(folder, listing["files"], np.array(listing["labels"], np.int64), listing["uniform"])


def read(argument: str, split: str, folder: Path, limit: int | None, classes: tuple[str, ...] | None) -> ReadSplit:
    """List the folder and read every image once: to prove that it can be read, and for the fingerprint and the channels' statistics.

    Classes are the folders' names, sorted; a test folder may lack some of the training folder's. The order takes one file of each class in
    turn, so that the first N hold all classes alike.

    Raises:
        DataError: a missing folder, no class folders, a class without images, a class that is not in training, an unreadable image.
    """
    root = Path(argument)
    if split == UNLABELLED:
        files = _below(root)[:limit]
        return _surveyed(root, files, np.zeros(len(files), np.int64), classes or (), split, folder)
    found = _list(root)
    names = tuple(found) if classes is None else classes
    numbers = dict(zip(found, number_of(list(found), names, [str(root / name) for name in found]).tolist(), strict=True))
    ranked = sorted((rank, numbers[name], file) for name, files in found.items() for rank, file in enumerate(files))[:limit]
    labels = np.array([number for _, number, _ in ranked], np.int64)
    return _surveyed(root, [file for _, _, file in ranked], labels, names, split, folder)


def _surveyed(root: Path, files: list[str], labels: Int64, names: tuple[str, ...], split: str, folder: Path) -> ReadSplit:
    digest = hashlib.sha256()
    facts: list[ImageFacts] = []
    for position, (content, image) in enumerate(in_threads(lambda file: _survey(root, file), files)):
        digest.update(f"{files[position]}\0{labels[position]}\0{content}\n".encode())
        facts.append(image)
        if position % 100 == 0:
            progress.advance(f"reading {split} images", position, len(files))
    progress.advance(f"reading {split} images", len(files), len(files))
    total = reduce(add, facts)
    index = folder / f"{split}-index.json"
    listing = {"classes": names, "files": files, "labels": labels.tolist(), "uniform": total.size is not None}
    index.write_text(json.dumps(listing, sort_keys=True, ensure_ascii=False), encoding="utf-8")
    source = SplitSource(ImportPath("kdedge.data.folder:open_folder"), {"index": index, "folder": root}, len(files), digest.hexdigest())
    return ReadSplit(source, "image", labels, names, files, total)


def _below(root: Path) -> list[str]:
    """All images below the folder, sorted; what is hidden is left out."""
    _need_folder(root)
    found = (path.relative_to(root) for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and _is_given(path))
    files = sorted(path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))
    if not files:
        raise DataError(f"{root} holds no image (known endings: {', '.join(SUFFIXES)})")
    return files


def _need_folder(root: Path) -> None:
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder")


def _list(root: Path) -> dict[str, list[str]]:
    _need_folder(root)
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise DataError(f"{root} has no class folders; images must lie as {root.name}/CLASS/image.jpg")
    found: dict[str, list[str]] = {}
    for folder in folders:
        files = sorted(path.relative_to(root).as_posix() for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and _is_given(path))
        if not files:
            raise DataError(f"{folder} holds no image (known endings: {', '.join(SUFFIXES)})")
        found[folder.name] = files
    return found


def _is_given(path: Path) -> bool:
    """A link that leads nowhere counts: it stands for an image that cannot be read."""
    return path.is_file() or path.is_symlink()


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _decode(path: Path) -> UInt8:
    return decode(_content(path), str(path))


def _survey(root: Path, file: str) -> tuple[str, ImageFacts]:
    content = _content(root / file)
    return hashlib.sha256(content).hexdigest(), facts_of(decode(content, str(root / file)))
