"""Two real, tiny ONNX files that differ in a weight, and simulated devices that say what each of them takes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from check_world import MILLISECONDS
from onnx import TensorProto, helper, numpy_helper

SLOWER = 0.10
"""By so much the device `slower` finds `after.onnx` slower than `before.onnx`."""


@dataclass(frozen=True)
class World:
    """A folder with `before.onnx`, `after.onnx` and `devices.yaml`: `same`, `slower`, `loud` and `hot`."""

    folder: Path
    before: Path
    after: Path


def model(path: Path, scale: float, outputs: tuple[str, ...] = ("y",), width: int = 3) -> Path:
    """x [batch, `width`] -> `scale` x + (0, 1, 2 ...), once for each output."""
    constants = [numpy_helper.from_array(np.float32(scale), "scale"), numpy_helper.from_array(np.arange(width, dtype=np.float32), "shift")]
    nodes = [helper.make_node("Mul", ["x", "scale"], ["scaled"]), *(helper.make_node("Add", ["scaled", "shift"], [name]) for name in outputs)]
    described = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]) for name in ("x", *outputs)]
    graph = helper.make_graph(nodes, "graph", described[:1], described[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def make_world(folder: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The files, and KDEDGE_DEVICES set to their devices."""
    folder.mkdir(parents=True, exist_ok=True)
    world = World(folder, model(folder / "before.onnx", 1.0), model(folder / "after.onnx", 2.0))
    times = {sha256(world.before): MILLISECONDS, sha256(world.after): MILLISECONDS * (1 + SLOWER)}
    (folder / "devices.yaml").write_text("\n".join(_devices(times)))
    monkeypatch.setenv("KDEDGE_DEVICES", str(folder / "devices.yaml"))
    return world


def _devices(times: dict[str, float]) -> Iterator[str]:
    same = {key: MILLISECONDS for key in times}
    yield f"same: {{transport: 'simulated:quiet', set: {{milliseconds: {json.dumps(same)}}}}}"
    yield f"slower: {{transport: 'simulated:quiet', set: {{milliseconds: {json.dumps(times)}}}}}"
    yield f"loud: {{transport: 'simulated:noisy', set: {{milliseconds: {json.dumps(same)}, launch_sd: 0.3}}}}"
    yield f"hot: {{transport: 'simulated:throttle', set: {{milliseconds: {json.dumps(same)}}}}}"


def sha256(path: Path) -> str:
    """Of its content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
