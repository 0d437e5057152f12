"""Asks a model about the same examples in other ways, each of which would be the right one if the recipe had one known fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdedge.artifact import Encoder, ImageEncoder
from kdedge.distill.doctor.image_faults import normalizations, renormalized, resized, sides, swapped
from kdedge.distill.doctor.label_order import best_order, described, right_when_reordered
from kdedge.distill.doctor.teacher_accuracy import COLOURS, NORMALIZE, ORDER, SIZE, Trial, explanation
from kdedge.errors import ModelError, TrainingError
from kdedge.models.catalog import Numbers

Int64 = npt.NDArray[np.int64]
Ask = Callable[[Mapping[str, Tensor]], Tensor]
"""Inputs by name in, logits [n, C] out."""

# A larger image costs more: as many pixels as this many images of the usual size, but at least so many images.
_PIXELS, _FEWEST = 64, 16
# Another size is looked for where a model is this bad: it takes the longest to try.
_BAD = 0.9


def trials(
    ask: Ask,
    names: tuple[str, ...],
    now: Numbers | None,
    statistics: Mapping[str, tuple[float, ...]],
    inputs: Mapping[str, Tensor],
    labels: Int64,
    encoder: Encoder,
) -> list[Trial]:
    """A trial for each known fault and, where images are at fault and labels too, for both; the model as it stands stands first.

    `names`: the data's classes; `now`: the mean and std that stand before the model; `inputs`: some examples as its `encoder` made them.
    """
    predicted = _predicted(ask, inputs)
    made = list(_of_labels((), predicted, labels, names, predicted == labels))
    if not isinstance(encoder, ImageEncoder):
        return made
    baseline, name = predicted == labels, encoder.input_name
    images = inputs[name]
    for change, shown in _looks(images, now, statistics):
        made += _of_labels((change,), _predicted(ask, {**inputs, name: shown}), labels, names, baseline)
    if explanation(made) is None and baseline.mean() < _BAD and encoder.size[0] == encoder.size[1]:
        made += _of_sizes(ask, {**inputs}, name, labels, names, baseline)
    return made


def remedy(trial: Trial, key: str, names: tuple[str, ...]) -> str:
    """What to write for a trial that explains a bad model; `key` is the model's in the recipe, `names` are the data's classes."""
    steps = []
    for what, value in trial.changes:
        if what == NORMALIZE:
            steps.append(f"set {key}.normalize: {value.partition(' (')[0]}")
        elif what == COLOURS:
            steps.append("the weights expect blue first: exchange the input channels of the first layer, or use weights for RGB")
        elif what == SIZE:
            side = value.partition("x")[0]
            steps.append(f"set data.size: [{side}, {side}], or use a model for the size of this data")
        else:
            own = [names[meant] for meant in trial.order]
            listed = ", ".join(own) if len(own) <= 20 else f"{', '.join(own[:20])}, ..."
            steps.append(f"name its classes in the order of its outputs, {key}.classes: [{listed}]")
    return "; ".join(steps)


def _looks(images: Tensor, now: Numbers | None, statistics: Mapping[str, tuple[float, ...]]) -> Iterator[tuple[tuple[str, str], Tensor]]:
    for name, numbers in normalizations(statistics, images.shape[1]).items():
        unchanged = numbers == now or (now is None and set(numbers[0]) == {0.0} and set(numbers[1]) == {1.0})
        if not unchanged:
            yield (NORMALIZE, name), renormalized(images, now, numbers)
    if images.shape[1] == 3:
        yield (COLOURS, "as BGR"), swapped(images)


def _of_labels(
    changes: tuple[tuple[str, str], ...], predicted: Int64, labels: Int64, names: tuple[str, ...], baseline: npt.NDArray[np.bool_]
) -> Iterator[Trial]:
    yield Trial(changes, predicted == labels, baseline)
    reordered = right_when_reordered(predicted, labels, len(names))
    order = best_order(predicted, labels, len(names))
    if reordered is not None and (order != np.arange(len(names))).any():
        yield Trial((*changes, (ORDER, described(order, names))), reordered, baseline, tuple(order.tolist()))


def _of_sizes(
    ask: Ask, inputs: dict[str, Tensor], name: str, labels: Int64, names: tuple[str, ...], baseline: npt.NDArray[np.bool_]
) -> Iterator[Trial]:
    images = inputs[name]
    for side in sides(images.shape[-1]):
        count = max(_FEWEST, _PIXELS * images.shape[-1] ** 2 // side**2)
        shown = resized(images[:count], side)
        try:
            predicted = _predicted(ask, {**inputs, name: shown})
        except (ModelError, TrainingError):
            continue  # it takes one size alone
        yield Trial(((SIZE, f"{side}x{side}"),), predicted == labels[:count], baseline[:count])


def _predicted(ask: Ask, inputs: Mapping[str, Tensor]) -> Int64:
    with torch.no_grad():
        return ask(inputs).argmax(1).numpy().astype(np.int64)
