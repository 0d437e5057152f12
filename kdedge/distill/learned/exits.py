"""The exits of be-your-own-teacher: a bottleneck and a classifier at each of a student's earlier layers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kdedge.distill.learned import TapShapes, channels
from kdedge.distill.learned.regressor import resized, shrunk
from kdedge.distill.losses.pairs import at_least_float32, full_precision
from kdedge.errors import TrainingError

# A bottleneck narrows to this part of the last feature's channels, as a ResNet's does (He et al. 2016, section 4.1).
_NARROW = 4


class Exits(nn.Module):
    """Makes of each layer's feature one like the last layer's, and logits of that (Zhang et al., ICCV 2019, section 3.1).

    The layers come shallow to deep; the last one is the final feature, each other gets an exit: a bottleneck to the channels and the size of
    the last feature, then the mean over space or tokens and a linear classifier. For maps [N, C, H, W] the bottleneck is 1x1, 3x3, 1x1
    convolutions with batch norm, for tokens [N, L, D] and vectors [N, D] two linear layers with layer norm.

    Reads `student_features`; gives `learned_exits` (logits [N, classes] of each exit), `learned_features` (of the shape of the last feature)
    and `learned_last` (the last feature).

    Raises:
        TrainingError: there are fewer than two layers, or their features are of different kinds.
    """

    def __init__(self, shapes: TapShapes) -> None:
        super().__init__()
        *earlier, last = shapes.student or ((),)
        if not earlier:
            raise TrainingError(
                "the loss `byot` needs at least two layers, shallow to deep: each but the last gets an exit, which the last one teaches"
            )
        for shape in earlier:
            if len(shape) != len(last):
                raise TrainingError(
                    f"the loss `byot` cannot bring {['N', *shape]} to the last layer's {['N', *last]}: name layers of one kind, "
                    "all maps, all tokens or all vectors"
                )
        outside = channels(last, "byot")
        make = _maps if len(last) == 3 else _vectors
        self.bottlenecks = nn.ModuleList(make(channels(shape, "byot"), outside) for shape in earlier)
        self.classifiers = nn.ModuleList(nn.Linear(outside, shapes.classes) for _ in earlier)

    def forward(self, student_features: Sequence[Tensor]) -> dict[str, Tensor | list[Tensor]]:
        """Logits and features of the exits, in float32 at least."""
        *earlier, last = [at_least_float32(each) for each in student_features]
        features, logits = [], []
        with full_precision(last):
            for given, bottleneck, classifier in zip(earlier, self.bottlenecks, self.classifiers, strict=True):
                feature = _through(bottleneck, given, last)
                features.append(feature)
                logits.append(classifier(_pooled(feature)))
        return {"learned_exits": logits, "learned_features": features, "learned_last": last}


def _through(bottleneck: nn.Module, given: Tensor, last: Tensor) -> Tensor:
    if given.ndim != 4:
        found: Tensor = bottleneck(given)
        return found
    size = (last.shape[2], last.shape[3])
    # Made smaller first: there is less to compute.
    return resized(bottleneck(shrunk(given, size)), size)


def _pooled(feature: Tensor) -> Tensor:
    return feature.mean((2, 3)) if feature.ndim == 4 else feature.mean(1) if feature.ndim == 3 else feature


def _maps(inside: int, outside: int) -> nn.Module:
    narrow = max(outside // _NARROW, 1)
    return nn.Sequential(
        *(nn.Conv2d(inside, narrow, 1, bias=False), nn.BatchNorm2d(narrow), nn.ReLU()),
        *(nn.Conv2d(narrow, narrow, 3, padding=1, bias=False), nn.BatchNorm2d(narrow), nn.ReLU()),
        *(nn.Conv2d(narrow, outside, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()),
    )


def _vectors(inside: int, outside: int) -> nn.Module:
    narrow = max(outside // _NARROW, 1)
    return nn.Sequential(nn.Linear(inside, narrow), nn.LayerNorm(narrow), nn.ReLU(), nn.Linear(narrow, outside), nn.LayerNorm(outside))
