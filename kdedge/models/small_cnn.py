"""A compact residual network for small images: the teacher of the demo at a large `width`, its student at a small one.

A 3x3 stem, then `stages` stages that each halve the size with a strided convolution and double the channels after the first, with `depth`
residual blocks a stage. Parameters grow with the square of `width`: 32 against 8 is a factor of 16.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from kdedge.models.ranges import check_ranges


class ConvBlock(nn.Module):
    """3x3 convolution, batch normalisation, relu."""

    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(outside)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """[N, inside, H, W] -> [N, outside, H / stride, W / stride]."""
        return F.relu(self.norm(self.conv(x)))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside an identity, relu after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvBlock(channels, channels)
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] -> the same shape."""
        return F.relu(x + self.norm(self.conv(self.first(x))))


class SmallCnn(nn.Module):
    """The network: float32 [N, in_channels, H, W] (normalised) -> logits [N, classes]."""

    def __init__(self, classes: int, width: int, depth: int, stages: int, in_channels: int) -> None:
        super().__init__()
        self.stem = ConvBlock(in_channels, width)
        inside = width
        built: list[nn.Module] = []
        for stage in range(stages):
            outside = width * 2**stage
            built.append(nn.Sequential(ConvBlock(inside, outside, 2), *(ResidualBlock(outside) for _ in range(depth))))
            inside = outside
        self.stages = nn.Sequential(*built)
        self.linear = nn.Linear(inside, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of a batch."""
        return self.linear(self.stages(self.stem(image)).mean((2, 3)))  # type: ignore[no-any-return]


def small_cnn(*, classes: int, width: int = 16, depth: int = 1, stages: int = 3, in_channels: int = 3) -> SmallCnn:
    """`width`: channels of the first stage; `depth`: residual blocks a stage (0 for none); `stages`: how often the size is halved.

    Raises:
        ValueError: a number with which there is no network.
    """
    check_ranges("kdedge.models.small_cnn:small_cnn", {"width": width, "depth": depth, "stages": stages})
    return SmallCnn(classes, width, depth, stages, in_channels)
