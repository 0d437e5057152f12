"""Sizes that a user gives for dimensions that vary are numbers that a dimension can have."""

from __future__ import annotations

import pytest

from kdedge.errors import KdedgeError
from kdedge.exporters.given_sizes import parse_sizes


def test_sizes_are_read_by_name() -> None:
    assert parse_sizes(["batch=8", "s=2147483647"]) == {"batch": 8, "s": 2**31 - 1}


@pytest.mark.parametrize("text", ["batch", "=8", "batch=0", "batch=-1", "batch=1.5", "batch=2147483648", f"batch={'9' * 60}", f"batch={'9' * 5000}"])
def test_what_is_no_size_is_a_sentence(text: str) -> None:
    with pytest.raises(KdedgeError, match="write NAME=N with N from 1 to 2147483647"):
        parse_sizes([text])
