"""VGG for small images (Simonyan & Zisserman 2015, "Very Deep Convolutional Networks", table 1), with batch normalisation (Ioffe & Szegedy 2015).

Five stages of 3x3 convolutions, each but the last followed by a 2x2 maximum; the three large linear layers of the paper, which hold most of
its weights and fit 224 pixels only, are one linear layer after a global average. No residuals: every convolution can run as an integer kernel.
"""

from __future__ import annotations

from torch import Tensor, nn

from kdedge.models.ranges import check_ranges

# Convolutions a stage; the depth in a name counts them and the linear layers of the original. vgg8 has one a stage.
_STAGES = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class Vgg(nn.Module):
    """The network: float32 [N, in_channels, H, W] (normalised), H and W at least 16 -> logits [N, classes].

    `width` is the number of channels of the first stage; they double up to eight times that.
    """

    def __init__(self, depth: int, classes: int, width: int, in_channels: int) -> None:
        super().__init__()
        check_ranges(f"kdedge.models.vgg:vgg{depth}", {"width": width})
        layers: list[nn.Module] = []
        inside = in_channels
        for stage, convolutions in enumerate(_STAGES[depth]):
            outside = width * min(2**stage, 8)
            if stage:
                layers.append(nn.MaxPool2d(2))
            for _ in range(convolutions):
                layers += [nn.Conv2d(inside, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]
                inside = outside
        self.features = nn.Sequential(*layers)
        self.linear = nn.Linear(inside, classes)
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """Logits of a batch."""
        return self.linear(self.features(image).mean((2, 3)))  # type: ignore[no-any-return]


def vgg8(*, classes: int, width: int = 64, in_channels: int = 3) -> Vgg:
    """5 convolutions."""
    return Vgg(8, classes, width, in_channels)


def vgg11(*, classes: int, width: int = 64, in_channels: int = 3) -> Vgg:
    """8 convolutions: configuration A."""
    return Vgg(11, classes, width, in_channels)


def vgg13(*, classes: int, width: int = 64, in_channels: int = 3) -> Vgg:
    """10 convolutions: configuration B."""
    return Vgg(13, classes, width, in_channels)


def vgg16(*, classes: int, width: int = 64, in_channels: int = 3) -> Vgg:
    """13 convolutions: configuration D."""
    return Vgg(16, classes, width, in_channels)


def vgg19(*, classes: int, width: int = 64, in_channels: int = 3) -> Vgg:
    """16 convolutions: configuration E."""
    return Vgg(19, classes, width, in_channels)
