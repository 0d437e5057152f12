"""ResNets for 32x32 images (He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2).

Depth 6n + 2: a 3x3 stem, three stages of n blocks with 16, 32 and 64 channels (`width` is the first), global average, one linear layer.
Shortcuts have no parameters (option A): where the size halves and the channels double, every second pixel is taken and the new channels
are zeros, half of them before and half after the old ones. Parameter names are those of the weights that are in use
(conv1, bn1, layer1.0.conv1, ..., linear).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from kdedge.models.ranges import check_ranges


class BasicBlock(nn.Module):
    """conv-bn-relu-conv-bn, plus the shortcut, then relu."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.stride = stride
        self.added = outside - inside

    def forward(self, x: Tensor) -> Tensor:
        """[N, inside, H, W] -> [N, outside, H / stride, W / stride]."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))

    def shortcut(self, x: Tensor) -> Tensor:
        """Option A: nothing is learned here."""
        if self.stride == 1 and self.added == 0:
            return x
        before = self.added // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.added - before))


class CifarResNet(nn.Module):
    """The network: float32 [N, in_channels, H, W] (normalised) -> logits [N, classes]."""

    def __init__(self, blocks: int, classes: int, width: int, in_channels: int) -> None:
        super().__init__()
        # One range for all depths.
        check_ranges("kdedge.models.resnet_cifar:resnet20", {"width": width})
        self.conv1 = nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(blocks, width, width, 1)
        self.layer2 = _stage(blocks, width, 2 * width, 2)
        self.layer3 = _stage(blocks, 2 * width, 4 * width, 2)
        self.linear = nn.Linear(4 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of a batch."""
        x = F.relu(self.bn1(self.conv1(image)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))  # type: ignore[no-any-return]


def _stage(blocks: int, inside: int, outside: int, stride: int) -> nn.Sequential:
    first = BasicBlock(inside, outside, stride)
    return nn.Sequential(first, *(BasicBlock(outside, outside, 1) for _ in range(blocks - 1)))


def resnet8(*, classes: int, width: int = 16, in_channels: int = 3) -> CifarResNet:
    """1 block a stage; 75,290 parameters for 10 classes."""
    return CifarResNet(1, classes, width, in_channels)


def resnet14(*, classes: int, width: int = 16, in_channels: int = 3) -> CifarResNet:
    """2 blocks a stage; 172,506 parameters for 10 classes."""
    return CifarResNet(2, classes, width, in_channels)


def resnet20(*, classes: int, width: int = 16, in_channels: int = 3) -> CifarResNet:
    """3 blocks a stage; 269,722 parameters for 10 classes."""
    return CifarResNet(3, classes, width, in_channels)


def resnet32(*, classes: int, width: int = 16, in_channels: int = 3) -> CifarResNet:
    """5 blocks a stage; 464,154 parameters for 10 classes."""
    return CifarResNet(5, classes, width, in_channels)


def resnet44(*, classes: int, width: int = 16, in_channels: int = 3) -> CifarResNet:
    """7 blocks a stage; 658,586 parameters for 10 classes."""
    return CifarResNet(7, classes, width, in_channels)


def resnet56(*, classes: int, width: int = 16, in_channels: int = 3) -> CifarResNet:
    """9 blocks a stage; 853,018 parameters for 10 classes."""
    return CifarResNet(9, classes, width, in_channels)


def resnet110(*, classes: int, width: int = 16, in_channels: int = 3) -> CifarResNet:
    """18 blocks a stage; 1,727,962 parameters for 10 classes."""
    return CifarResNet(18, classes, width, in_channels)
