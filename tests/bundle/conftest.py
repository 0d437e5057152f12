"""A cell that was really measured: a small classifier in ONNX, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdedge.artifact import Artifact, Dimension, EncodedInputs, Encoder, GraphFile, ImageEncoder, InputBucket, Lineage, TensorSpec, TextEncoder
from kdedge.bundle.pack import Bundle, pack
from kdedge.estimate import Estimate
from kdedge.measured import Cell, Fidelity, Latency, References

Array = npt.NDArray[Any]
WEIGHT = np.random.default_rng(7).normal(size=(12, 5)).astype(np.float32)


class Work:
    """A folder in which cells are made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def graph(self, batch: int | str = 1, name: str = "model.onnx") -> Path:
        """image [batch, 3, 2, 2] -> logits [batch, 5]."""
        nodes = [
            helper.make_node("Flatten", ["image"], ["flat"], axis=1),
            helper.make_node("MatMul", ["flat", "w"], ["product"]),
            helper.make_node("Add", ["product", "b"], ["logits"]),
        ]
        graph = helper.make_graph(
            nodes,
            "graph",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 2, 2])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 5])],
            [numpy_helper.from_array(WEIGHT, "w"), numpy_helper.from_array(np.linspace(-1, 1, 5, dtype=np.float32), "b")],
        )
        path = self.folder / name
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
        return path

    def images(self, count: int = 11) -> Array:
        return np.random.default_rng(3).random((count, 3, 2, 2)).astype(np.float32)

    def logits(self, images: Array) -> Array:
        result: Array = images.reshape(len(images), -1) @ WEIGHT + np.linspace(-1, 1, 5, dtype=np.float32)
        return result.astype(np.float32)

    def save(self, name: str, array: Array) -> Path:
        path = self.folder / name
        np.save(path, array)
        return path

    def inputs(self, images: Array) -> EncodedInputs:
        bucket = InputBucket({"image": self.save("image.npy", images)}, self.save("indices.npy", np.arange(len(images))), len(images))
        return EncodedInputs((bucket,), len(images))

    def references(self, images: Array) -> References:
        labels = self.save("labels.npy", np.zeros(len(images), np.int64))
        return References(labels, {"logits": self.save("student.npy", self.logits(images))}, None, {})

    def artifact(
        self, *, batch: int | Dimension = 1, files: tuple[Path, ...] | None = None, encoder: Encoder | None = None, **changes: Any
    ) -> Artifact:
        shape = (batch, 3, 2, 2)
        graph = GraphFile(
            "main",
            files or (self.graph(batch if isinstance(batch, int) else batch.name),),
            (TensorSpec("image", "float32", shape),),
            (TensorSpec("logits", "float32", (batch, 5)),),
        )
        values: dict[str, Any] = {
            "target": "onnxruntime-x86",
            "precision": "fp32",
            "format": "onnx",
            "runtime": "onnxruntime",
            "dialect": "onnxruntime-x86",
            "graphs": (graph,),
            "sha256": "0" * 64,
            "size_bytes": 1,
            "options": {"threads": 1, "spinning": False},
            "encoder": encoder or ImageEncoder((2, 2)),
            "classes": ("a", "b", "c", "d", "e"),
            "lineage": Lineage("digits", "teacher@1", "student@2", "f" * 64, "d" * 64, tools={"onnx": "1.23"}),
            "checks": {"rtx-checked": "not asked for"},
            "notes": ("`head` stays float",),
        }
        return Artifact(**(values | changes))

    def cell(self, images: Array, artifact: Artifact | None = None, *, ran: bool = True, **changes: Any) -> Cell:
        artifact = artifact or self.artifact()
        if ran:
            figure = Estimate("agreement_student", 1.0, 0.7, 1.0, len(images), "")
            infinite = Estimate("sqnr_db", float("inf"), None, None, len(images), "dB")
            outputs = {"logits": self.save("outputs.npy", self.logits(images))}
            fidelity = Fidelity(
                "ok", "", {"agreement_student": figure, "sqnr_db": infinite}, 0.0, {"fp32": 2}, runtime_version="1.32", outputs=outputs
            )
            latency = Latency("ok", "", {"latency_median": Estimate("latency_median", 1.5, 1.4, 1.6, 6, "ms")}, peak_memory_mb=40.0)
            return Cell(artifact, "local", "ok", "", fidelity, latency, **changes)
        reason = "no CUDA device: this machine has no NVIDIA driver (libcuda.so.1)"
        return Cell(artifact, "local", "not-run", reason, Fidelity("not-run", reason), Latency("not-run", reason), **changes)

    def bundle(self, into: Path, *, images: Array | None = None, **cell: Any) -> Bundle:
        images = self.images() if images is None else images
        into.mkdir(exist_ok=True)
        return pack(self.cell(images, **cell), self.inputs(images), self.references(images), "digits", folder=into)


@pytest.fixture
def work(tmp_path: Path) -> Work:
    folder = tmp_path / "work"
    folder.mkdir()
    return Work(folder)


@pytest.fixture(scope="session")
def whole_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One bundle for tests that copy it before they damage it."""
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "work").mkdir()
    return Work(folder / "work").bundle(folder / "out").path


@pytest.fixture
def text_encoder(work: Work) -> Callable[[], TextEncoder]:
    def make() -> TextEncoder:
        tokenizer = work.folder / "tokenizer.json"
        tokenizer.write_text('{"version": "1.0"}')
        return TextEncoder(tokenizer, 16, 0)

    return make
