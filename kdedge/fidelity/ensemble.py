"""What a teacher says, alone or as several, as one set of logits over the data's classes. `kdedge.distill.ensemble` computes the same in torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.errors import ModelError
from kdedge.fidelity.divergence import log_softmax


def read_logits(logits: npt.NDArray[Any], temperature: float = 1.0, places: Sequence[int] = ()) -> npt.NDArray[Any]:
    """A member's logits [n, its classes] over the data's classes: those at `places` (empty: all), divided by `temperature`; [n, C].

    Logits that are left out take their probability with them, and the softmax of the rest sums to 1 again.
    """
    kept = logits[:, list(places)] if places else logits
    return kept if temperature == 1.0 else kept / np.float32(temperature)


def ensemble_logits(members: Sequence[npt.NDArray[Any]], weights: Sequence[float]) -> npt.NDArray[np.float32]:
    """log(sum_k w_k softmax(z_k)): the log of the weighted mean of the members' probabilities, float32, shape [n, C].

    `members` are logits as `read_logits` gives them. The softmax of the result is that mean, so it can stand wherever one teacher's logits do.
    One member is passed on as it is: its raw logits have the same softmax, and keep their scale.

    Raises:
        ModelError: members of different shapes (class counts differ), or not one weight a member.
    """
    shapes = sorted({tuple(member.shape) for member in members})
    if len(members) != len(weights) or len(shapes) != 1:
        raise ModelError(f"an ensemble needs one weight a member and equal shapes; got {len(members)} members of {shapes} and {len(weights)} weights")
    if len(members) == 1:
        return members[0].astype(np.float32)
    logs = np.stack([log_softmax(member) + np.log(weight) for member, weight in zip(members, weights, strict=True)])
    top = logs.max(axis=0)
    mean: npt.NDArray[np.float32] = (top + np.log(np.exp(logs - top).sum(axis=0))).astype(np.float32)
    return mean
