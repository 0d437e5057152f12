"""A MobileNetV2-like student (Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", table 2).

Inverted residuals: 1x1 expansion, 3x3 depthwise, 1x1 projection without activation; a residual where size and channels stay. `width`
multiplies channels (rounded to multiples of 8, which integer kernels like), `depth` the number of blocks a stage. Images of at most 64
pixels keep their size through the stem and the first strided stage, or nothing would be left of them.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from kdedge.models.ranges import check_ranges

# expansion, channels, blocks, stride: the paper's table.
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
_STEM, _HEAD = 32, 1280
_SMALL_IMAGE = 64


def _channels(channels: float) -> int:
    """The nearest multiple of 8, at least 8, and never more than a tenth below what was asked for."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def _convolution(inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outside)]


class InvertedResidual(nn.Module):
    """One block: [N, inside, H, W] -> [N, outside, H / stride, W / stride]."""

    def __init__(self, inside: int, outside: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inside * expansion
        expand = [*_convolution(inside, hidden, 1), nn.ReLU6()] if expansion > 1 else []
        self.layers = nn.Sequential(*expand, *_convolution(hidden, hidden, 3, stride, groups=hidden), nn.ReLU6(), *_convolution(hidden, outside, 1))
        self.residual = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        """The block, with its residual where it has one."""
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """The network: float32 [N, in_channels, H, W] (normalised) -> logits [N, classes]."""

    def __init__(self, classes: int, width: float, depth: float, in_channels: int, image_size: int, dropout: float) -> None:
        super().__init__()
        small = image_size <= _SMALL_IMAGE
        inside = _channels(_STEM * width)
        layers: list[nn.Module] = [*_convolution(in_channels, inside, 3, 1 if small else 2), nn.ReLU6()]
        for place, (expansion, channels, blocks, stride) in enumerate(_STAGES):
            outside = _channels(channels * width)
            for block in range(max(1, math.ceil(blocks * depth))):
                first_stride = 1 if small and place == 1 else stride
                layers.append(InvertedResidual(inside, outside, first_stride if block == 0 else 1, expansion))
                inside = outside
        # The paper keeps the last layer at 1280 below width 1; for small images that would be most of the network.
        last = _channels(_HEAD * (width if small else max(1.0, width)))
        self.features = nn.Sequential(*layers, *_convolution(inside, last, 1), nn.ReLU6())
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(last, classes)
        for module in self.features.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of a batch."""
        return self.linear(self.dropout(self.features(image).mean((2, 3))))  # type: ignore[no-any-return]


def mobilenet_v2(
    *, classes: int, width: float = 1.0, depth: float = 1.0, in_channels: int = 3, image_size: int = 224, dropout: float = 0.0
) -> MobileNetV2:
    """The paper's network at width 1.0 and 224 pixels: 3,504,872 parameters for 1,000 classes.

    Raises:
        ValueError: a number with which there is no network.
    """
    check_ranges("kdedge.models.mobilenet:mobilenet_v2", {"width": width, "depth": depth, "dropout": dropout})
    return MobileNetV2(classes, width, depth, in_channels, image_size, dropout)
