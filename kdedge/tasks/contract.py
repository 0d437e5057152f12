"""What a kind of problem is, as far as the rest of kdedge may know."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from kdedge.artifact import PreparedData
from kdedge.recipe import DataSection

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[Any]


class Task(Protocol):
    """A kind of problem: how its data is read and checked, how a batch is augmented, what the label loss is, how outputs are scored.

    `metric` names the figure that people and gates see; `logits` names the output that holds a distribution over classes [n, C], on which
    agreement, KL and SQNR are computed.
    """

    name: str
    metric: str
    logits: str

    def check(self, data: DataSection) -> None:
        """Refuse what can be refused by looking at the recipe's section alone, before anything is read.

        Raises:
            RecipeError: a reader, an augmentation or a key that this kind of problem has no use for. The message starts with the recipe's key.
        """

    def prepare(self, data: DataSection, seed: int, folder: Path) -> PreparedData:
        """Read both splits, check them, write what makes opening cheap into `folder`, and say how to open them again.

        Raises:
            DataError: missing file, wrong key, label out of range, empty split, unreadable example.
        """

    def augment(self, raw: Any, samples: npt.NDArray[np.int64], view: int, seed: int, names: tuple[str, ...]) -> Any:
        """The augmented examples: a pure function of (seed, view, sample), whatever the batch that they come in."""

    def label_loss(self, outputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """The loss against labels, one float32 number an example, in nats."""

    def score(self, outputs: Mapping[str, Array], labels: Array) -> dict[str, npt.NDArray[np.float64]]:
        """{metric: [n]}: one number an example; the mean is the figure that is reported."""
