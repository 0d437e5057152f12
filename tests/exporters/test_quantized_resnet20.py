"""The pretrained ResNet-20 on real images: what the small graphs promise holds on it too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fake_quantized import compare_nodes, exported, session, where_sure
from real_data import shared
from small_graphs import calibrated, executed, lowered, run, sqnr

from kdedge.artifact import Dimension, ImageEncoder, ImportPath, ModelFiles, TensorSpec
from kdedge.data.encode import encode_images
from kdedge.exporters.dialects.onnxruntime_x86 import DIALECT as ONNXRUNTIME
from kdedge.exporters.dialects.tensorrt import DIALECT as TENSORRT
from kdedge.exporters.dialects.validate import validate
from kdedge.exporters.onnx import export

ENCODER = ImageEncoder(size=(32, 32))


@pytest.fixture(scope="module")
def images() -> Any:
    """1,024 training images, encoded [n, 3, 32, 32]."""
    image_module = pytest.importorskip("PIL.Image")
    pixels = np.asarray(image_module.open(shared("cifar10/train-00.webp")).convert("RGB"))
    return encode_images(ENCODER, pixels.reshape(100, 32, 50, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)[:1024])


@pytest.fixture
def resnet20(tmp_path: Path) -> Path:
    """The float graph, as the exporter writes it."""
    folder = shared("teachers/cifar10_resnet20")
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
    return export(student, None, folder=tmp_path).path


@pytest.mark.slow
def test_all_19_convolutions_are_integer_and_the_logits_stay_close(resnet20: Path, images: Any) -> None:
    path = resnet20
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


@pytest.mark.slow
def test_what_was_trained_on_real_images_is_what_is_exported(resnet20: Path, images: Any) -> None:
    import torch

    from kdedge.exporters.quantize.aware_training import Course, train
    from kdedge.exporters.quantize.fake_quantize import FakeQuantized
    from kdedge.exporters.quantize.torch_graph import TorchGraph
    from kdedge.exporters.quantize.wiring import load

    steps, batch = 8, 32

    def feeds(first: int) -> Iterator[dict[str, Any]]:
        for step in range(first, steps):
            yield {"image": images[step * batch : (step + 1) * batch]}

    student = FakeQuantized(resnet20, calibrated(resnet20, images[:256], observer="mse"), ONNXRUNTIME)
    train(student, feeds, TorchGraph(load(resnet20)), Course(steps, lr=5e-3, distributions=("logits",)))
    assert max(float(move.detach().abs().max()) for move in student.moves) > 1e-2  # it is not where it began
    out, inputs = exported(student, resnet20), images[-64:]
    validate(out, ONNXRUNTIME)
    with torch.no_grad():
        wanted = student({"image": torch.from_numpy(inputs)})["logits"].numpy()
    sure = where_sure(wanted)
    assert sure.sum() > 48
    for integer in (False, True):
        found = compare_nodes(out, student, inputs, integer)
        logits = session(out, integer).run(["logits"], {"image": inputs})[0]
        apart = float(np.abs(logits - wanted).max() / (np.ptp(wanted) / 255))
        print(f"ResNet-20, {'integer kernels' if integer else 'float arithmetic'}: {found}; from end to end logits by {apart:.2f} of a step")
        assert found.largest <= 1
        assert found.differing <= 1e-3 * found.codes
        assert found.output_gap <= 1e-3
        assert (logits.argmax(1) == wanted.argmax(1))[sure].all()
