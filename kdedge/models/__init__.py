"""Models by name. Light: what builds them is imported when a model is built."""

from __future__ import annotations

IMAGE_MODELS: dict[str, str] = {
    **{f"resnet{depth}-cifar": f"kdedge.models.resnet_cifar:resnet{depth}" for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"vgg{depth}": f"kdedge.models.vgg:vgg{depth}" for depth in (8, 11, 13, 16, 19)},
    "mobilenetv2": "kdedge.models.mobilenet:mobilenet_v2",
    "cnn": "kdedge.models.small_cnn:small_cnn",
}

TEXT_MODELS: dict[str, str] = {
    "transformer-text": "kdedge.models.transformer_text:transformer",
}

MODELS: dict[str, str] = {**IMAGE_MODELS, **TEXT_MODELS}
