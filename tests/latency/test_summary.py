from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kdedge.latency.summary import Launch, summarize
from kdedge.runtimes.job import Result


def launch(median: float, n: int = 101, **result: Any) -> Launch:
    """A launch whose samples are `median` -50 % to +50 %, evenly: its median and p90 (rank ceil(0.9 n)) can be read off."""
    samples = np.random.default_rng(0).permutation(np.linspace(0.5, 1.5, n) * median)
    return Launch(samples, Result("ok", load_ms=100.0, first_inference_ms=5.0, peak_memory_bytes=50_000_000, **result))


def test_the_figures_are_medians_over_launches() -> None:
    found = summarize([launch(median) for median in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)])
    latency = found.figures["latency_median"]
    assert latency.value == pytest.approx(3.5)
    assert (latency.n, latency.unit) == (6, "ms")
    assert latency.interval == pytest.approx((1.0, 6.0))
    assert found.figures["latency_p90"].value == pytest.approx(3.5 * 1.4)  # rank 91 of 101: 0.5 + 90 / 100
    assert found.load_ms is not None
    assert (found.load_ms.value, found.load_ms.unit) == (100.0, "ms")
    assert found.first_inference_ms is not None
    assert found.first_inference_ms.value == 5.0
    assert found.peak_memory_mb == 50.0
    assert found.notes == ()


def test_many_iterations_of_one_launch_give_no_interval() -> None:
    found = summarize([launch(1.0, n=100_001)])
    assert found.figures["latency_median"].interval is None
    assert found.figures["latency_median"].n == 1
    assert found.notes == ("no intervals: they need 6 launches, there are 1",)


def test_one_short_launch_leaves_no_p90_and_a_note() -> None:
    found = summarize([*[launch(1.0)] * 5, launch(1.0, n=63)])
    assert "latency_p90" not in found.figures
    assert found.notes == ("no latency_p90: it needs 64 iterations a launch, and the shortest launch has 63",)
    assert "latency_p90" in summarize([*[launch(1.0)] * 5, launch(1.0, n=64)]).figures


def test_peak_memory_is_the_largest_and_what_no_launch_knows_is_absent() -> None:
    big = Launch(np.ones(70), Result("ok", peak_memory_bytes=80_000_000))
    found = summarize([launch(1.0), big])
    assert found.peak_memory_mb == 80.0
    assert found.load_ms is None
    assert summarize([Launch(np.ones(70), Result("ok"))]).peak_memory_mb is None


def test_device_times_are_kept_apart_from_the_hosts() -> None:
    warm_up = [9.0] * 90  # most of what the first 101 are
    times = {"compute": warm_up + [0.5] * 101, "copy_in": warm_up + [0.1] * 101, "copy_out": warm_up + [0.2] * 101}
    found = summarize([launch(1.0, facts={"device_times_ms": times})] * 6)
    assert {name: estimate.value for name, estimate in found.device_figures.items()} == {"latency_median": 0.5, "copy_in": 0.1, "copy_out": 0.2}
    assert found.figures["latency_median"].value == pytest.approx(1.0)
    assert summarize([launch(1.0)]).device_figures == {}
