"""Fill the git-ignored data/ folder that the examples name, from a folder that holds cifar10/, teachers/ and text_sst2/.

usage: fetch_data.py SOURCE DESTINATION        (what the source must hold is described in docs/data.md)
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

TILE, PER_ROW = 32, 50
PACKED = ("cifar10", "cifar100_subset")
COPIED = ("teachers", "text_sst2", "detection_bccd", "translation_multi30k_en_de")


def images_of(sheet: Path) -> npt.NDArray[np.uint8]:
    """The 32x32 tiles of one sheet, row by row: uint8 [n, 32, 32, 3], with the empty tiles of the last row."""
    with Image.open(sheet) as image:
        pixels = np.asarray(image.convert("RGB"))
    rows = pixels.shape[0] // TILE
    return pixels.reshape(rows, TILE, PER_ROW, TILE, 3).swapaxes(1, 2).reshape(-1, TILE, TILE, 3)


def pack(source: Path, destination: Path) -> None:
    """Sheets and labels into one npz with x_SPLIT, y_SPLIT and classes."""
    facts = json.loads((source / "meta.json").read_text())
    labels = np.load(source / "labels.npz", allow_pickle=False)
    arrays: dict[str, npt.NDArray[np.generic]] = {"classes": np.array(facts.get("classes") or facts["class_names"])}
    for split in ("train", "test"):
        tiles = np.concatenate([images_of(sheet)[:5000] for sheet in sorted(source.glob(f"{split}-*.webp"))])
        wanted = len(labels[split])
        if len(tiles) < wanted:
            raise SystemExit(f"{source}: {split} holds {len(tiles)} images for {wanted} labels")
        arrays[f"x_{split}"], arrays[f"y_{split}"] = tiles[:wanted], labels[split]
    np.savez(destination, **arrays)  # type: ignore[arg-type]
    print(f"{destination}: {', '.join(f'{name} {array.shape}' for name, array in arrays.items())}")


def main(source: Path, destination: Path) -> None:
    """Copy what is there, name what is not."""
    if not any((source / name).is_dir() for name in (*PACKED, *COPIED)):
        raise SystemExit(f"data error: {source} holds none of {', '.join((*PACKED, *COPIED))}; docs/data.md describes them")
    destination.mkdir(exist_ok=True)
    for name in PACKED:
        if (source / name / "meta.json").is_file():
            pack(source / name, destination / f"{name}.npz")
        else:
            print(f"{source / name}: not there, left out")
    for name in COPIED:
        if (source / name).is_dir():
            for file in (file for file in sorted((source / name).rglob("*")) if file.is_file()):
                target = destination / name / file.relative_to(source / name)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)  # the bytes alone: a read-only source must not make a read-only copy
            print(f"{destination / name}: copied")
        else:
            print(f"{source / name}: not there, left out")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
