"""A linear classifier as an artifact: small enough to compute by numpy, real enough for a real worker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from kdedge.artifact import Artifact, EncodedInputs, GraphFile, ImageEncoder, InputBucket, Lineage, TensorSpec
from kdedge.measured import References

SIZE, CLASSES = 41, 3


class Linear:
    """images [n, 3, 2, 2] -> logits [n, 3]; as arrays, files, references and an ONNX artifact."""

    def __init__(self, folder: Path) -> None:
        generator = np.random.default_rng(0)
        self.folder = folder
        self.images = generator.random((SIZE, 3, 2, 2), dtype=np.float32)
        self.weight = generator.normal(size=(12, CLASSES)).astype(np.float32)
        self.bias = generator.normal(size=CLASSES).astype(np.float32)
        self.logits: npt.NDArray[np.float32] = self.images.reshape(SIZE, 12) @ self.weight + self.bias
        self.labels = np.where(np.arange(SIZE) % 4 == 0, 0, self.logits.argmax(axis=1)).astype(np.int64)
        self.teacher_logits = (self.logits + generator.normal(scale=0.3, size=self.logits.shape)).astype(np.float32)

    def inputs(self, parts: int = 1) -> EncodedInputs:
        """The images in buckets that take turns: bucket k holds the places k, k + parts, ..."""
        buckets = []
        for part in range(parts):
            indices = np.arange(part, SIZE, parts, dtype=np.int64)
            files = {name: self.folder / f"{name}-{parts}-{part}.npy" for name in ("image", "indices")}
            np.save(files["image"], self.images[indices])
            np.save(files["indices"], indices)
            buckets.append(InputBucket({"image": files["image"]}, files["indices"], len(indices)))
        return EncodedInputs(tuple(buckets), SIZE)

    def references(self, teacher: bool = True) -> References:
        files = {name: self.folder / f"{name}.npy" for name in ("labels", "student", "teacher")}
        for name, array in (("labels", self.labels), ("student", self.logits), ("teacher", self.teacher_logits)):
            np.save(files[name], array)
        return References(files["labels"], {"logits": files["student"]}, {"logits": files["teacher"]} if teacher else None, {})

    def artifact(self, batch: int | str = 4, path: Path | None = None, **changes: Any) -> Artifact:
        from kdedge.artifact import Dimension

        first = batch if isinstance(batch, int) else Dimension("batch", 1, 8, 64)
        path = path or self.onnx_file(batch)
        spec = (TensorSpec("image", "float32", (first, 3, 2, 2)),)
        graph = GraphFile("main", (path,), spec, (TensorSpec("logits", "float32", (first, CLASSES)),))
        values: dict[str, Any] = {
            "target": "onnxruntime-x86",
            "precision": "fp32",
            "format": "onnx",
            "runtime": "onnxruntime",
            "dialect": "onnxruntime-x86",
            "graphs": (graph,),
            "sha256": "0" * 64,
            "size_bytes": 100,
            "options": {"threads": 1, "spinning": False},
            "encoder": ImageEncoder((2, 2)),
            "classes": ("a", "b", "c"),
            "lineage": Lineage("r", "", "s", "0", "0"),
        }
        return Artifact(**{**values, **changes})

    def onnx_file(self, batch: int | str) -> Path:
        onnx = pytest.importorskip("onnx")
        helper, numpy_helper = onnx.helper, onnx.numpy_helper
        rows = batch if isinstance(batch, int) else "batch"
        nodes = [helper.make_node("Flatten", ["image"], ["flat"]), helper.make_node("Gemm", ["flat", "w", "b"], ["logits"])]
        graph = helper.make_graph(
            nodes,
            "linear",
            [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [rows, 3, 2, 2])],
            [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [rows, CLASSES])],
            [numpy_helper.from_array(self.weight, "w"), numpy_helper.from_array(self.bias, "b")],
        )
        path = self.folder / f"linear-{batch}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
        return path


@pytest.fixture(name="linear")
def _linear(tmp_path: Path) -> Linear:
    (tmp_path / "made").mkdir()
    return Linear(tmp_path / "made")


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    """An empty folder that belongs to the stage."""
    (tmp_path / "stage").mkdir()
    return tmp_path / "stage"


@pytest.fixture
def stage_folder(tmp_path: Path) -> Callable[[str], Path]:
    """More of them, by name."""

    def make(name: str) -> Path:
        (tmp_path / name).mkdir()
        return tmp_path / name

    return make
