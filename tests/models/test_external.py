"""Models of torchvision and timm. They need another torch than the rest: `make test-vision` runs these in an environment of their own."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from model_world import image_data
from safetensors.torch import save_file

from kdedge.artifact import PreparedData
from kdedge.errors import ModelError
from kdedge.models.catalog import resolve
from kdedge.models.load import build, load, to_files
from kdedge.recipe import ModelSection

pytestmark = [
    pytest.mark.vision,
    pytest.mark.skipif(
        importlib.util.find_spec("torchvision") is None or importlib.util.find_spec("timm") is None,
        reason="torchvision and timm need another torch: `make test-vision` runs this",
    ),
]


@pytest.fixture
def photos() -> PreparedData:
    return image_data(size=64)


@pytest.mark.parametrize("model", ["torchvision:resnet18", "torchvision:mobilenet_v3_small", "timm:resnet10t"])
def test_a_model_by_name_has_the_datas_classes_and_gives_logits_by_name(model: str, photos: PreparedData) -> None:
    spec = resolve(ModelSection(model=model), photos)
    module = build(spec).eval()
    height, width = spec.encoder.size  # type: ignore[union-attr]
    with torch.inference_mode():
        outputs = module(torch.rand(2, 3, height, width))
    assert outputs["logits"].shape == (2, len(photos.classes))


def test_weights_from_a_file_are_what_runs(photos: PreparedData, tmp_path: Path) -> None:
    from torchvision.models import resnet18

    torch.manual_seed(0)
    own = resnet18(num_classes=3).eval()
    save_file(own.state_dict(), tmp_path / "own.safetensors")
    spec = resolve(ModelSection(model="torchvision:resnet18", weights=tmp_path / "own.safetensors", normalize="none"), photos)
    image = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(build(spec).eval()(image)["logits"], own(image))


def test_a_saved_model_loads_again(photos: PreparedData, tmp_path: Path) -> None:
    spec = resolve(ModelSection(model="timm:resnet10t"), photos)
    module = build(spec).eval()
    again = load(to_files(spec, module, tmp_path)).eval()
    height, width = spec.encoder.size  # type: ignore[union-attr]
    image = torch.rand(1, 3, height, width)
    with torch.inference_mode():
        assert torch.equal(again(image)["logits"], module(image)["logits"])


@pytest.mark.parametrize("model", ["torchvision:resnet81", "timm:resnet10x"])
def test_an_unknown_name_lists_the_nearest(model: str, photos: PreparedData) -> None:
    with pytest.raises(ModelError, match="did you mean"):
        build(resolve(ModelSection(model=model), photos))
