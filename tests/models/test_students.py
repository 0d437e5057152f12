"""The compact students are what their papers say, scale with width and depth, and can be exported with a dynamic batch."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from model_world import dynamic_shapes, image_data

from kdedge.artifact import ImportPath
from kdedge.models import IMAGE_MODELS, MODELS
from kdedge.models.catalog import resolve
from kdedge.models.load import build, count_parameters
from kdedge.recipe import ModelSection


def parameters(name: str, **arguments: Any) -> int:
    return count_parameters(ImportPath(MODELS[name]).load()(classes=10, **arguments))


def test_mobilenetv2_is_the_papers() -> None:
    model = ImportPath(MODELS["mobilenetv2"]).load()(classes=1000)
    assert count_parameters(model) == 3_504_872
    assert model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)
    assert model.features(torch.zeros(1, 3, 224, 224)).shape == (1, 1280, 7, 7)


def test_mobilenetv2_keeps_the_size_of_small_images() -> None:
    model = ImportPath(MODELS["mobilenetv2"]).load()(classes=10, image_size=32, width=0.5).eval()
    assert model.features(torch.zeros(1, 3, 32, 32)).shape == (1, 640, 4, 4)


def test_mobilenetv2_scales_with_width_and_depth() -> None:
    sizes = [
        parameters("mobilenetv2", image_size=32, width=width, depth=depth) for width, depth in ((1.0, 1.0), (0.5, 1.0), (0.25, 1.0), (0.25, 0.5))
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 15 * sizes[-1]


def test_vgg16_has_the_convolutions_of_configuration_d() -> None:
    # 3x3 convolutions of the paper's table 1 without biases, two numbers a channel of batch norm, one linear layer.
    channels = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    convolutions = sum(9 * a * b + 2 * b for a, b in itertools.pairwise(channels))
    assert parameters("vgg16") == convolutions + 512 * 10 + 10


@pytest.mark.parametrize("depth", [8, 11, 13, 16, 19])
def test_a_vgg_has_as_many_convolutions_as_its_name_says(depth: int) -> None:
    model = ImportPath(MODELS[f"vgg{depth}"]).load()(classes=10, width=2)
    found = sum(isinstance(module, torch.nn.Conv2d) for module in model.modules())
    assert found == (depth - 3)


def test_a_wide_cnn_is_ten_times_a_narrow_one() -> None:
    assert parameters("cnn", width=32) > 10 * parameters("cnn", width=8)
    assert parameters("cnn", depth=2) > parameters("cnn", depth=1) > parameters("cnn", depth=0)
    # Stem 3x8, then 8x8, 8x16 and 16x32 convolutions, two numbers a channel of batch norm, and a linear layer.
    assert parameters("cnn", width=8, depth=0) == 9 * (3 * 8 + 8 * 8 + 8 * 16 + 16 * 32) + 2 * (8 + 8 + 16 + 32) + 32 * 10 + 10


SMALL: dict[str, dict[str, Any]] = {
    "resnet8-cifar": {"width": 4},
    "vgg8": {"width": 2},
    "mobilenetv2": {"width": 0.1, "depth": 0.3},
    "cnn": {"width": 4},
}


@pytest.mark.parametrize("name", SMALL)
def test_a_student_is_exported_with_a_dynamic_batch(name: str) -> None:
    torch.manual_seed(0)
    spec = resolve(ModelSection(model=f"kdedge:{name}", arguments=SMALL[name]), image_data(32))
    model = build(spec).eval()
    program = torch.export.export(model, (torch.rand(3, 3, 32, 32),), dynamic_shapes=dynamic_shapes(spec))
    for batch in (1, 2, 64):
        image = torch.rand(batch, 3, 32, 32)
        assert torch.allclose(program.module()(image)["logits"], model(image)["logits"], atol=1e-5)


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_every_image_model_takes_grey_images_and_learns(name: str) -> None:
    arguments = SMALL.get(name, {"width": 2})
    model = build(resolve(ModelSection(model=f"kdedge:{name}", arguments=arguments), image_data(16, classes=("a", "b"), channels=1)))
    logits = model(torch.rand(4, 1, 16, 16))["logits"]
    assert logits.shape == (4, 2)
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 0, 1])).backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in model.parameters())
