"""A distillation step of kdedge against torchdistill 1.1.5 and against the student alone: ResNet-56 -> ResNet-20, CIFAR-10, batch 128.

Run: make bench-distill DATA=DIR, or: python benchmarks/distill_speed.py DIR [--steps 200] [--views 1]
(DIR holds cifar10.npz and teachers/cifar10_resnet56/model.safetensors). Needs torchvision and torchdistill.

All arms train in one process and take turns of 10 steps in rotating order, so that a machine that is busy at times slows them alike; a ratio is
the median over the turns. torchdistill runs its own box, loader and transforms with the number of loader workers that is fastest for it here.
kdedge runs its trainer with the answers of the teacher read from its cache, in bfloat16, channels last, compiled; filling the cache is timed and
printed beside it. To reach: 3.5 times faster than torchdistill, and at most 1.15 times the step of kdedge's own student-only run, with the same
loss curve (mean of the KD loss over the last third of the steps; torchdistill's own spread is printed).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from distill_arms import Photos, Turns, bare, eager_turns, kdedge_turns, spec_like, torchdistill_turns

from kdedge.artifact import ImportPath, ModelFiles, PreparedData, TeacherFiles
from kdedge.distill.cache import fill
from kdedge.distill.seeding import seed_everything
from kdedge.distill.spec import Shown, TeacherSpec
from kdedge.distill.teacher import obtain
from kdedge.models.catalog import resolve
from kdedge.models.load import build, to_files
from kdedge.recipe import DataSection, ModelSection, TeacherSection
from kdedge.tasks import TASKS
from kdedge.tasks.prepare import prepare
from kdedge.trained import CachedView

BATCH = 128
_FAST = {"precision": "bf16", "channels_last": True, "compile": True}
_EPOCHS, _VIEWS = 30, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=200, help="steps of each arm, after the first turn, which is not counted")
    parser.add_argument("--limit", type=int, default=12800, help="training images: a hundred steps an epoch")
    parser.add_argument("--workers", type=int, default=1, help="torchdistill's loader workers")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = compare(arguments.data, Path(folder), arguments.steps, arguments.limit, arguments.workers)
    print(json.dumps({"benchmark": "distill_speed", "torch": torch.__version__, **result}))


def compare(source: Path, folder: Path, steps: int, limit: int, workers: int) -> dict[str, object]:
    """Milliseconds a step of each arm, their ratios, the cost of the cache and the losses at the end."""
    data, teacher, student = _prepared(source, folder, limit)
    view, fill_ms = _filled(teacher, data, folder, limit)
    member = teacher.members[0]
    assert member.normalize is not None
    with np.load(source / "cifar10.npz", allow_pickle=False) as arrays:
        photos = Photos(arrays["x_train"][:limit], arrays["y_train"][:limit].astype(np.int64), *member.normalize)
    epochs = {"epochs": -(-(steps + 200) * BATCH // limit), "batch_size": BATCH}
    spec = spec_like(student)
    makers: dict[str, Callable[[], Turns]] = {
        "torchdistill": lambda: torchdistill_turns(bare(member), bare(student), photos, BATCH, workers),
        "eager_student": lambda: eager_turns(bare(student), photos, BATCH, workers),
        "eager_student_bf16": lambda: eager_turns(bare(student), photos, BATCH, workers, fast=True),
        "kdedge_student_only": lambda: kdedge_turns(spec, data, None, (), folder / "alone", {**epochs, **_FAST}),
        "kdedge": lambda: kdedge_turns(spec, data, teacher, (view,), folder / "taught", {**epochs, **_FAST}),
        "kdedge_uncompiled": lambda: kdedge_turns(spec, data, teacher, (view,), folder / "eager", {**epochs, **_FAST, "compile": False}),
    }
    times, losses = _take_turns({name: make() for name, make in makers.items()}, steps)
    return _result(times, losses, fill_ms)


def _prepared(source: Path, folder: Path, limit: int) -> tuple[PreparedData, TeacherFiles, ModelFiles]:
    section = DataSection(
        train=f"npz:{source}/cifar10.npz", test=f"npz:{source}/cifar10.npz", augment=("crop4", "flip"), limit_train=limit, limit_test=100
    )
    (folder / "data").mkdir()
    data = prepare(ImportPath(TASKS["image-classification"]), section, 0, folder=folder / "data").part("train")
    given = TeacherSection(model="kdedge:resnet56-cifar", weights=source / "teachers/cifar10_resnet56/model.safetensors", normalize="imagenet")
    (folder / "teacher").mkdir()
    teacher = obtain((TeacherSpec(resolve(given, data, as_is=True)),), data, 0, folder=folder / "teacher")
    seed_everything(0)
    spec = resolve(ModelSection(model="kdedge:resnet20-cifar", normalize="imagenet"), data)
    (folder / "student").mkdir()
    return data, teacher, to_files(spec, build(spec), folder / "student")


def _filled(teacher: TeacherFiles, data: PreparedData, folder: Path, limit: int) -> tuple[CachedView, float]:
    (folder / "view").mkdir()
    started = time.perf_counter()
    view = fill(teacher, ("logits",), data, Shown(("crop4", "flip"), 0), 0, None, folder=folder / "view")
    return view, 1000 * (time.perf_counter() - started) / limit


def _take_turns(arms: dict[str, Turns], steps: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    times: dict[str, list[float]] = {name: [] for name in arms}
    losses: dict[str, list[float]] = {name: [] for name in arms}
    order = list(arms)
    for turn in range(1 + steps // 10):
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            started = time.perf_counter()
            _, loss = next(arms[name])
            if turn:
                times[name].append(100 * (time.perf_counter() - started))
                losses[name].append(loss)
    return times, losses


def _result(times: dict[str, list[float]], losses: dict[str, list[float]], fill_ms: float) -> dict[str, object]:
    milliseconds = {name: statistics.median(values) for name, values in times.items()}
    speedup = statistics.median(theirs / mine for theirs, mine in zip(times["torchdistill"], times["kdedge"], strict=True))
    alone = statistics.median(mine / theirs for theirs, mine in zip(times["kdedge_student_only"], times["kdedge"], strict=True))
    # Each view is asked once and used EPOCHS / VIEWS times.
    share = fill_ms * BATCH * _VIEWS / _EPOCHS
    with_filling = statistics.median(theirs / (mine + share) for theirs, mine in zip(times["torchdistill"], times["kdedge"], strict=True))
    last = len(losses["kdedge"]) * 2 // 3
    ends = {name: losses[name][last:] for name in ("torchdistill", "kdedge")}
    for name, value in milliseconds.items():
        print(f"{name:22} {value:7.1f} ms a step")
    print(f"filling the cache: {fill_ms * BATCH:.1f} ms a batch of {BATCH} and view")
    print(f"spread over {_EPOCHS} epochs of {_VIEWS} views: {share:.1f} ms a step")
    for name, values in ends.items():
        print(f"loss over the last third, {name}: {statistics.mean(values):.3f} (sd of turns {statistics.pstdev(values):.3f})")
    return {
        "speedup_vs_torchdistill": round(speedup, 3),
        "speedup_with_filling": round(with_filling, 3),
        "views": _VIEWS,
        "epochs": _EPOCHS,
        "ratio_to_student_only": round(alone, 3),
        "milliseconds": {name: round(value, 1) for name, value in milliseconds.items()},
        "fill_ms_a_batch": round(fill_ms * BATCH, 1),
        "loss": {name: round(statistics.mean(values), 4) for name, values in ends.items()},
        "loss_sd": {name: round(statistics.pstdev(values), 4) for name, values in ends.items()},
    }


if __name__ == "__main__":
    main()
