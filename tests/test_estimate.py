from __future__ import annotations

import json
import subprocess
import sys

import pytest

from kdedge.estimate import Estimate


def test_the_json_holds_all_six_fields_and_nothing_else() -> None:
    estimate = Estimate("accuracy", 0.5, None, 0.75, 4, "fraction")
    assert json.loads(json.dumps(estimate.as_json())) == {"name": "accuracy", "value": 0.5, "low": None, "high": 0.75, "n": 4, "unit": "fraction"}


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate("accuracy", 0.934, 0.92838, 0.93927, 7979, "fraction"), "93.40 % [92.84, 93.93]"),
        (Estimate("latency_median", 1.8312, 1.8011, 1.8604, 10, "ms"), "1.831 ms [1.801, 1.860]"),
        (Estimate("latency_median", 1.8312, None, None, 5, "ms"), "1.831 ms (no interval: n = 5)"),
        (Estimate("kl_student", 0.0, 0.0, 0.0, 360, "nats"), "0 nats [0, 0]"),
        (Estimate("latency_median", 2143.0, 1940.0, 2311.0, 10, "ms"), "2143 ms [1940, 2311]"),
        (Estimate("difference", -1e-9, -0.01, 0.01, 100, ""), "0.000 [-0.010, 0.010]"),
        (Estimate("kl_teacher", 3.2e-5, 3.0e-5, 3.4e-5, 360, "nats"), "3.2e-05 nats [3.0e-05, 3.4e-05]"),
        (Estimate("kl_student", 3.01e-14, 2.2e-14, 4.2e-14, 360, "nats"), "3.0e-14 nats [2.2e-14, 4.2e-14]"),
        (Estimate("kl_teacher", 3.2e-4, 3.0e-4, 3.4e-4, 360, "nats"), "0.000320 nats [0.000300, 0.000340]"),
    ],
)
def test_people_see_as_many_digits_as_the_interval_deserves(estimate: Estimate, text: str) -> None:
    assert str(estimate) == text


def test_a_figure_without_an_interval_says_so_instead_of_looking_sure() -> None:
    assert Estimate("x", 1.0, None, None, 3, "").interval is None
    assert "no interval" in str(Estimate("x", 1.0, None, None, 3, ""))
    assert Estimate("x", 1.0, 0.5, 2.0, 30, "").interval == (0.5, 2.0)


def test_an_estimate_needs_no_numpy() -> None:
    code = "import sys, kdedge.estimate; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
