"""ONNX files that come inside packages of PyPI, inputs for them as their own preprocessing makes them, and what their outputs mean.

Inputs are made here from seeds: rendered text, synthesised voices and tones; magika reads files of Python's standard library.
"""

from __future__ import annotations

import builtins
import keyword
import os
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from kdedge.exporters.foreign.distance import Runner

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
Outputs = Mapping[str, Array]
RATE = 16000  # of voices, samples a second
WORDS = sorted(word for word in {*dir(builtins), *keyword.kwlist, *dir(os)} if 3 < len(word) < 14)


@dataclass(frozen=True)
class Foreign:
    """`package` of PyPI that holds `file`. `inputs(model, count, seed)` makes the arrays of a calibration file.
    `same(wanted, found)`: how many of how many decisions of one call are alike; `meaning` says of what."""

    package: str
    file: str
    inputs: Callable[[Path, int, int], Arrays]
    count: int
    meaning: str
    same: Callable[[Outputs, Outputs], tuple[int, int]]


# ---- text on images --------------------------------------------------------------------------------------------------------


def _draw(image: Image.Image, at: tuple[int, int], text: str, size: int, random: np.random.Generator) -> None:
    ImageDraw.Draw(image).text(at, text, fill=_colour(random, 0, 100), font=ImageFont.load_default(size=size))


def _colour(random: np.random.Generator, low: int, high: int) -> tuple[int, int, int]:
    red, green, blue = random.integers(low, high, 3).tolist()
    return red, green, blue


def _line(random: np.random.Generator, width: int) -> Image.Image:
    image = Image.new("RGB", (width, 48), _colour(random, 170, 256))
    _draw(image, (6, int(random.integers(2, 10))), " ".join(random.choice(WORDS, 2)), int(random.integers(22, 36)), random)
    return image


def _centred(image: Image.Image) -> Array:
    return ((np.asarray(image, np.float32) / 255 - 0.5) / 0.5).transpose(2, 0, 1)


def lines(model: Path, count: int, seed: int) -> Arrays:
    random = np.random.default_rng(seed)
    return {"x": np.stack([_centred(_line(random, 320)) for _ in range(count)])}


def turned_lines(model: Path, count: int, seed: int) -> Arrays:
    """Every other line stands on its head."""
    random = np.random.default_rng(seed)
    images = [_line(random, 192) for _ in range(count)]
    return {"x": np.stack([_centred(image.rotate(180) if number % 2 else image) for number, image in enumerate(images)])}


def pages(model: Path, count: int, seed: int) -> Arrays:
    random, found = np.random.default_rng(seed), []
    for _ in range(count):
        image = Image.new("RGB", (320, 320), _colour(random, 150, 256))
        for top in range(10, 300, 60):
            _draw(image, (int(random.integers(0, 150)), top), str(random.choice(WORDS)), int(random.integers(16, 40)), random)
        scaled = (np.asarray(image, np.float32) / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        found.append(scaled.transpose(2, 0, 1).astype(np.float32))
    return {"x": np.stack(found)}


def _decoded(probabilities: Array) -> list[int]:
    """Greedy CTC: repeats are one, 0 is blank."""
    best = probabilities.argmax(axis=-1).tolist()
    return [one for one, before in zip(best, [-1, *best[:-1]], strict=True) if one not in (0, before)]


def same_text(wanted: Outputs, found: Outputs) -> tuple[int, int]:
    (a,), (b,) = wanted.values(), found.values()
    return sum(_decoded(one) == _decoded(other) for one, other in zip(a, b, strict=True)), len(a)


def same_class(wanted: Outputs, found: Outputs) -> tuple[int, int]:
    (a,), (b,) = wanted.values(), found.values()
    return int((a.argmax(axis=-1) == b.argmax(axis=-1)).sum()), len(a)


def same_text_pixels(wanted: Outputs, found: Outputs) -> tuple[int, int]:
    """Of the pixels that either calls text (above 0.3, as the package does)."""
    (a,), (b,) = ((array > 0.3 for array in outputs.values()) for outputs in (wanted, found))
    return int((a & b).sum()), int((a | b).sum())


# ---- sound -----------------------------------------------------------------------------------------------------------------


def _voice(random: np.random.Generator, samples: int) -> Array:
    """Harmonics of a gliding pitch, switched on and off as syllables are, in noise."""
    time = np.arange(samples) / RATE
    pitch = 2 * np.pi * np.cumsum(random.uniform(90, 250) * (1 + 0.1 * np.sin(random.uniform(2, 6) * time))) / RATE
    tone = sum(random.uniform(0.1, 1) / order * np.sin(order * pitch) for order in range(1, 25))
    syllables = np.clip(3 * np.sin(2 * np.pi * random.uniform(1, 4) * time + random.uniform(0, 6)), 0, 1)
    loudness = random.choice([0.0, 0.03, 0.15])
    return np.asarray(loudness * syllables * tone + 0.004 * random.normal(size=samples), np.float32)


def frames_with_state(model: Path, count: int, seed: int) -> Arrays:
    """512 samples after 64 of context; the state is the one that the model itself is in there."""
    random, runner = np.random.default_rng(seed), Runner(model)
    given = {value.name for value in runner.session.get_inputs()}
    frames, states = [], []
    state = np.zeros((2, 1, 128), np.float32)
    for number in range(4 * count):
        if number % 40 == 0:
            sound, state = _voice(random, 41 * 512), np.zeros((2, 1, 128), np.float32)
        start = 448 + number % 40 * 512
        frame = sound[None, start : start + 576]
        if number % 4 == 3:
            frames.append(frame)
            states.append(state)
        feed = {"input": frame, "state": state, "sr": np.asarray(RATE, np.int64)}
        state = runner({name: array for name, array in feed.items() if name in given})["stateN"]
    arrays = {"input": np.stack(frames), "state": np.stack(states), "sr": np.full(count, RATE)}
    return {name: array for name, array in arrays.items() if name in given}


def sequences(model: Path, count: int, seed: int) -> Arrays:
    random = np.random.default_rng(seed)
    sounds = np.stack([_voice(random, 17 * 512) for _ in range(count)])
    frames = np.stack([sounds[:, 448 + number * 512 :][:, :576] for number in range(16)], axis=1)
    return {"input": frames, "h": np.zeros((count, 1, 1, 128), np.float32), "c": np.zeros((count, 1, 1, 128), np.float32)}


def same_speech(wanted: Outputs, found: Outputs) -> tuple[int, int]:
    name = "output" if "output" in wanted else "speech_probs"
    return int(((wanted[name] > 0.5) == (found[name] > 0.5)).sum()), wanted[name].size


def chords(model: Path, count: int, seed: int) -> Arrays:
    """Two seconds of eight plucked notes, at 22,050 samples a second."""
    random, found = np.random.default_rng(seed), []
    time = np.arange(43844) / 22050
    for _ in range(count):
        sound = 0.001 * random.normal(size=len(time))
        for _ in range(8):
            pitch, start = 440 * 2 ** ((random.integers(36, 84) - 69) / 12), random.uniform(0, 1.6)
            partials = sum(0.5**order * np.sin(2 * np.pi * pitch * (order + 1) * time) for order in range(6))
            sound += 0.15 * partials * np.exp(-3 * np.maximum(time - start, 0)) * (time > start)
        found.append(sound.astype(np.float32)[:, None])
    return {"audio": np.stack(found)}


def same_notes(wanted: Outputs, found: Outputs) -> tuple[int, int]:
    """Of the notes that either hears at a moment (above 0.3, as the package does)."""
    name = "StatefulPartitionedCall:1"
    a, b = wanted[name] > 0.3, found[name] > 0.3
    return int((a & b).sum()), int((a | b).sum())


# ---- files -----------------------------------------------------------------------------------------------------------------


def file_bytes(model: Path, count: int, seed: int) -> Arrays:
    """The first and last 1,024 bytes of files, white space at the ends cut off, 256 where there are fewer."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and path.stat().st_size > 64 and "site-packages" not in path.parts]
    found = []
    for number in np.random.default_rng(seed).permutation(len(files))[:count]:
        content = files[number].read_bytes()
        start, end = content[:4096].lstrip()[:1024], content[-4096:].rstrip()[-1024:]
        found.append([*start, *[256] * (1024 - len(start)), *[256] * (1024 - len(end)), *end])
    return {"bytes": np.asarray(found, np.int32)}


_OCR, _SILERO = "rapidocr_onnxruntime/models/", "silero_vad/data/"
MODELS: dict[str, Foreign] = {
    "ocr-detect": Foreign("rapidocr-onnxruntime", f"{_OCR}ch_PP-OCRv4_det_infer.onnx", pages, 40, "text pixels", same_text_pixels),
    "ocr-turn": Foreign("rapidocr-onnxruntime", f"{_OCR}ch_ppocr_mobile_v2.0_cls_infer.onnx", turned_lines, 80, "directions", same_class),
    "ocr-read": Foreign("rapidocr-onnxruntime", f"{_OCR}ch_PP-OCRv4_rec_infer.onnx", lines, 60, "lines read", same_text),
    "basic-pitch": Foreign("basic-pitch", "basic_pitch/saved_models/icassp_2022/nmp.onnx", chords, 24, "notes", same_notes),
    "magika": Foreign("magika", "magika/models/standard_v3_3/model.onnx", file_bytes, 120, "kinds of file", same_class),
    "silero-sequence": Foreign("silero-vad", f"{_SILERO}silero_vad_16k_sequence.onnx", sequences, 60, "speech or not", same_speech),
    "silero-16k": Foreign("silero-vad", f"{_SILERO}silero_vad_16k_op15.onnx", frames_with_state, 200, "speech or not", same_speech),
    "silero": Foreign("silero-vad", f"{_SILERO}silero_vad.onnx", frames_with_state, 60, "speech or not", same_speech),
}


def named(model: Path, arrays: Arrays) -> Arrays:
    """The arrays by the graph's own input names; a single one fits any."""
    names = [value.name for value in Runner(model).session.get_inputs()]
    return {names[0]: next(iter(arrays.values()))} if len(names) == len(arrays) == 1 else arrays


def save(path: Path, arrays: Arrays) -> None:
    """As a calibration file."""
    keywords: dict[str, Any] = dict(arrays)
    np.savez(path, **keywords)
