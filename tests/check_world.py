"""Two model files on a simulated device, the second slower by a given share."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from kdedge.devices.device import Device, DeviceSettings
from kdedge.devices.simulated import open_device
from kdedge.latency.check import Arm
from kdedge.runtimes.job import Job

MILLISECONDS = 2.0


def model_files(folder: Path, names: tuple[str, ...] = ("before", "after")) -> list[Path]:
    """Files that only their content tells apart: the simulated device never opens them."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.onnx" for name in names]
    for path in paths:
        path.write_text(path.stem)
    return paths


def simulated(scenario: str, before: Path, after: Path, slower: float, **fields: Any) -> Device:
    """`after` takes `slower` (a fraction) longer than `before`."""
    times = {_sha256(before): MILLISECONDS, _sha256(after): MILLISECONDS * (1 + slower)}
    return open_device(f"simulated:{scenario}", DeviceSettings(address=scenario, set={"milliseconds": times, **fields}))


def arm(path: Path, folder: Path, name: str = "", **options: Any) -> Arm:
    """An arm that launches a model file on one row of zeros."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "x.npy", np.zeros((1, 2), np.float32))
    job = Job("launch", "onnxruntime", {"model": [str(path)]}, {"threads": 1, **options}, [{"x": str(folder / "x.npy")}])
    return Arm(name or path.stem, "line/int8", _sha256(path), job)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
