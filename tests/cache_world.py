"""Teachers, their kept answers and the batches that they are compared on, for tests of the cache."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from distill_world import CLASSES, SIDE, Tiny, spec
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from kdedge.artifact import ImportPath, PreparedData, SplitSource, TeacherFiles
from kdedge.data import open_examples
from kdedge.data.examples import places_in_split
from kdedge.distill.batches import Batches, Plan
from kdedge.distill.cache import Remembered, fill
from kdedge.distill.ensemble import Teacher
from kdedge.distill.spec import Shown, TeacherSpec
from kdedge.distill.step import place
from kdedge.distill.teacher import obtain
from kdedge.models.load import build, to_files
from kdedge.models.spec import ModelSpec
from kdedge.trained import CachedView

SHOWN = Shown(("crop1", "flip"), seed=11)


def made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def one(folder: Path, data: PreparedData, seed: int = 1, code: str = "distill_world:tiny") -> TeacherFiles:
    """A teacher that was not trained."""
    return obtain((TeacherSpec(given(folder / f"given{seed}", seed, code)),), data, 0, folder=made(folder / f"teacher{seed}"))


def given(folder: Path, seed: int, code: str = "distill_world:tiny") -> ModelSpec:
    model = dataclasses.replace(spec(), name=code.partition(":")[2], factory=ImportPath(code))
    torch.manual_seed(seed)
    return dataclasses.replace(model, weights=to_files(model, build(model), made(folder)).weights)


def onnx_spec(path: Path) -> ModelSpec:
    """One matrix times the pixels."""
    weight = np.random.default_rng(0).normal(scale=0.3, size=(3 * SIDE * SIDE, len(CLASSES))).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["image"], ["flat"]), helper.make_node("MatMul", ["flat", "weight"], ["logits"])],
        "teacher",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", len(CLASSES)])],
        [numpy_helper.from_array(weight, "weight")],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return dataclasses.replace(spec(), name="onnx:teacher.onnx", factory=None, arguments={}, onnx=path, normalize=None, inputs=(), outputs=())


def ensemble(folder: Path, data: PreparedData) -> TeacherFiles:
    """A torch module and an ONNX file, with weights and temperatures of their own."""
    members = (TeacherSpec(given(folder / "torch", 2), weight=3.0), TeacherSpec(onnx_spec(folder / "file" / "teacher.onnx")))
    files = obtain(members, data, 0, folder=made(folder / "ensemble"))
    return dataclasses.replace(files, temperatures=(2.0, 0.5))


def kept(
    folder: Path,
    teacher: TeacherFiles,
    data: PreparedData,
    wanted: tuple[str, ...] = ("logits",),
    shown: Shown = SHOWN,
    views: int = 2,
    top_k: int | None = None,
) -> tuple[CachedView, ...]:
    return tuple(fill(teacher, wanted, data, shown, view, top_k, folder=made(folder / f"view{view}")) for view in range(views))


def both(
    teacher: TeacherFiles,
    views: Sequence[CachedView],
    data: PreparedData,
    wanted: tuple[str, ...],
    shown: Shown,
    *,
    seed: int,
    batch_size: int,
    part: SplitSource | None = None,
) -> list[tuple[dict[str, npt.NDArray[Any]], dict[str, npt.NDArray[Any]]]]:
    """What the teacher says live and what was kept, for every batch of three epochs in the order of a run with this seed. `part`: of the data that
    the run learns from, where it is not all of it."""
    examples = open_examples(part or data.splits["train"])
    places = places_in_split(examples, np.arange(len(examples), dtype=np.int64))
    live, remembered = Teacher(teacher, "logits", wanted), Remembered(views, teacher, wanted, data, shown, places)
    plan = Plan(batch_size, seed, shown, views=len(views))
    batches = Batches(examples, data.task.load(), live.encoders, plan)
    found = []
    for batch in batches.from_step(0, 3 * batches.steps_per_epoch):
        inputs, _ = place(batch, batches.encoders, torch.device("cpu"), channels_last=False)
        answers = live.answers(inputs, batch, wanted), remembered.answers({}, batch, wanted)
        found.append(tuple({name: value.numpy() for name, value in each.items()} for each in answers))
    return found  # type: ignore[return-value]


class NanLate(Tiny):
    """Knows no answer about the eighteenth of a batch."""

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image).index_fill(0, torch.arange(len(image))[17:18], torch.nan)


def nan_late(classes: int, width: int = 4, dropout: float = 0.3) -> Tiny:
    return NanLate(classes, width, dropout)


class Slow(Tiny):
    """Takes ten milliseconds an example."""

    def forward(self, image: Tensor) -> Tensor:
        time.sleep(0.01 * len(image))
        return super().forward(image)


def slow(classes: int, width: int = 4, dropout: float = 0.3) -> Tiny:
    return Slow(classes, width, dropout)
