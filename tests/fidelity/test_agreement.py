from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kdedge.fidelity.agreement import top1_agreement


def test_agreement_by_hand() -> None:
    reference = np.array([[1.0, 2.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 1.0]], np.float32)
    candidate = np.array([[0.0, 9.0, 8.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.1]], np.float32)
    assert top1_agreement(reference, candidate).tolist() == [1.0, 0.0, 1.0]


@given(arrays.arrays(np.float32, (8, 5), elements=st.floats(-50, 50, width=32)), st.integers(1, 8), st.integers(-64, 64))
def test_agreement_ignores_scale_and_shift_of_a_whole_row(logits: np.ndarray, scale: int, shift: int) -> None:
    wide = logits.astype(np.float64)
    assert top1_agreement(wide, scale * wide).all()
    assert top1_agreement(logits, logits).all()
    distinct = np.round(wide)  # whole numbers: adding a whole number cannot merge two of them
    assert top1_agreement(distinct, distinct + shift).all()
