"""Training runs that a test makes twice: in one process, and by `python spread_runs.py FOLDER` in several."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from distill_world import image_data, spec, training
from torch import distributed

from kdedge.distill.spec import TeacherSpec
from kdedge.distill.teacher import obtain
from kdedge.distill.trainer import distill
from kdedge.recipe import OptimizerSection

SEED = 5
CE, KD = {"ce": 0.5}, {"kd": 1.0, "temperature": 2.0}
HINT = {"fitnet": 0.05, "layers": ["1"]}
# None of them has batch statistics or draws anything, so that the sum over processes is the sum over the batch, up to rounding. Batches of 12
# and 13: of the latter one process has 7 examples, the other 6.
EXACT: dict[str, tuple[tuple[dict[str, Any], ...], dict[str, Any]]] = {
    "labels": ((CE,), {"ema": 0.5, "clip_norm": 0.1}),
    "adapter": ((CE, KD, HINT), {"clip_norm": 1.0}),
    "late-adapter": ((CE, {**HINT, "start": 0.4, "stop": 0.8}), {}),
    "temperature": ((CE, {"kd": 1.0, "temperature": {"learned": {"warmup_epochs": 1}}, "start": 0.3}), {}),
    "pieces": ((CE, KD), {"accumulate": 3, "clip_norm": 0.1}),
    "many-pieces": ((CE, HINT), {"accumulate": 50, "optimizer": OptimizerSection(name="adamw", lr=0.01)}),
}


def run(case: str, root: Path, folder: Path, seed: int = SEED) -> None:
    """Train one case. `root` holds the teacher, which all processes read; `folder` is made."""
    # Data of its own for each process, because it is written here.
    data = image_data(root / "data" / os.environ.get("RANK", "alone"))
    folder.mkdir(parents=True, exist_ok=True)
    if case in EXACT:
        losses, section = EXACT[case]
        teacher = obtain((TeacherSpec(spec("mlp", width=8), training(epochs=1)),), data, SEED, folder=root / "teacher")
        distill(spec("mlp"), training(*losses, teacher=True, **section), teacher, data, seed, folder=folder)
    elif case == "unused":
        distill(spec("mlp", unused=True), training(), None, data, seed, folder=folder)
    elif case == "memory":
        teacher = obtain((TeacherSpec(spec("mlp", width=8), training(epochs=1)),), data, SEED, folder=root / "teacher")
        memory = {"crd": 0.1, "layers": ["1"], "negatives": 8, "dimension": 4}
        distill(spec("mlp"), training(CE, memory, teacher=True), teacher, data, seed, folder=folder)
    elif case == "statistics":
        distill(spec(dropout=0.0), training(epochs=4), None, data, seed, folder=folder)


if __name__ == "__main__":
    for each in (*EXACT, "unused", "memory", "statistics"):
        run(each, Path(sys.argv[1]), Path(sys.argv[1]) / "spread" / each)
    # Left to the end of the process, the group's threads may outlive what they work for, which aborts it; now and then one does so even here.
    distributed.barrier()
    distributed.destroy_process_group()
    os._exit(0)
