"""What every reader gives: raw examples with labels and ids, in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]


class Examples(Protocol):
    """One split, opened. `labels` are int64 [n] (class numbers; what they mean is the task's business); `ids` name the examples for people.

    `sizes`: int64 [n], how long each example is where examples are padded to the longest of their batch (texts), else None.
    """

    labels: Int64
    ids: Sequence[str]
    sizes: Int64 | None

    def __len__(self) -> int: ...

    def raw(self, indices: Int64) -> Any:
        """The raw examples: uint8 [b, H, W, 3] where all images have one size, else a list of uint8 HWC arrays; a list of str for texts.

        Raises:
            DataError: an example cannot be read (names the file).
        """


def places_in_split(examples: Examples, samples: Int64) -> Int64:
    """The places of samples in the split that was prepared: where `examples` are a part of it (`kdedge.data.held_out`), theirs in the whole.

    What is drawn for an example, and what a teacher said about it, belongs to that place: it is the same in the part and in the whole.
    """
    whole: Int64 | None = getattr(examples, "places", None)
    return samples if whole is None else whole[samples]
