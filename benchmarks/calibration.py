"""What collecting the ranges of all observers costs beside a plain float pass over the same examples, and how much memory it takes.

To reach: at most twice the pass, and at most 1 GB, on ResNet-20, ResNet-56 and EfficientNet-Lite0.

Run: python benchmarks/calibration.py [--only MODEL ...] [--repeats 7] [--state DIR]

The pass: an open session of ONNX Runtime, one thread, batch 32, the graph's own outputs. The collection: all of `observe`, from the file to the
table: reading and opening the graph, the pass with its probes, and the searches of five observers for activations and weights. Both take turns in one
process. Their ratio is of CPU time, which is what a single thread costs whoever else is on the machine; that of wall time is given beside it.
Peak memory is that of a process of its own that collects once, interpreter and examples included. The models and their examples are those of
benchmarks/quantization.py (docs/data.md; EfficientNet-Lite0 comes from PyPI).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from quantization_models import data_root, load, prepare

from kdedge.exporters.quantize.calibrate import observe
from kdedge.exporters.quantize.recover import batches_of
from kdedge.intervals import median_estimate
from kdedge.recipe import QuantizeSection
from kdedge.runtimes.memory import peak_memory_bytes
from kdedge.runtimes.onnxruntime import import_runtime

ort = import_runtime()  # without its telemetry

MODELS = ("resnet20", "resnet56", "efficientnet-lite0")
BATCH = 32

Batches = Sequence[dict[str, npt.NDArray[Any]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", action="append", choices=MODELS, help="these models alone")
    parser.add_argument("--repeats", type=int, default=7, help="passes and collections that are timed")
    parser.add_argument("--state", type=Path, help="where models and examples are kept; default: benchmarks/quantization in the data folder")
    parser.add_argument("--part", choices=("time", "memory", "pass-memory"), help=argparse.SUPPRESS)
    parser.add_argument("--files", type=Path, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps(measure(arguments.part, arguments.files[0], arguments.files[1], arguments.repeats)))
        return
    state = (arguments.state or data_root() / "benchmarks" / "quantization").resolve()
    found = {name: compare(name, state, arguments.repeats) for name in arguments.only or MODELS}
    print(json.dumps({"benchmark": "calibration", "models": found}))


def compare(name: str, state: Path, repeats: int) -> dict[str, Any]:
    """Time and memory of one model, printed and returned."""
    subject = prepare(name, state / name, state)
    found: dict[str, Any] = {}
    for part in ("time", "memory", "pass-memory"):
        command = [sys.executable, __file__, "--part", part, "--files", str(subject.float), str(subject.calibration), "--repeats", str(repeats)]
        found |= json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    ratio = median_estimate("ratio", found["cpu_ratios"], "")
    wall = median_estimate("wall_ratio", found.pop("wall_ratios"), "")
    found |= {"ratio": ratio.as_json(), "wall_ratio": wall.as_json()}
    del found["cpu_ratios"]
    print(
        f"{name:18} {found['examples']} examples: pass {found['pass_seconds']:.2f} s, collection {found['collection_seconds']:.2f} s of CPU; "
        f"ratio {ratio} (wall {wall}; to reach: 2); "
        f"peak {_megabytes(found['peak_memory_mb'])} (a pass: {_megabytes(found['pass_peak_memory_mb'])}; to reach: 1000 MB)",
        flush=True,
    )
    return found


def _megabytes(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0f} MB"


def measure(part: str, model: Path, examples: Path, repeats: int) -> dict[str, Any]:
    """What a child process finds out."""
    arrays = load(examples)
    count = len(next(iter(arrays.values())))
    batches = batches_of(arrays, BATCH)
    if part == "memory":
        collect(model, batches)
        return {"peak_memory_mb": _peak()}
    run = _pass(model, batches)
    if part == "pass-memory":
        run()
        return {"pass_peak_memory_mb": _peak()}
    run()  # warm up
    passes, collections = [], []
    for _ in range(repeats):
        passes.append(_seconds(run))
        collections.append(_seconds(lambda: collect(model, batches)))
    wall, cpu = ([after[place] / before[place] for before, after in zip(passes, collections, strict=True)] for place in (0, 1))
    return {
        "examples": count,
        "pass_seconds": float(np.median([cpu for _, cpu in passes])),
        "collection_seconds": float(np.median([cpu for _, cpu in collections])),
        "cpu_ratios": cpu,
        "wall_ratios": wall,
    }


def collect(model: Path, batches: Batches) -> None:
    observe(model, batches, QuantizeSection())


def _pass(model: Path, batches: Batches) -> Callable[[], None]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])

    def run() -> None:
        for batch in batches:
            session.run(None, batch)

    return run


def _seconds(work: Callable[[], None]) -> tuple[float, float]:
    """Wall and CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def _peak() -> float | None:
    peak = peak_memory_bytes()
    return None if peak is None else peak / 1e6


if __name__ == "__main__":
    main()
