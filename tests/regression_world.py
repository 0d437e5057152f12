"""Two real, tiny ONNX files that differ in a weight, and simulated devices that say what each of them takes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import pytest
from check_world import MILLISECONDS
from onnx import TensorProto, helper, numpy_helper

from kdedge.latency.check import Arm, Checked, CheckSettings
from kdedge.latency.history.records import LaunchRecord
from kdedge.latency.looks import Looks
from kdedge.latency.pairs import Order, Pair, Timed
from kdedge.latency.verdicts import CheckRule, State, judge
from kdedge.regression.checking import CheckedCell, CheckReport
from kdedge.runtimes.job import Job

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
    yield f"slower: {{transport: 'simulated:quiet', set: {{milliseconds: {json.dumps(times)}}}}}"
    for name, scenario, more in (("same", "quiet", ""), ("loud", "noisy", ", launch_sd: 0.3"), ("hot", "throttle", "")):
        yield f"{name}: {{transport: 'simulated:{scenario}', set: {{milliseconds: {MILLISECONDS}{more}}}}}"


def sha256(path: Path) -> str:
    """Of its content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- reports without a launch ----------------------------------------------------------------------------------------------

EQUAL, SLOW, OPEN = (0.0,) * 10, (math.log(1.1),) * 10, (-0.05, 0.12) * 5
"""Log ratios of ten pairs: nothing changed, 10 % slower, and too wild to tell."""


def checked(ratios: Sequence[float], *, problem: str = "", name: str = "after", noise: float = 0.001) -> Checked:
    """A check whose pairs had these log ratios, give or take `noise`; with a `problem`, every second candidate has it."""
    order: tuple[Order, Order] = ("AB", "BA")
    pairs, launches = [], []
    for number, ratio in enumerate(ratios):
        after = MILLISECONDS * math.exp(ratio + noise * math.cos(number))
        problems = (problem,) if problem and number % 2 else ()
        both = Timed(MILLISECONDS, MILLISECONDS * 1.1, 100), Timed(after, after * 1.1, 100, problems)
        pairs.append(Pair(number, order[number % 2], *both))
        launches += [
            LaunchRecord("line", arm * 64, one.median_ms or 0.0, 100, arm, number, one.p90_ms, "; ".join(one.problems))
            for arm, one in zip("AB", both, strict=True)
        ]
    verdict = judge(pairs, CheckRule(Looks((len(ratios),), 0.01, 2)))
    job = Job("launch", "onnxruntime", {"model": ["m.onnx"]}, {"threads": 1}, [{"x": "x.npy"}])
    arms = (Arm("before", "line", "A" * 64, job), Arm(name, "line", "B" * 64, job))
    return Checked(verdict, "10 pairs of launches", *arms, tuple(launches), 1.5)


def cell(
    found: Checked, *, key: str = "", device: str = "board", again: Checked | None = None, state: State | None = None, notes: tuple[str, ...] = ()
) -> CheckedCell:
    """One cell of a report."""
    return CheckedCell(key, device, "ssh", {"cpu": "made up"}, found, again, state or (again or found).verdict.state, 0.5, notes)


def report(
    *cells: CheckedCell,
    missing: tuple[str, ...] = (),
    names: tuple[str, str] = ("models/before.onnx", "models/after.onnx"),
    lost: tuple[str, ...] = (),
) -> CheckReport:
    """A report of these cells."""
    return CheckReport(*names, CheckSettings(pairs=10, looks=1), cells, missing, datetime(2026, 11, 30, 12, tzinfo=UTC), lost)


def four_states() -> CheckReport:
    """A cell in each of four states, and one that was not compared."""
    return report(
        cell(checked(EQUAL), key="cpu/fp32"),
        cell(checked(SLOW), key="cpu/int8"),
        cell(checked(OPEN), key="gpu/fp16"),
        cell(checked(EQUAL, problem="the CPU throttled"), key="gpu/int8"),
        missing=("gpu/fp32 stands in models/before.onnx only",),
    )
