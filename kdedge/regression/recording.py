"""The launches of a run, as the history keeps them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdedge import __version__
from kdedge.latency.history.records import LaunchRecord, Session
from kdedge.latency.percentiles import nearest_rank
from kdedge.measured import Cell, DeviceIdentity

if TYPE_CHECKING:
    from kdedge.latency.history.store import History


def record_profiles(recipe: str, cells: Sequence[Cell], devices: Sequence[DeviceIdentity], history: History) -> int:
    """Add a session a cell that was timed on a device of its target; one that is in the history already is left. Returns how many cells were told.

    A proxy's latency says nothing about its target and is not kept.
    """
    known: Mapping[str, DeviceIdentity] = {device.name: device for device in devices}
    told = 0
    for cell in cells:
        if cell.latency.status == "ok" and cell.latency.samples and not cell.proxy:
            history.add(session_of(recipe, cell, known[cell.device]))
            told += 1
    return told


def session_of(recipe: str, cell: Cell, device: DeviceIdentity) -> Session:
    """The launches of one cell. Its id is made of the samples, so that a cached measurement is the same session whenever it is told."""
    artifact, latency = cell.artifact, cell.latency
    line = f"{recipe}/{artifact.target}/{artifact.precision}"
    samples = [np.load(path, allow_pickle=False).astype(np.int64) for path in latency.samples]
    invalid = latency.invalid or ("",) * len(samples)
    launches = []
    for number, (nanoseconds, reason) in enumerate(zip(samples, invalid, strict=True)):
        milliseconds = nanoseconds / 1e6
        launches.append(
            LaunchRecord(
                line=line,
                sha256=artifact.sha256,
                median_ms=float(np.median(milliseconds)),
                iterations=len(milliseconds),
                pair=number,
                p90_ms=nearest_rank(milliseconds, 0.90),
                invalid=reason,
                samples=nanoseconds,
            )
        )
    content = hashlib.sha256(f"{line} {artifact.sha256} {device.name} {sorted(device.fingerprint.items())}".encode())
    for nanoseconds in samples:
        content.update(nanoseconds.tobytes())
    return Session(
        id=content.hexdigest()[:32],
        kind="profile",
        started=_written(latency.samples[0]),
        device=device.name,
        fingerprint=device.fingerprint,
        launches=tuple(launches),
        tool_version=__version__,
    )


def _written(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)
