"""Reading one image file as the world takes it: upright, RGB, uint8."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.errors import DataError, MissingExtra

# Another Pillow may decode or resize to other pixels.
TOOLS = ("pillow",)

UInt8 = npt.NDArray[np.uint8]

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")


def pillow(purpose: str) -> Any:
    """The module `PIL.Image`.

    Raises:
        MissingExtra: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra("PIL", "train", purpose) from error
    return Image


def decode(content: bytes, name: str) -> UInt8:
    """uint8 [H, W, 3], turned as its EXIF orientation says; transparency is dropped, of an animation the first frame is taken.

    Raises:
        DataError: it is no image, is damaged or cut short, or has more than 8 bits a channel (names the file).
        MissingExtra: Pillow is not installed.
    """
    Image = pillow("reading images")
    from PIL import ImageOps

    try:
        with Image.open(io.BytesIO(content)) as image:
            mode = image.mode
            if mode.startswith(("I", "F")):
                raise DataError(f"{name}: pixels of mode `{mode}` hold more than 8 bits; convert the image to 8 bits a channel")
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except DataError:
        raise
    except Exception as error:  # A damaged file makes Pillow's decoders raise nearly anything.
        said = str(error).partition(" <_io.")[0]  # Pillow names the buffer that it was given
        raise DataError(f"{name} is not an image that can be read: {said}") from error


def from_pil(image: Any) -> UInt8:
    """uint8 [H, W, 3] of a `PIL.Image.Image`."""
    return np.asarray(image.convert("RGB"))
