"""Where a training run stands and what it ends in, on disk: written atomically; a checkpoint is checked when read, with the one before kept."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdedge.models.weights import as_safetensors
from kdedge.progress import message

_NEWEST, _PREVIOUS, _PARTIAL = "checkpoint.bin", "checkpoint.previous.bin", "checkpoint.partial"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain values) as the newest checkpoint; the newest so far becomes the previous one.

    The file is the SHA-256 of what follows, then torch's format: a torn or damaged file is noticed.

    Raises:
        OSError: the disk is full or cannot be written; what was saved before is intact.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    _write(folder / _PARTIAL, hashlib.sha256(content).digest(), content)
    if (folder / _NEWEST).exists():
        (folder / _NEWEST).replace(folder / _PREVIOUS)
    (folder / _PARTIAL).replace(folder / _NEWEST)


def load_checkpoint(folder: Path, run: str) -> dict[str, Any] | None:
    """The newest intact checkpoint of this very run (`state["run"]` is `run`), or None to start anew. Only tensors and plain values are read."""
    for name in (_NEWEST, _PREVIOUS):
        if (folder / name).exists():
            state = _read(folder / name)
            if state is not None and state["run"] == run:
                return state
            message(f"{name} is {'damaged' if state is None else 'of another run'}: it is not used")
    return None


def write_weights(state: dict[str, Tensor], path: Path) -> None:
    """Write what is left of a finished run as safetensors: whole or not at all, and the same bytes for the same state.

    Made in memory and written under a name that the next attempt uses again: a kill leaves nothing behind that nobody removes.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    _write(path.parent / _PARTIAL, as_safetensors(state))
    (path.parent / _PARTIAL).replace(path)


def remove_checkpoints(folder: Path) -> None:
    """Remove what is only there to resume."""
    for name in (_NEWEST, _PREVIOUS, _PARTIAL):
        (folder / name).unlink(missing_ok=True)


def _write(path: Path, *parts: bytes | memoryview) -> None:
    with path.open("wb") as handle:
        for part in parts:
            handle.write(part)
        handle.flush()
        os.fsync(handle.fileno())


def _read(path: Path) -> dict[str, Any] | None:
    content = path.read_bytes()
    digest, payload = content[:32], content[32:]
    if hashlib.sha256(payload).digest() != digest:
        return None
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError):
        return None
    return state
