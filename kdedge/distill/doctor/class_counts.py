"""Does everybody speak of the same classes, and does the data have enough of each?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from kdedge.distill.doctor import Finding

# Fewer examples than this teach a class little.
_FEW = 5
# How many times as many examples the largest class may have as the smallest.
_NOTED, _HARMFUL = 5.0, 50.0


def class_counts(given: Mapping[str, int], classes: Sequence[str]) -> Finding:
    """How many classes each model gives (by whose it is), against those of the data."""
    figures = {"data": len(classes), **given}
    other = [f"{whose} gives {count}" for whose, count in given.items() if count != len(classes)]
    if other:
        return Finding(
            "error",
            "class counts",
            f"the data has {len(classes)} classes ({', '.join(classes[:10])}), but {', '.join(other)}",
            "name a model for these classes; a teacher of more classes can say which are meant by `teacher.classes`",
            figures,
        )
    whose = " and ".join(given)
    return Finding("ok", "class counts", f"{len(classes)} classes in the data{f' and of {whose}' if whose else ''}", figures=figures)


def class_balance(labels: npt.NDArray[np.int64], classes: Sequence[str]) -> Finding:
    """How evenly the training examples are spread over the classes."""
    counts = np.bincount(labels, minlength=len(classes))
    smallest, largest = int(counts.argmin()), int(counts.argmax())
    figures = {"examples": len(labels), "smallest": int(counts[smallest]), "largest": int(counts[largest])}
    absent = [classes[place] for place in np.flatnonzero(counts == 0).tolist()]
    if absent:
        named = ", ".join(f"`{name}`" for name in absent[:5])
        return Finding(
            "warning",
            "class balance",
            f"{len(absent)} of {len(classes)} classes have no training example ({named}): no label can teach them",
            "add examples, or raise data.limit_train if it cuts them off; a teacher that knows them teaches them only by its doubts",
            figures,
        )
    ratio = counts[largest] / counts[smallest]
    said = f"`{classes[largest]}` has {counts[largest]} training examples, `{classes[smallest]}` {counts[smallest]}"
    if counts[smallest] < _FEW or ratio >= _HARMFUL:
        return Finding("warning", "class balance", said, "add examples of the rare classes: accuracy will hide that they are not learned", figures)
    if ratio >= _NOTED:
        return Finding("note", "class balance", said, "look at accuracy class by class", figures)
    return Finding("ok", "class balance", f"{counts[smallest]} to {counts[largest]} training examples a class", figures=figures)
