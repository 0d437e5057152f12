"""Outputs side by side: figures worked out by hand, partners by name, and what cannot be compared."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kdedge.errors import DataError, ExportError
from kdedge.regression.comparing import compare_outputs

LOGITS = np.array([[1.0, 2.0, 4.0], [3.0, 0.0, 1.0]], np.float32)


def test_figures_are_those_worked_out_by_hand() -> None:
    (found,) = compare_outputs([{"y": LOGITS}], [{"y": LOGITS + np.array([[0, 0, 0], [-3, 3, 0]], np.float32)}])
    assert found.largest_difference == 3.0
    figures = found.distance.figures
    assert figures["sqnr"].value == pytest.approx(10 * math.log10(31 / 18))  # 1 + 4 + 16 + 9 + 0 + 1 over 9 + 9
    assert figures["agreement"].value == 0.5  # the second row's largest entry moved from the first place to the second
    assert (figures["agreement"].n, figures["sqnr"].n) == (2, 2)


def test_equal_outputs_are_equal_whatever_they_hold() -> None:
    odd = {"logits": np.array([[np.inf, np.nan, 1.0]]), "ids": np.array([[1, 2]]), "one": np.array(3.0, np.float32)}
    found = {each.distance.name: each for each in compare_outputs([odd], [odd])}
    assert {each.largest_difference for each in found.values()} == {0.0}
    assert found["ids"].distance.figures["equal"].value == 1.0


def test_buckets_count_as_one() -> None:
    (found,) = compare_outputs([{"y": LOGITS}, {"y": LOGITS}], [{"y": LOGITS}, {"y": LOGITS + 1}])
    assert found.largest_difference == 1.0
    assert found.distance.figures["agreement"].n == 4
    assert found.distance.figures["agreement"].value == 1.0  # a constant moves no largest entry


def test_outputs_go_together_by_name_and_single_ones_anyway() -> None:
    swapped = compare_outputs([{"a": LOGITS, "b": LOGITS + 1}], [{"b": LOGITS + 1, "a": LOGITS}])
    assert [each.largest_difference for each in swapped] == [0.0, 0.0]
    (single,) = compare_outputs([{"a": LOGITS}], [{"z": LOGITS}])
    assert (single.distance.name, single.largest_difference) == ("a", 0.0)
    with pytest.raises(DataError, match="the outputs are a and a, b"):
        compare_outputs([{"a": LOGITS}], [{"a": LOGITS, "b": LOGITS}])


def test_another_number_of_found_things_is_said_and_another_rank_refused() -> None:
    (found,) = compare_outputs([{"boxes": np.zeros((3, 4))}], [{"boxes": np.zeros((2, 4))}])
    assert (found.distance.reshaped, found.largest_difference, found.distance.figures) == (1, None, {})
    with pytest.raises(ExportError, match="has the shape"):
        compare_outputs([{"y": LOGITS}], [{"y": LOGITS[..., None]}])
    with pytest.raises(ExportError, match="is not finite"):
        compare_outputs([{"y": LOGITS}], [{"y": np.full_like(LOGITS, np.inf)}])
