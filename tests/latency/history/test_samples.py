"""Packed samples are the samples, in fewer bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdedge.errors import WorkspaceError
from kdedge.latency.history.samples import pack, unpack

NANOSECONDS = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=50)


@given(NANOSECONDS)
def test_any_samples_come_back_as_they_were(values: list[int]) -> None:
    samples = np.array(values, np.int64)
    assert unpack(pack(samples)).tolist() == values


def test_the_samples_of_a_launch_take_less_than_half_of_their_size() -> None:
    samples = (800_000 * np.exp(np.random.default_rng(0).normal(0, 0.03, 2000))).astype(np.int64)
    assert len(pack(samples)) < samples.nbytes / 2


@pytest.mark.parametrize("damaged", [b"", b"ns1", b"ns2abc", b"ns1" + b"x" * 10, pack(np.arange(9))[:-4]])
def test_damaged_samples_are_refused(damaged: bytes) -> None:
    with pytest.raises(WorkspaceError, match="cannot be read"):
        unpack(damaged)
