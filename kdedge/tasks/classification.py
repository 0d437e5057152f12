"""What all classification tasks share: label checks, the label loss, and accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kdedge import progress
from kdedge.data import UNLABELLED
from kdedge.data.draws import Stream, sample
from kdedge.data.reading import ReadSplit, fitting_source, read_split
from kdedge.errors import DataError, ModelError
from kdedge.recipe import DataSection

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[Any]


class Classification:
    """One class an example: `logits` [n, C] against class numbers [n]."""

    metric = "accuracy"
    logits = "logits"

    def label_loss(self, outputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """Cross-entropy of each example, -log softmax(logits)[label]: float32 [n], in nats."""
        from torch.nn import functional

        return functional.cross_entropy(outputs[self.logits].float(), labels, reduction="none")

    def score(self, outputs: Mapping[str, Array], labels: Array) -> dict[str, npt.NDArray[np.float64]]:
        """{"accuracy": [n]}: 1 where the largest logit is the label's, else 0. Where a logit is NaN the example counts as wrong.

        Raises:
            ModelError: there is no output `logits` of shape [n, C].
        """
        if self.logits not in outputs:
            raise ModelError(f"the model has no output `{self.logits}` (outputs: {', '.join(outputs)})")
        logits = np.asarray(outputs[self.logits])
        if logits.ndim != 2 or len(logits) != len(labels):
            raise ModelError(
                f"output `{self.logits}` has shape {logits.shape}; for {len(labels)} labels it must be [{len(labels)}, number of classes]"
            )
        right = (logits.argmax(axis=1) == labels) & ~np.isnan(logits).any(axis=1)
        return {self.metric: right.astype(np.float64)}


def check_readers(data: DataSection, readers: Sequence[str], task: str) -> None:
    """Every split must come from a reader that gives what the task takes.

    Raises:
        RecipeError: names the first whose reader does not.
    """
    for split, text in (("train", data.train), ("test", data.test), (UNLABELLED, data.unlabelled)):
        if text is not None:
            fitting_source(f"data.{split}", text, readers, task)


def read_both(data: DataSection, folder: Path, *, readers: Sequence[str], kind: str, task: str) -> tuple[ReadSplit, ReadSplit]:
    """Read and check both splits: labels in range of the training split's classes, examples of the right kind.

    Raises:
        RecipeError: a reader that does not fit the task.
        DataError: as the readers, and a label out of range (names the first example), fewer than two classes, examples of another kind.
    """
    train = read_split("data.train", data.train, "train", folder, limit=data.limit_train, classes=None, readers=readers, task=task)
    test = read_split("data.test", data.test, "test", folder, limit=data.limit_test, classes=train.classes, readers=readers, task=task)
    if len(train.classes) < 2:
        raise DataError(f"data.train has the one class `{train.classes[0]}`; a classifier needs at least two")
    for key, split in (("data.train", train), ("data.test", test)):
        if split.kind != kind:
            raise DataError(f"{key} gives {split.kind} data; {task} takes {kind} data")
        check_labels(key, split, train.classes)
    unseen = np.setdiff1d(np.arange(len(train.classes)), train.labels)
    if unseen.size:
        progress.message(f"data.train has no example of {unseen.size} of {len(train.classes)} classes (first: `{train.classes[unseen[0]]}`)")
    return train, test


def read_unlabelled(data: DataSection, folder: Path, train: ReadSplit, *, readers: Sequence[str], task: str) -> dict[str, ReadSplit]:
    """The unlabelled examples under the name of their split, if the recipe names some.

    Raises:
        RecipeError, DataError: as `read_both`.
    """
    if data.unlabelled is None:
        return {}
    key, limit = f"data.{UNLABELLED}", data.limit_unlabelled
    split = read_split(key, data.unlabelled, UNLABELLED, folder, limit=limit, classes=train.classes, readers=readers, task=task)
    if split.kind != train.kind:
        raise DataError(f"{key} gives {split.kind} data; {task} takes {train.kind} data")
    return {UNLABELLED: split}


def check_labels(key: str, split: ReadSplit, classes: tuple[str, ...]) -> None:
    """Every label must be the number of a class.

    Raises:
        DataError: names the first example whose label is not, and the label.
    """
    wrong = np.flatnonzero((split.labels < 0) | (split.labels >= len(classes)))
    if wrong.size:
        first = int(wrong[0])
        raise DataError(
            f"{key}: {split.ids[first]} has the label {split.labels[first]}; allowed are 0 to {len(classes) - 1}"
            + (f" ({wrong.size} examples are out of range)" if wrong.size > 1 else "")
        )


def calibration_sample(total: int, count: int, seed: int) -> tuple[int, ...]:
    """`count` places in the training split without replacement, in random order; all of them, if there are not more."""
    if count > total:
        progress.message(f"data.calibration asks for {count} examples; the training split has {total}, all are taken")
    return tuple(sample(total, count, seed, Stream.CALIBRATION).tolist())
