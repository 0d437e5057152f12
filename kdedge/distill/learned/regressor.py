"""The regressor of FitNet hints: from the student's feature to the teacher's shape."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from kdedge.distill.learned import TapShapes, channels, need_same_kind
from kdedge.distill.losses.pairs import at_least_float32, need_batch


class Regressor(nn.Module):
    """Predicts the teacher's feature from the student's, linearly in the channels (FitNets, Romero et al. 2015, section 2.2).

    A 1x1 convolution for maps [N, C, H, W], a linear layer for tokens [N, L, D] and vectors [N, D], both with bias. Where the channels are equal
    there is nothing to adapt: `adapter` is `nn.Identity`, and the part has no parameters. Maps of another height or width become the teacher's:
    average-pooled along the axes where the student's are larger, bilinear along those where they are smaller.

    Replaces `student_feature`.

    Raises:
        TrainingError: the pair mixes kinds of features, or token counts differ.
    """

    def __init__(self, shapes: TapShapes) -> None:
        super().__init__()
        student, teacher = shapes.pair("fitnet")
        need_same_kind("fitnet", student, teacher)
        inside, outside = channels(student, "fitnet"), channels(teacher, "fitnet")
        self.adapter = nn.Identity() if inside == outside else layer(inside, outside, maps=len(student) == 3)

    def forward(self, student_feature: Tensor, teacher_feature: Tensor) -> dict[str, Tensor]:
        """`student_feature` in the teacher's shape, in the precision of the adapter (float32 at least)."""
        student, teacher = at_least_float32(student_feature), teacher_feature
        need_batch("fitnet", student, teacher, teacher.ndim)
        if student.ndim != 4:
            return {"student_feature": self.adapter(student)}
        size = (teacher.shape[2], teacher.shape[3])
        return {"student_feature": resized(self.adapter(shrunk(student, size)), size)}


def layer(inside: int, outside: int, *, maps: bool) -> nn.Module:
    """A linear map of the channels: of a map [N, C, H, W], or of the last dimension."""
    return nn.Conv2d(inside, outside, 1) if maps else nn.Linear(inside, outside)


def shrunk(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """[N, C, H, W] average-pooled along the axes that are longer than `size`. Before the channels are adapted: there is less to compute."""
    target = (min(maps.shape[2], size[0]), min(maps.shape[3], size[1]))
    return maps if maps.shape[2:] == target else adaptive_avg_pool2d(maps, target)


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """[N, C, H, W] with height and width of `size`: pooled where longer, bilinear where shorter."""
    smaller = shrunk(maps, size)
    return smaller if smaller.shape[2:] == size else interpolate(smaller, size, mode="bilinear", align_corners=False)
