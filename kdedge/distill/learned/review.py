"""The fusion of ReviewKD: from the deepest stage to the shallowest, each joins what the deeper ones know."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from kdedge.distill.learned import TapShapes
from kdedge.distill.losses.pairs import at_least_float32, mismatch
from kdedge.errors import TrainingError


class Review(nn.Module):
    """Attention-based fusion over all layer pairs (Chen et al., "Distilling Knowledge via Knowledge Review", CVPR 2021, section 3.3).

    The deepest stage first: a 1x1 convolution with batch normalisation brings each student map to a common width, the channels of the deepest
    student map but at most `middle`. What the deeper stages gave is enlarged to its size (nearest) and mixed in by two sigmoid attention maps;
    the mixture is passed on to the next shallower stage, and a 3x3 convolution with batch normalisation makes the teacher's channels of it, after
    it was brought to the teacher's size (nearest). There are as many layer pairs as wished, in order shallow to deep.

    Gives `learned_features`: a list in that order, each [N, C, H, W] of its teacher's shape.

    Raises:
        TrainingError: there are no pairs, a layer gives no map, or `middle` is not at least 1.
    """

    def __init__(self, shapes: TapShapes, *, middle: int = 512) -> None:
        super().__init__()
        if not shapes.student or len(shapes.student) != len(shapes.teacher):
            raise TrainingError(f"the loss `reviewkd` was given {len(shapes.student)} layers of the student and {len(shapes.teacher)} of the teacher")
        for student, teacher in zip(shapes.student, shapes.teacher, strict=True):
            if len(student) != 3 or len(teacher) != 3:
                raise TrainingError(mismatch("reviewkd", ["N", *student], ["N", *teacher], "it fuses maps [N, C, H, W]: tap convolutional layers"))
        if middle < 1:
            raise TrainingError(f"the loss `reviewkd` needs `middle` (the channels in which stages are fused) of at least 1, not {middle}")
        width = min(middle, shapes.student[-1][0])
        last = len(shapes.student) - 1
        self.fusions = nn.ModuleList(
            Fusion(student[0], width, teacher[0], deepest=place == last)
            for place, (student, teacher) in enumerate(zip(shapes.student, shapes.teacher, strict=True))
        )

    def forward(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        """The fused maps of the batch, in the precision of the parameters."""
        if len(student_features) != len(self.fusions) or len(teacher_features) != len(self.fusions):
            found = f"{len(student_features)} maps of the student and {len(teacher_features)} of the teacher"
            raise TrainingError(f"the loss `reviewkd` was made for {len(self.fusions)} layer pairs and got {found}")
        learned: list[Tensor] = []
        deeper: Tensor | None = None
        for fusion, student, teacher in zip(reversed(self.fusions), reversed(student_features), reversed(teacher_features), strict=True):
            made, deeper = fusion(at_least_float32(student), deeper, (teacher.shape[2], teacher.shape[3]))
            learned.append(made)
        return {"learned_features": learned[::-1]}


class Fusion(nn.Module):
    """One stage: its own map and what the deeper stages gave become a map for the teacher's, and one for the next shallower stage."""

    def __init__(self, inside: int, width: int, outside: int, *, deepest: bool) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width))
        self.attention = None if deepest else nn.Sequential(nn.Conv2d(2 * width, 2, 1), nn.Sigmoid())
        self.leave = nn.Sequential(nn.Conv2d(width, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside))
        for block in (self.enter, self.leave):
            nn.init.kaiming_uniform_(block[0].weight, a=1)  # type: ignore[arg-type]

    def forward(self, student: Tensor, deeper: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """[N, inside, h, w] and the mixture of the deeper stages (None at the deepest) -> [N, outside, *size] and the mixture [N, width, *size]."""
        mixed = self.enter(student)
        if self.attention is not None and deeper is not None:
            enlarged = _nearest(deeper, (mixed.shape[2], mixed.shape[3]))
            attention = self.attention(torch.cat([mixed, enlarged], dim=1))
            mixed = mixed * attention[:, :1] + enlarged * attention[:, 1:]
        mixed = _nearest(mixed, size)
        return self.leave(mixed), mixed


def _nearest(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return maps if maps.shape[2:] == size else interpolate(maps, size, mode="nearest")
