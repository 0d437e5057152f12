"""Are the outputs of a model the classes of the data, in their order?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kdedge.errors import MissingExtra

Int64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# Below this many examples a class, on average, an order that fits them says nothing.
_FEWEST = 4


def best_order(predicted: Int64, labels: Int64, classes: int) -> Int64:
    """The class that each output most likely means: [classes], by a maximum matching of outputs and labels (Kuhn 1955) on the confusion matrix.

    A tie is decided for the order as it is, so that a class that nobody saw keeps its place.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ModuleNotFoundError as missing:
        raise MissingExtra(missing.name or "scipy", "train", "finding the order of labels") from missing
    confusion = np.zeros((classes, classes))
    np.add.at(confusion, (predicted, labels), 1.0)
    _, meant = linear_sum_assignment(confusion + 0.5 / classes * np.eye(classes), maximize=True)
    return np.asarray(meant, dtype=np.int64)


def right_when_reordered(predicted: Int64, labels: Int64, classes: int) -> Bools | None:
    """Whether each example [n] is right once outputs are reordered, the order being found on the other half of the examples; None with too few.

    An order that is judged by the examples that it was found on fits them by chance alone.
    """
    if len(labels) < _FEWEST * classes:
        return None
    right = np.zeros(len(labels), np.bool_)
    halves = (np.arange(len(labels)) % 2 == 0, np.arange(len(labels)) % 2 == 1)
    for found_on, judged_on in (halves, halves[::-1]):
        order = best_order(predicted[found_on], labels[found_on], classes)
        right[judged_on] = order[predicted[judged_on]] == labels[judged_on]
    return right


def described(order: Int64, names: Sequence[str]) -> str:
    """The moves of an order as cycles: `cat <-> dog`, `a -> b -> c -> a` (the output called a means b)."""
    cycles, seen = [], set()
    for start in range(len(order)):
        cycle = [start]
        while start not in seen and (following := int(order[cycle[-1]])) != start:
            cycle.append(following)
        seen.update(cycle)
        if len(cycle) == 2:
            cycles.append(f"{names[cycle[0]]} <-> {names[cycle[1]]}")
        elif len(cycle) > 2:
            cycles.append(" -> ".join(names[place] for place in [*cycle, start]))
    return ", ".join(cycles)
