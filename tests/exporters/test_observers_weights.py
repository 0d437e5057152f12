from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from kdedge.exporters.quantize.observers import weights
from kdedge.exporters.quantize.observers.weights import searched_amplitudes, weight_extremes


def squared_error(channel: npt.NDArray[np.float64], amplitude: float) -> float:
    step = amplitude / 127
    return float(np.square(channel - np.clip(np.rint(channel / step), -127, 127) * step).sum())


def test_the_extremes_of_weights_are_per_channel() -> None:
    weight = np.array([[[1.0, -3.0]], [[2.0, 0.5]]], np.float32)
    assert [side.tolist() for side in weight_extremes(weight, 0)] == [[-3.0, 0.5], [1.0, 2.0]]
    assert [side.tolist() for side in weight_extremes(weight, 2)] == [[1.0, -3.0], [2.0, 0.5]]


def test_a_search_never_makes_a_channel_worse() -> None:
    weight = np.random.default_rng(0).standard_t(3, (5, 4, 3, 3)).astype(np.float32)
    weight[2] = 0
    searched = searched_amplitudes(weight, 0)
    assert searched[2] == 0.0
    for channel, best in zip(weight, searched, strict=True):
        if best > 0:
            widest = float(np.abs(channel).max())
            assert best <= widest
            assert squared_error(channel, best) <= squared_error(channel, widest) * (1 + 1e-4)  # the search sums in float32
    assert searched_amplitudes(weight, 1).shape == (4,)


def test_a_channel_with_one_weight_far_out_is_clipped() -> None:
    # 999 weights spread over [-1, 1] and one at 1.25: rounding with a step of 1.25 / 127 costs 999 x step^2 / 12 = 0.0081, clipping 1.25 to a
    # costs (1.25 - a)^2. The least sum is where a (1 + 999 / (12 x 127^2)) = 1.25: at 1.2436, half a percent below the widest.
    channel = np.concatenate([np.linspace(-1, 1, 999), [1.25]]).astype(np.float32).reshape(1, -1)
    assert searched_amplitudes(channel, 0)[0] == pytest.approx(1.2436, rel=0.011)
    # Ten thousand and a weight at 2: a = 2 / 1.0517 = 1.902, five percent below.
    channel = np.concatenate([np.linspace(-1, 1, 10_000), [2.0]]).astype(np.float32).reshape(1, -1)
    assert searched_amplitudes(channel, 0)[0] == pytest.approx(2 / (1 + 1e4 / (12 * 127**2)), rel=0.02)


def test_channels_are_searched_alone_however_many_are_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = np.random.default_rng(1).normal(size=(7, 30)).astype(np.float32)
    together = searched_amplitudes(weight, 0)
    monkeypatch.setattr(weights, "VALUES_AT_ONCE", 1)
    assert searched_amplitudes(weight, 0).tolist() == together.tolist()
    assert searched_amplitudes(weight[3:4], 0)[0] == together[3]


def test_the_search_is_equivariant_to_scale() -> None:
    weight = np.random.default_rng(2).normal(size=(3, 50)).astype(np.float32)
    assert searched_amplitudes(weight * np.float32(4.0), 0).tolist() == (4.0 * searched_amplitudes(weight, 0)).tolist()
