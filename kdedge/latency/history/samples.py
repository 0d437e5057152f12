"""Raw samples in few bytes: differences from one iteration to the next, deflated."""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

from kdedge.errors import WorkspaceError

_MARK = b"ns1"  # int64 nanoseconds, first differences, little-endian, zlib


def pack(samples: npt.NDArray[np.int64]) -> bytes:
    """`samples`: int64 [n], in ns."""
    differences = np.diff(samples.astype("<i8"), prepend=np.int64(0))
    # Byte planes: the high bytes of small differences are all alike, and deflate well beside each other.
    planes = differences.view(np.uint8).reshape(-1, 8).T
    return _MARK + zlib.compress(np.ascontiguousarray(planes).tobytes(), 9)


def unpack(packed: bytes) -> npt.NDArray[np.int64]:
    """What `pack` was given.

    Raises:
        WorkspaceError: these are no packed samples, or not all of them.
    """
    try:
        if packed[: len(_MARK)] != _MARK:
            raise ValueError("another format")
        planes = np.frombuffer(zlib.decompress(packed[len(_MARK) :]), np.uint8).reshape(8, -1)
    except (ValueError, zlib.error) as error:
        raise WorkspaceError(f"samples of a launch in the history cannot be read: {error}") from error
    differences = np.ascontiguousarray(planes.T).view("<i8").reshape(-1)
    return np.cumsum(differences).astype(np.int64)
