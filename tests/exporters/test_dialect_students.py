"""kdedge's own students as each dialect writes them: which operators ONNX Runtime and OpenVINO execute as integers. Weights are random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from executed_operators import column_of, on_onnxruntime, on_openvino
from small_graphs import lowered, run_with, sqnr

from kdedge.artifact import Dimension, ImageEncoder, ImportPath, TensorSpec
from kdedge.exporters import model_file
from kdedge.exporters.dialects.dialect import Dialect
from kdedge.exporters.dialects.onnxruntime_x86 import DIALECT as X86
from kdedge.exporters.dialects.openvino import DIALECT as OPENVINO
from kdedge.exporters.dialects.qnn_htp import DIALECT as QNN
from kdedge.exporters.dialects.validate import validate
from kdedge.exporters.quantize.calibrate import observe
from kdedge.exporters.shapes import fix_shapes
from kdedge.recipe import QuantizeSection

pytestmark = pytest.mark.slow

# What the table was recorded with; another version runs other kernels.
RECORDED = ("onnxruntime 1.32 x86_64", "openvino 2026.4 x86_64")

IMAGE = (TensorSpec("image", "float32", (Dimension("batch", 1, 1, 64), 3, 32, 32)),)
# student -> factory, arguments, what ONNX Runtime executes of onnxruntime-x86, what OpenVINO executes of openvino
STUDENTS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "resnet8-cifar": (
        "kdedge.models.resnet_cifar:resnet8",
        {"classes": 10},
        "QGemm QLinearAdd 3 QLinearConv 7 QLinearGlobalAveragePool | float: none",
        "Convolution 7 FullyConnected | float: none",
    ),
    "mobilenetv2": (
        "kdedge.models.mobilenet:mobilenet_v2",
        {"classes": 10, "width": 0.25, "depth": 0.5, "image_size": 32},
        "QGemm QLinearAdd 6 QLinearConv 34 QLinearGlobalAveragePool | float: none",
        "Convolution 34 FullyConnected | float: none",
    ),
    "vgg8": (
        "kdedge.models.vgg:vgg8",
        {"classes": 10, "width": 16},
        "NhwcMaxPool 4 QGemm QLinearConv 5 QLinearGlobalAveragePool | float: none",
        "Convolution 5 FullyConnected Pooling 4 | float: none",
    ),
    "cnn": (
        "kdedge.models.small_cnn:small_cnn",
        {"classes": 10},
        "QGemm QLinearAdd 3 QLinearConv 10 QLinearGlobalAveragePool | float: none",
        "Convolution 10 FullyConnected | float: none",
    ),
}


def exported(name: str, folder: Path) -> Path:
    """The student's float graph for one image."""
    import torch

    from kdedge.exporters.torch_module import export_module

    torch.manual_seed(0)
    factory, arguments, _, _ = STUDENTS[name]
    network = ImportPath(factory).load()(**arguments)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # statistics as if it had been trained: signals keep their size
            torch.nn.init.ones_(module.running_var)  # type: ignore[arg-type]  # None only where statistics are not tracked

    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": self.network(image)}

    path = folder / "model.onnx"
    export_module(Named(), IMAGE, ("logits",), path, name=name, encoder=ImageEncoder(size=(32, 32)))
    model_file.save_model(fix_shapes(model_file.load_model(path), {"batch": 1}), path)
    return path


def pictures(count: int, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).random((count, 3, 32, 32), dtype=np.float32)


@pytest.mark.parametrize("name", STUDENTS)
def test_every_weighted_node_of_a_student_runs_as_integers(tmp_path: Path, name: str) -> None:
    pytest.importorskip("openvino")
    columns = (column_of("onnxruntime"), column_of("openvino"))
    if columns != RECORDED:
        pytest.skip(f"the table holds for {', '.join(RECORDED)}, this is {', '.join(columns)}")
    path = exported(name, tmp_path)
    table = observe(path, [{"image": pictures(32, 1)}], QuantizeSection())
    inputs = {"image": pictures(1, 9)}
    reference = run_with(path, inputs)

    def in_dialect(dialect: Dialect) -> Path:
        out, report = lowered(path, dialect, table)
        assert report.notes == ()
        validate(out, dialect)
        return out

    _, _, on_x86, on_ov = STUDENTS[name]
    for text, found, expected in (
        (*on_onnxruntime(in_dialect(X86), inputs), on_x86),
        (*on_openvino(in_dialect(OPENVINO), inputs), on_ov),
    ):
        assert text == expected
        assert sqnr(reference, found) > 25.0
    assert sqnr(reference, run_with(in_dialect(QNN), inputs)) > 20.0
