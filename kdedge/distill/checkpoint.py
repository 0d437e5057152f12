"""Where a training run stands, on disk: written atomically, checked when read, with the one before kept."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from pathlib import Path
from typing import Any

import torch

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
    with (folder / _PARTIAL).open("wb") as handle:
        handle.write(hashlib.sha256(content).digest())
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())
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


def remove_checkpoints(folder: Path) -> None:
    """Remove what is only there to resume."""
    for name in (_NEWEST, _PREVIOUS, _PARTIAL):
        (folder / name).unlink(missing_ok=True)


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
