"""The live proof of the latency check counts what was made under its scenario, all of it, once."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kdedge.latency.check import CheckSettings
from kdedge.latency.power import detectable

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SETTINGS = CheckSettings(budget_seconds=20.0)
MACHINE = {"processor": "a processor", "cores": 2, "onnxruntime": "1"}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A module of `benchmarks/` by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def log(bench: Callable[[str], ModuleType]) -> ModuleType:
    return bench("latency_check_log")


def line(log: ModuleType, scenario: str, number: int, state: str, **changes: Any) -> dict[str, Any]:
    launch = [1.0, 1.1, 64, ""]
    return {
        "scenario": scenario,
        "number": number,
        "state": state,
        "disturbed": False,
        "quiet_machine": True,
        "noise": 0.004,
        "setting": log.setting_of(SETTINGS),
        "machine": MACHINE,
        "started": "2026-01-01T00:00:00+00:00",
        "others_cores": 0.1,
        "load_average": [0.9, 1.0],
        "effect": {"value": 0.5},
        "detectable": 0.04,
        "pairs": [["AB", launch, launch], ["BA", launch, [1.0, 1.1, 64, "throttled"]]],
        "seconds": 20.0,
        "work": {"channels": 16, "macs_share": 0.05, "effect": {"name": "x", "value": 5.0, "low": 4.8, "high": 5.2, "n": 12, "unit": "%"}},
        **changes,
    }


def test_a_disturbed_check_is_made_again_whatever_it_said(log: ModuleType) -> None:
    lines = [line(log, "quiet", 0, "equivalent"), line(log, "quiet", 1, "regressed", disturbed=True), line(log, "loaded", 1, "equivalent")]
    assert [found["number"] for found in log.counted(lines, "quiet", SETTINGS)] == [0]
    assert log.next_number(lines, "quiet", SETTINGS) == 1
    assert log.next_number(lines, "loaded", SETTINGS) == 0


def test_no_check_can_be_made_until_it_says_what_one_likes(log: ModuleType) -> None:
    lines = [line(log, "quiet", 0, "regressed"), line(log, "quiet", 0, "equivalent")]
    assert [found["state"] for found in log.counted(lines, "quiet", SETTINGS)] == ["regressed"]
    assert log.next_number(lines, "quiet", SETTINGS) == 1


def test_checks_of_another_setting_do_not_count(log: ModuleType) -> None:
    assert log.counted([line(log, "quiet", 0, "equivalent")], "quiet", CheckSettings(budget_seconds=60.0)) == []


def test_a_machine_that_was_not_found_quiet_is_no_part_of_the_proof_and_is_told_beside_it(log: ModuleType) -> None:
    loud = line(log, "quiet", 0, "inconclusive", quiet_machine=False, noise=0.09, machine={**MACHINE, "processor": "a loud one"})
    older = line(log, "quiet", 1, "equivalent", machine={**MACHINE, "processor": "a loud one"}, noise=0.11)
    del older["quiet_machine"]  # nobody looked
    lines = [loud, older, line(log, "quiet", 0, "equivalent")]
    assert [found["state"] for found in log.counted(lines, "quiet", SETTINGS)] == ["equivalent"]
    assert log.next_number(lines, "quiet", SETTINGS) == 1
    assert log.next_number(lines, "quiet", SETTINGS, quiet=False) == 2
    there = {scenario: log.counted(lines, scenario, SETTINGS) for scenario in log.SCENARIOS}
    beside = "on machines that are not quiet (a loud one; noise of a pair of launches 10.0 %): A/A, quiet: 0 of 2 flagged, 1 decided."
    assert beside in log.about(lines, there, SETTINGS)[-1]
    assert beside in log.about(lines[:2], {scenario: [] for scenario in log.SCENARIOS}, SETTINGS)[-1]
    throttled = line(log, "quiet", 0, "invalid", quiet_machine=False, noise=None)
    assert "noise of a pair of launches not known" in log.about([throttled], {scenario: [] for scenario in log.SCENARIOS}, SETTINGS)[-1]


def test_a_machine_is_quiet_where_a_check_would_find_the_injected_work_nearly_always(bench: Callable[[str], ModuleType]) -> None:
    machine, work = bench("latency_check_machine"), bench("latency_check_work")
    steps = [1.0, 1.01, 1.0, 1.01, 1.0]  # neighbours differ by ln 1.01, whatever their order
    found = machine.quietness_of(steps, pairs=16, margin=0.03, share=0.0025)
    assert found.noise == pytest.approx(math.log(1.01))
    assert found.launch_sd == pytest.approx(math.log(1.01) * math.sqrt(0.3))  # of 0, 1, 0, 1, 0: sum of squares 1.2 over 4
    assert found.detectable == pytest.approx(detectable(math.log(1.01), 16, 0.03, 0.0025, 0.99))
    assert found.finds(work.WANTED / 100)
    assert not machine.quietness_of([1.0, 1.05, 1.0], 16, 0.03, 0.0025).finds(work.WANTED / 100)
    # A drift that both sides of a pair share disturbs no check.
    drift = machine.quietness_of([1.002**step for step in range(30)], 16, 0.03, 0.0025)
    assert drift.launch_sd > 0.015
    assert drift.finds(work.WANTED / 100)


def test_a_torn_line_is_no_check(log: ModuleType, tmp_path: Path) -> None:
    whole = json.dumps(line(log, "quiet", 0, "equivalent"))
    path = tmp_path / "runs.jsonl"
    path.write_text(f"{whole}\n{whole[:50]}\n[]\n" + json.dumps({"scenario": "quiet", "disturbed": False, "machine": {}}) + "\n")
    assert log.read(path) == [json.loads(whole)]
    assert log.read(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (0, 100, 0.0, 1 - 0.025 ** (1 / 100)),  # with none seen the bound is where (1 - p)^n = 2.5 %
        (100, 100, 0.025 ** (1 / 100), 1.0),
        (1, 100, 1 - 0.975 ** (1 / 100), 0.0544594),
        (5, 10, 0.1870860, 0.8129140),  # the usual textbook case, symmetric
    ],
)
def test_the_interval_of_a_share_is_exact(log: ModuleType, successes: int, n: int, low: float, high: float) -> None:
    assert log.clopper_pearson(successes, n) == pytest.approx((low, high), abs=1e-6)


def test_two_of_a_hundred_flagged_breaks_the_claim_and_one_does_not(log: ModuleType) -> None:
    def there(flagged: int, found: int) -> dict[str, list[dict[str, Any]]]:
        return {
            "quiet": [line(log, "quiet", number, "regressed" if number < flagged else "equivalent") for number in range(100)],
            "loaded": [line(log, "loaded", number, "equivalent") for number in range(100)],
            "injected": [line(log, "injected", number, "regressed" if number < found else "invalid") for number in range(50)],
        }

    assert log.broken(there(1, 45)) == []
    assert log.broken(there(2, 45)) == ["A/A, quiet: 2 of 100 flagged, more than 1 %"]
    assert log.broken(there(0, 44)) == ["5 % more work: 44 of 50 found, fewer than 90 %"]
    # A check that never says anything raises no false alarm.
    mute = {**there(0, 45), "quiet": [line(log, "quiet", number, "inconclusive" if number < 21 else "equivalent") for number in range(100)]}
    assert log.broken(mute) == ["A/A, quiet: 79 of 100 decided, fewer than 80 %"]
    rows = log.table(there(1, 45), SETTINGS)
    assert rows[2] == "| A/A, quiet | 100 | 1 | 0.0 to 5.4 % | 0 | 99 | 0 | 0 | +0.50 % | 4.0 % | 2 | 100 |"
    assert len({row.count("|") for row in rows}) == 1
    (about,) = log.about([], there(1, 45), SETTINGS)
    assert "1 of 100 flagged; were the rate just alpha, so many or more would be with 63 %." in about  # 1 - 0.99^100
    assert "takes 5.00 % [4.80, 5.20]" in about


def test_a_simulated_check_that_flags_too_much_or_says_too_little_breaks_the_claims(bench: Callable[[str], ModuleType]) -> None:
    simulated = bench("latency_check_simulated")
    alarms = {"flagged": 35, "equivalent": 1700, "regressed_at_margin": 20, "equivalent_at_margin": 20, "whole_at_margin": 5, "naive": 0.5}
    found = {"detectable": 0.05, "found": 0.8, "shares": [0.0, 0.5, 1.0], "promised": 0.867}
    invalid = {"0": {"invalid": 200}}

    def broken(alarm: dict[str, Any], power: dict[str, Any], throttled: dict[str, dict[str, int]] = invalid) -> list[str]:
        wrong: list[str] = simulated.broken({"noisy": {**alarms, **alarm}}, {"noisy": {**found, **power}}, throttled, 2000)
        return wrong

    # 1 % of 2,000 is 20, and 35 or fewer happen in 999 of 1,000; of 86.7 % it is 1,686 or more.
    assert (simulated.upper_count(2000, 0.01), simulated.lower_count(2000, 0.867)) == (35, 1686)
    assert broken({}, {}) == []
    assert broken({"whole_at_margin": 36}, {}) == ["noisy: whole_at_margin 36 times of 2000, more than 35"]
    assert broken({"equivalent": 0}, {}) == ["noisy: 0 of 2000 unchanged proven equivalent, promised 86.7 %"]
    assert broken({"equivalent": 0}, {"promised": None}) == []
    assert broken({"naive": 0.05}, {}) == ["noisy: a test on iterations flags 5 %, so that this scenario shows nothing"]
    assert broken({}, {"found": 0.7}) == ["noisy: 70.0 % found of the slow-down that is called detectable with 80 %"]
    assert broken({}, {"shares": [0.0, 0.6, 0.5]}) == ["noisy: a larger slow-down is found less often"]
    assert broken({}, {}, {"10": {"invalid": 199, "regressed": 1}}) == [
        "candidate 10 % slower, throttled: {'invalid': 199, 'regressed': 1}, not all invalid"
    ]


def test_what_is_promised_to_an_unchanged_candidate_is_the_power_at_twice_the_margin(bench: Callable[[str], ModuleType]) -> None:
    import numpy as np

    simulated = bench("latency_check_simulated")
    ratios = np.random.default_rng(0).normal(0, 0.02, (400, 10))
    promise = simulated.promised(ratios, 10)
    others = np.random.default_rng(1).normal(0, 0.02, (4000, 10))
    assert simulated.false_alarms(others, 0.0)["equivalent"] / len(others) == pytest.approx(promise, abs=0.04)
    assert simulated.promised(ratios * 10, 10) is None


def test_a_page_has_both_places_and_the_log_that_is_kept_can_be_read(log: ModuleType) -> None:
    page = (BENCHMARKS.parent / "docs" / "latency_check.md").read_text(encoding="utf-8")
    for name in ("latency_check", "latency_check_simulated"):
        assert page.count(f"<!-- {name}: begin -->") == page.count(f"<!-- {name}: end -->") == 1
    kept = BENCHMARKS / "latency_check_runs.jsonl"
    assert len(log.read(kept)) == len(kept.read_text(encoding="utf-8").splitlines())


def test_the_heavier_network_does_more_work_for_nearly_the_same_answer(bench: Callable[[str], ModuleType], tmp_path: Path) -> None:
    import numpy as np

    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from kdedge.exporters.model_file import load_model, save_model
    from kdedge.exporters.shapes import fix_shapes

    work, models = bench("latency_check_work"), bench("resnet20_onnx")
    base, fixed, heavier = tmp_path / "base.onnx", tmp_path / "fixed.onnx", tmp_path / "heavier.onnx"
    models.write_resnet20(base)
    save_model(fix_shapes(load_model(base), {"N": 1}), fixed)
    # 3x3 on 3 channels at 16 x 16, and 10 logits, for each channel; the network has 40.8 million multiplications.
    assert work.write_heavier(fixed, heavier, 16) == pytest.approx(16 * (27 * 256 + 10) / 40.8e6, rel=0.01)
    image = {"image": np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32)}
    (before,), (after,) = (onnxruntime.InferenceSession(str(path)).run(None, image) for path in (fixed, heavier))
    assert after.shape == before.shape
    assert not np.array_equal(after, before)  # it is not optimised away
    assert np.abs(after - before).max() < 0.1


def test_the_next_trial_lies_on_the_line_through_those_around_five_percent(bench: Callable[[str], ModuleType]) -> None:
    work = bench("latency_check_work")
    assert work._next_units({8: 2.5}) == 16
    assert work._next_units({8: 2.5, 20: 6.5}) == 16  # 8 + 2.5 / 4 x 12 = 15.5, to the even one
    assert work._next_units({8: -0.3}) == 16  # too little to see: twice as much
    assert work._next_units({8: 90.0}) == 2  # not less than a quarter at once
