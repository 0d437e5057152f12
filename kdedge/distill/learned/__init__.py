"""What a loss learns beside the student: adapters, predictors, memories. Owned by the training step, absent from the exported student.

Each is an `nn.Module` made from a `TapShapes`. Its `forward` names the tensors of the step that it reads, as a loss does, and returns those that
its loss computes on. All that it remembers is a parameter or a buffer, and what it draws comes from torch's global generator: a resumed run goes
on bit for bit. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdedge.errors import TrainingError


@dataclass(frozen=True)
class TapShapes:
    """What a learned part is sized by: the shapes of each layer pair's captured tensors without their batch dimension (from a dry run,
    shallow to deep), the size of the training split, and the number of classes."""

    student: tuple[tuple[int, ...], ...]
    teacher: tuple[tuple[int, ...], ...]
    samples: int
    classes: int

    def pair(self, loss: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of the one layer pair that `loss` is given at a time: the student's, the teacher's.

        Raises:
            TrainingError: there is not exactly one.
        """
        if len(self.student) != 1 or len(self.teacher) != 1:
            found = f"{len(self.student)} of the student and {len(self.teacher)} of the teacher"
            raise TrainingError(f"the loss `{loss}` learns one part a layer pair, and was given {found}: name one layer of each in a pair")
        return self.student[0], self.teacher[0]


def channels(shape: Sequence[int], loss: str) -> int:
    """The channels of a captured tensor without its batch dimension: the first of a map [C, H, W], the last of [L, D] and [D].

    Raises:
        TrainingError: the shape is none of these.
    """
    if len(shape) == 3:
        return shape[0]
    if len(shape) in (1, 2):
        return shape[-1]
    raise TrainingError(f"the loss `{loss}` knows maps [N, C, H, W], tokens [N, L, D] and vectors [N, D], not {['N', *shape]}: tap another layer")


def need_same_kind(loss: str, student: Sequence[int], teacher: Sequence[int]) -> None:
    """Refuse a pair of which one is a map and the other tokens or a vector, or of different token counts (shapes without the batch).

    Raises:
        TrainingError: names both shapes and what to do.
    """
    if len(student) != len(teacher):
        advice = "tap two maps, two token sequences or two vectors"
    elif len(student) == 2 and student[0] != teacher[0]:
        advice = "token counts differ, and a token has no neighbour to be resized to: both nets must see the same tokens"
    else:
        return
    raise TrainingError(f"the loss `{loss}` cannot adapt the student's {['N', *student]} to the teacher's {['N', *teacher]}: {advice}")
