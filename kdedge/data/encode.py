"""From raw examples to the arrays that enter a graph, as the model's encoder says. The same function serves training, calibration and measurement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.artifact import Encoder, ImageEncoder, TextEncoder
from kdedge.data.images import pillow
from kdedge.data.threads import in_threads
from kdedge.data.tokenizer import load
from kdedge.errors import DataError

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]


def encode(encoder: Encoder, raw: Any, length: int | None = None) -> dict[str, npt.NDArray[Any]]:
    """Encode a batch, by input name.

    Images: float32 [n, channels, height, width] in [0, 1] (value / 255), contiguous. Texts: int64 [n, length] ids and attention mask, padded on the
    right to `length`, or to the longest of the batch where that is None.

    Raises:
        DataError: raw examples of another kind, an image of the wrong size where the encoder does not resize, a text without tokens.
        MissingExtra: Pillow (resizing) or tokenizers (texts) is not installed.
    """
    if isinstance(encoder, TextEncoder):
        return _encode_texts(encoder, _texts(raw), length)
    return {encoder.input_name: encode_images(encoder, raw)}


def lengths(encoder: TextEncoder, raw: Any) -> Int64:
    """Tokens of each text, special ones included, at most `max_length`: int64 [n].

    Raises:
        DataError: raw examples that are no texts, a text without tokens.
    """
    return np.array([len(found.ids) for found in _tokenized(encoder, _texts(raw))], dtype=np.int64)


def encode_images(encoder: ImageEncoder, raw: UInt8 | Sequence[UInt8]) -> Float32:
    """uint8 [n, H, W, 3], or a list of uint8 [H, W, 3], to float32 [n, channels, height, width] in [0, 1].

    Raises:
        DataError: as `encode`.
    """
    if not isinstance(raw, np.ndarray) and any(isinstance(item, str) for item in raw):
        raise DataError("the model takes images, but the examples are texts")
    if not (isinstance(raw, np.ndarray) and raw.ndim == 4 and raw.shape[1:3] == encoder.size and encoder.resize in (None, min(encoder.size))):
        fitted = list(in_threads(lambda image: fit(encoder, image), list(raw)))
        raw = np.stack(fitted) if fitted else np.zeros((0, *encoder.size, 3), np.uint8)
    if encoder.channels == 1:
        raw = _luma(raw)
    elif encoder.channels != 3:
        raise DataError(f"the model takes {encoder.channels} channels; images have 3 (RGB) or 1 (grey)")
    out = np.ascontiguousarray(raw.transpose(0, 3, 1, 2)).astype(np.float32)
    out /= np.float32(255)
    return out


def fit(encoder: ImageEncoder, image: UInt8) -> UInt8:
    """One uint8 [H, W, 3] image with its shorter side resized, then cut at its centre to `encoder.size`.

    The longer side is rounded down and the cut starts at round((side - size) / 2), as torchvision does, whose models expect it.

    Raises:
        DataError: the image does not have the size (no resize), or is smaller than the cut.
        MissingExtra: Pillow is not installed.
    """
    height, width = image.shape[:2]
    rows, columns = encoder.size
    if encoder.resize is None:
        if (height, width) != encoder.size:
            raise DataError(f"an image of {height}x{width} pixels does not fit the model's {rows}x{columns}, which does not resize; set data.size")
        return image
    shorter = min(height, width)
    if shorter != encoder.resize:
        height, width = height * encoder.resize // shorter, width * encoder.resize // shorter
        Image = pillow("resizing images")
        filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC, "nearest": Image.Resampling.NEAREST}
        image = np.asarray(Image.fromarray(image).resize((width, height), filters[encoder.interpolation]))
    if height < rows or width < columns:
        raise DataError(
            f"a shorter side of {encoder.resize} pixels leaves {height}x{width}, less than the model's {rows}x{columns}; resize must be larger"
        )
    top, left = round((height - rows) / 2), round((width - columns) / 2)
    return image[top : top + rows, left : left + columns]


def _luma(images: UInt8) -> UInt8:
    # ITU-R BT.601 in 16-bit fixed point; the weights sum to 2^16, so that grey stays exactly what it is.
    weighted = images.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
    return ((weighted + 0x8000) >> 16).astype(np.uint8)[..., None]


def _texts(raw: Any) -> list[str]:
    if isinstance(raw, np.ndarray) or not all(isinstance(item, str) for item in raw):
        raise DataError("the model takes texts, but the examples are images")
    return list(raw)


def _tokenized(encoder: TextEncoder, texts: list[str]) -> list[Any]:
    found: list[Any] = load(encoder.tokenizer, encoder.max_length).encode_batch(texts)
    for text, tokens in zip(texts, found, strict=True):
        if not tokens.ids:
            raise DataError(f"the tokenizer makes no token of the text {text[:60]!r}")
    return found


def _encode_texts(encoder: TextEncoder, texts: list[str], length: int | None) -> dict[str, npt.NDArray[Any]]:
    found = _tokenized(encoder, texts)
    longest = max((len(tokens.ids) for tokens in found), default=1)
    if length is not None and longest > length:
        raise DataError(f"a text has {longest} tokens, more than the length of {length} asked for")
    shape = (len(texts), length or longest)
    arrays = (np.full(shape, encoder.pad_id, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64))
    for row, tokens in enumerate(found):
        for array, values in zip(arrays, (tokens.ids, tokens.attention_mask, tokens.type_ids), strict=True):
            array[row, : len(values)] = values
    if len(encoder.input_names) > len(arrays):
        raise DataError(f"a text becomes ids, attention mask and token types; the model takes {len(encoder.input_names)} inputs")
    return dict(zip(encoder.input_names, arrays, strict=False))
