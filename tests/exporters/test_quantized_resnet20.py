"""The pretrained ResNet-20 on real images: what the small graphs promise holds on it too."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from real_data import shared
from small_graphs import calibrated, executed, lowered, run, sqnr

from kdedge.artifact import Dimension, ImageEncoder, ImportPath, ModelFiles, TensorSpec
from kdedge.data.encode import encode_images
from kdedge.exporters.dialects.onnxruntime_x86 import DIALECT as ONNXRUNTIME
from kdedge.exporters.dialects.tensorrt import DIALECT as TENSORRT
from kdedge.exporters.dialects.validate import validate
from kdedge.exporters.onnx import export

ENCODER = ImageEncoder(size=(32, 32))


@pytest.mark.slow
def test_all_19_convolutions_are_integer_and_the_logits_stay_close(tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image")
    folder = shared("teachers/cifar10_resnet20")
    pixels = np.asarray(image_module.open(shared("cifar10/train-00.webp")).convert("RGB"))
    images = encode_images(ENCODER, pixels.reshape(100, 32, 50, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)[:1024])
    card = json.loads((folder / "card.json").read_text())
    student = ModelFiles(
        name="resnet20",
        factory=ImportPath("kdedge.models.resnet_cifar:resnet20"),
        arguments={"classes": 10},
        weights=folder / "model.safetensors",
        onnx=None,
        inputs=(TensorSpec("image", "float32", (Dimension("batch", 1, 1, 512), 3, 32, 32)),),
        outputs=("logits",),
        encoder=ENCODER,
        classes=tuple("0123456789"),
        normalize=(tuple(card["input"]["mean"]), tuple(card["input"]["std"])),
    )
    path = export(student, None, folder=tmp_path).path
    assert sum(node.op_type == "Conv" for node in onnx.load(path).graph.node) == 19
    table = calibrated(path, images[:256], observer="mse")
    assert len(table.structure.residuals) == 9
    reference = run(path, images[512:])

    out, report = lowered(path, ONNXRUNTIME, table)
    validate(out, ONNXRUNTIME)
    assert len([name for name in report.moving if "Pad" in name]) == 2
    found = executed(out)
    assert found["QLinearConv"] == 19
    assert found["QLinearAdd"] == 9
    assert found["QuantizeLinear"] == 1
    assert not {"Conv", "FusedConv", "DequantizeLinear", "Add"} & set(found)
    assert sqnr(reference, run(out, images[512:])) > 29.0

    out, report = lowered(path, TENSORRT, table)
    validate(out, TENSORRT, report.kept)
    assert len(report.weighted) == 19
    assert sqnr(reference, run(out, images[512:])) > 27.0
