"""Top-1 agreement: on which examples two models give the same answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[Any]


def top1_agreement(reference: Logits, candidate: Logits) -> npt.NDArray[np.float64]:
    """1.0 where both logits [n, C] have their maximum at the same class, else 0.0; shape [n]. Among equal maxima the first counts.

    Agreement hides damage that does not move the maximum: read it next to KL and the largest error.
    """
    agrees: npt.NDArray[np.float64] = (reference.argmax(axis=1) == candidate.argmax(axis=1)).astype(np.float64)
    return agrees
