"""Does training cost grow with the data? Steps per second and memory of one run at 5,000 and at 50,000 examples.

Ten times the examples must mean ten times the steps and nothing else: a step costs the same, and memory does not grow. The two sizes take turns,
a few rounds, so that whatever else the machine does meets both; where it is busy, the time of the processor tells more than that of the clock.
Run it as `python benchmarks/distill_scaling.py`; the last line is JSON.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from kdedge import progress
from kdedge.artifact import ImageEncoder, ImportPath, PreparedData
from kdedge.data.arrays import save_arrays
from kdedge.distill.terms import training_spec
from kdedge.distill.trainer import distill
from kdedge.models.spec import ModelSpec, inputs_of
from kdedge.recipe import OptimizerSection, TrainSection

SIZES = (5_000, 50_000)
BATCH, ROUNDS, FIRST, LAST = 64, 3, 20, 140
CLASSES = tuple(str(number) for number in range(10))
ENCODER = ImageEncoder((32, 32))


class DoneError(Exception):
    """The steps that are timed are over."""


class Timer(progress.Silent):
    """Times the steps from FIRST to LAST, and reads the memory that is the process's own at both."""

    def __init__(self) -> None:
        self.seconds = self.cpu_seconds = 0.0
        self.memory: list[float] = []

    def advance(self, what: str, done: int, total: int, note: str) -> None:
        if done == FIRST:
            self.begun, self.worked = time.perf_counter(), time.process_time()
            self.memory.append(_own_memory())
        if done == LAST:
            self.seconds, self.cpu_seconds = time.perf_counter() - self.begun, time.process_time() - self.worked
            self.memory.append(_own_memory())
            raise DoneError


def random_images(size: int, folder: Path) -> PreparedData:
    """As many images of 32x32 as asked for, written into `folder`, whose labels say nothing of them."""
    images = np.random.default_rng(0).integers(0, 256, (size, 32, 32, 3), dtype=np.uint8)
    split = save_arrays(images, np.arange(size, dtype=np.int64) % 10, CLASSES, "train", folder, "random").source
    return PreparedData(ImportPath("kdedge.tasks.image_classification:TASK"), {"train": split, "test": split}, CLASSES, (0, 1), ENCODER)


def model_of(factory: str, **arguments: Any) -> ModelSpec:
    """A model of kdedge's own for these images; `factory` is named as in `kdedge.models`."""
    return ModelSpec(
        name=factory.partition(":")[2],
        factory=ImportPath(f"kdedge.models.{factory}"),
        arguments={"classes": 10, **arguments},
        weights=None,
        onnx=None,
        normalize=((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
        encoder=ENCODER,
        inputs=inputs_of(ENCODER),
        outputs=("logits",),
        classes=CLASSES,
    )


def measure(size: int) -> dict[str, float]:
    """One run in this process: steps per second, and megabytes of its own (RssAnon) at the last timed step and grown since the first."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, progress.listening(timer := Timer()):
        folder = Path(name)
        data, model = random_images(size, folder), model_of("small_cnn:small_cnn", width=8, depth=1)
        # As many epochs as it takes: the smaller data is gone through more than once.
        section = TrainSection(epochs=3, batch_size=BATCH, optimizer=OptimizerSection(lr=0.01), checkpoint_seconds=1e9)
        (folder / "run").mkdir()
        with contextlib.suppress(DoneError):
            distill(model, training_spec(section, augment=("crop4", "flip")), None, data, 0, folder=folder / "run")
    steps = LAST - FIRST
    return {
        "steps_per_second": steps / timer.seconds,
        "steps_per_cpu_second": steps / timer.cpu_seconds,
        "own_mb": timer.memory[1],
        "grown_mb": timer.memory[1] - timer.memory[0],
    }


def _own_memory() -> float:
    """Megabytes that belong to this process alone: pages of mapped files, which the system takes back at will, do not count."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def main() -> None:
    """Measure both sizes in turns, each in a process of its own."""
    found: dict[int, list[dict[str, float]]] = {size: [] for size in SIZES}
    for _ in range(ROUNDS):
        for size in SIZES:
            done = subprocess.run([sys.executable, __file__, str(size)], check=True, capture_output=True, text=True)
            found[size].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{size:>7} examples: {found[size][-1]}", flush=True)
    middle = {size: {name: median(run[name] for run in runs) for name in runs[0]} for size, runs in found.items()}
    # Rounds are pairs, so that a machine that slows down over the rounds does not count.
    ratios = {name: _ratios(name, found) for name in ("steps_per_second", "steps_per_cpu_second")}
    result: dict[str, Any] = {
        **{name: {str(size): round(value[name], 2) for size, value in middle.items()} for name in middle[SIZES[0]]},
        **{f"ratio_{name}": round(median(values), 3) for name, values in ratios.items()},
        **{f"ratios_{name}": values for name, values in ratios.items()},
    }
    print(json.dumps(result))


def _ratios(name: str, found: dict[int, list[dict[str, float]]]) -> list[float]:
    return [round(large[name] / small[name], 3) for small, large in zip(*found.values(), strict=True)]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(int(sys.argv[1]))))
    else:
        main()
