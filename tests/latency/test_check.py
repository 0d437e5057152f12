"""A check launches both in turns, counts what may count, looks when it was declared, and says what it knows."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from check_world import arm, model_files, simulated

from kdedge.devices.device import Device
from kdedge.errors import DeviceGone, Disconnected, MeasurementError
from kdedge.latency.check import Checked, CheckSettings, check
from kdedge.runtimes.job import LaunchRule

SETTINGS = CheckSettings(pairs=16, launch=LaunchRule(warmup_seconds=0.0, warmup_iterations=5, min_seconds=0.0, min_iterations=100))


def checked(tmp_path: Path, scenario: str = "quiet", slower: float = 0.0, settings: CheckSettings = SETTINGS, **fields: Any) -> Checked:
    before, after = model_files(tmp_path / "models")
    device = simulated(scenario, before, after, slower, **fields)
    (tmp_path / "work").mkdir()
    return check(device, arm(before, tmp_path / "a"), arm(after, tmp_path / "b"), settings, tmp_path / "work")


@pytest.mark.parametrize(
    ("slower", "state", "code"), [(0.0, "equivalent", 0), (0.02, "equivalent", 0), (0.06, "regressed", 1), (-0.06, "improved", 0)]
)
def test_what_is_slower_by_more_than_the_margin_is_found_and_nothing_else(slower: float, state: str, code: int, tmp_path: Path) -> None:
    found = checked(tmp_path, slower=slower)
    assert (found.verdict.state, found.verdict.exit_code) == (state, code)
    effect = found.verdict.tests[0].effect
    assert effect.low is not None
    assert effect.high is not None
    assert effect.low <= 100 * slower <= effect.high


def test_a_change_of_just_the_margin_is_left_open_with_what_would_decide(tmp_path: Path) -> None:
    found = checked(tmp_path, slower=0.03, scenario="noisy")
    assert (found.verdict.state, found.verdict.exit_code) == ("inconclusive", 3)
    assert "cannot" in found.verdict.reason
    assert found.verdict.look == len(found.verdict.rule.looks.pairs)


def test_throttling_on_the_way_is_invalid_and_never_a_regression(tmp_path: Path) -> None:
    found = checked(tmp_path, scenario="throttle", slower=0.0, throttle_at=3.0)
    assert (found.verdict.state, found.verdict.exit_code) == ("invalid", 4)
    assert "throttled" in found.verdict.reason
    assert len(found.verdict.counted) < 16


def test_a_pair_with_a_lost_launch_is_replaced_by_one_of_the_same_order(tmp_path: Path) -> None:
    found = checked(tmp_path, scenario="disconnects", disconnect_share=0.05, failure_share=0.0)
    verdict = found.verdict
    lost = [pair for pair in verdict.pairs if not pair.valid]
    assert lost, "the scenario loses launches"
    assert verdict.state == "equivalent"
    counted = [verdict.pairs[number].order for number in verdict.counted]
    assert counted.count("AB") == counted.count("BA") == len(counted) // 2


def test_launches_run_in_abba_order(tmp_path: Path) -> None:
    found = checked(tmp_path)
    orders = [pair.order for pair in found.verdict.pairs]
    assert all(first != second for first, second in itertools.pairwise(orders))
    arms = "".join(launch.arm for launch in found.launches)
    assert arms[:8] in ("ABBAABBA", "BAABBAAB")


def test_every_launch_is_kept_with_its_samples(tmp_path: Path) -> None:
    found = checked(tmp_path)
    assert len(found.launches) == 2 * len(found.verdict.pairs)
    for launch in found.launches:
        assert launch.samples is not None
        assert launch.iterations == len(launch.samples) == 100
        assert launch.median_ms == pytest.approx(float(np.median(launch.samples)) / 1e6)
        assert launch.evidence["before"]


def test_a_clear_case_is_decided_at_the_first_look(tmp_path: Path) -> None:
    found = checked(tmp_path, slower=0.2)
    assert found.verdict.state == "regressed"
    assert found.verdict.look == 1
    assert len(found.verdict.pairs) == found.verdict.rule.looks.pairs[0]


def test_artifacts_are_compared_and_not_settings(tmp_path: Path) -> None:
    before, after = model_files(tmp_path / "models")
    device = simulated("quiet", before, after, 0.0)
    (tmp_path / "work").mkdir()
    sides = arm(before, tmp_path / "a"), arm(after, tmp_path / "b", threads=4)
    refused = check(device, *sides, SETTINGS, tmp_path / "work")
    assert (refused.verdict.state, refused.launches) == ("invalid", ())
    assert "option threads: 1 and 4" in refused.verdict.reason
    allowed = check(device, *sides, replace(SETTINGS, allow_mismatch=True), tmp_path / "work")
    assert allowed.verdict.state == "equivalent"
    assert any("option threads: 1 and 4" in note for note in allowed.verdict.notes)


def test_a_budget_that_is_too_short_is_said_and_passes_nothing(tmp_path: Path) -> None:
    found = checked(tmp_path, settings=replace(SETTINGS, budget_seconds=0.001, launch=LaunchRule(min_iterations=100)))
    assert (found.verdict.state, found.verdict.exit_code, found.launches) == ("inconclusive", 3, ())
    assert "too short" in found.verdict.reason


class Lost:
    """A device that is gone after some launches."""

    def __init__(self, inner: Device, launches: int) -> None:
        self.inner, self.left = inner, launches

    def run(self, *arguments: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise DeviceGone("the board is gone")
        assert self.inner.runner is not None
        return self.inner.runner.run(*arguments)


def test_a_device_that_is_gone_is_an_invalid_measurement(tmp_path: Path) -> None:
    before, after = model_files(tmp_path / "models")
    device = simulated("quiet", before, after, 0.0)
    (tmp_path / "work").mkdir()
    with pytest.raises(MeasurementError, match="the device was lost after 3 pairs: the board is gone") as error:
        check(replace(device, runner=Lost(device, 8)), arm(before, tmp_path / "a"), arm(after, tmp_path / "b"), SETTINGS, tmp_path / "work")
    assert error.value.exit_code == 4


def test_a_candidate_that_never_starts_is_named(tmp_path: Path) -> None:
    before, after = model_files(tmp_path / "models")
    device = simulated("disconnects", before, after, 0.0, disconnect_share=0.0, failure_share=1.0)
    (tmp_path / "work").mkdir()
    with pytest.raises(MeasurementError, match="the baseline before cannot be launched: signal 9"):
        check(device, arm(before, tmp_path / "a"), arm(after, tmp_path / "b"), SETTINGS, tmp_path / "work")


class Flaky:
    """A device whose first connections are lost."""

    def __init__(self, inner: Device, lost: int) -> None:
        self.inner, self.left, self.runs = inner, lost, 0

    def run(self, *arguments: Any) -> Any:
        self.runs += 1
        self.left -= 1
        if self.left >= 0:
            raise Disconnected("the cable is out")
        assert self.inner.runner is not None
        return self.inner.runner.run(*arguments)


def test_a_connection_that_is_lost_before_the_first_pair_is_tried_again(tmp_path: Path) -> None:
    before, after = model_files(tmp_path / "models")
    sides = arm(before, tmp_path / "a"), arm(after, tmp_path / "b")
    for lost, works in ((2, True), (3, False)):
        device = simulated("quiet", before, after, 0.0)
        flaky = Flaky(device, lost)
        work = tmp_path / f"work-{lost}"
        work.mkdir()
        if works:
            found = check(replace(device, runner=flaky), *sides, SETTINGS, work)
            assert found.verdict.state == "equivalent"
            assert flaky.runs == lost + 2 + len(found.launches)
        else:
            with pytest.raises(MeasurementError, match="the baseline before cannot be launched: the cable is out"):
                check(replace(device, runner=flaky), *sides, SETTINGS, work)


def test_what_is_known_of_the_noise_says_beforehand_what_can_be_found(tmp_path: Path) -> None:
    before, after = model_files(tmp_path / "models")
    device = simulated("quiet", before, after, 0.0)
    (tmp_path / "work").mkdir()
    said: list[str] = []
    sides = arm(before, tmp_path / "a"), arm(after, tmp_path / "b")
    found = check(device, *sides, SETTINGS, tmp_path / "work", known_noise=0.01, told=said.append)
    assert found.verdict.detectable_before is not None
    assert found.verdict.detectable_before > 0.03
    assert said == [found.plan]
    assert f"{100 * found.verdict.detectable_before:.1f} % is found" in found.plan


def test_where_nothing_is_known_of_the_noise_the_first_pairs_say_early_what_can_be_found(tmp_path: Path) -> None:
    """So that nobody waits minutes for a check that cannot decide. They decide nothing: what they say depends on how far they are apart alone."""
    before, after = model_files(tmp_path / "models")
    sides = arm(before, tmp_path / "a"), arm(after, tmp_path / "b")
    for scenario, loud, slower in (("quiet", False, 0.0), ("quiet", False, 0.06), ("noisy", True, 0.0)):
        work = tmp_path / f"{scenario}-{slower}"
        work.mkdir()
        said: list[str] = []
        check(simulated(scenario, before, after, slower, launch_sd=0.05 if loud else 0.0024), *sides, SETTINGS, work, told=said.append)
        assert len(said) == 2
        assert said[1].startswith("the first 4 pairs show a noise of about ")
        assert "a slow-down of about " in said[1]
        assert ("cannot decide at this noise, needs about " in said[1]) == loud


def test_a_check_that_loses_its_first_pairs_says_nothing_of_them(tmp_path: Path) -> None:
    before, after = model_files(tmp_path / "models")
    (tmp_path / "work").mkdir()
    said: list[str] = []
    device = simulated("throttle", before, after, 0.0, throttle_at=0.0)
    check(device, arm(before, tmp_path / "a"), arm(after, tmp_path / "b"), SETTINGS, tmp_path / "work", told=said.append)
    assert len(said) == 1


class Changing:
    """A device on which somebody changes the power mode after some launches, and back after one more."""

    def __init__(self, inner: Device, at: int) -> None:
        self.inner, self.at, self.runs = inner, at, 0

    def run(self, *arguments: Any) -> Any:
        self.runs += 1
        assert self.inner.runner is not None
        result = self.inner.runner.run(*arguments)
        mode = "15W" if self.runs == self.at else "MAXN"
        return replace(result, evidence={**result.evidence, "machine": {"power_mode": mode}})


def test_a_pair_between_whose_launches_the_machine_was_set_otherwise_is_dropped(tmp_path: Path) -> None:
    before, after = model_files(tmp_path / "models")
    sides = arm(before, tmp_path / "a"), arm(after, tmp_path / "b")
    device = simulated("quiet", before, after, 0.0)
    (tmp_path / "work").mkdir()
    found = check(replace(device, runner=Changing(device, 5)), *sides, SETTINGS, tmp_path / "work")  # two pilots, one pair, then this
    (dropped,) = [pair for pair in found.verdict.pairs if not pair.valid]
    assert dropped.number == 1
    assert all("both ran differently (power mode: " in problem for problem in dropped.problems)
    assert found.verdict.state == "equivalent"
    (tmp_path / "again").mkdir()
    allowed = check(replace(device, runner=Changing(device, 5)), *sides, replace(SETTINGS, allow_mismatch=True), tmp_path / "again")
    assert all(pair.valid for pair in allowed.verdict.pairs)
    # In the first launch of all, it is the environment of one side.
    (tmp_path / "pilot").mkdir()
    refused = check(replace(device, runner=Changing(device, 1)), *sides, SETTINGS, tmp_path / "pilot")
    assert (refused.verdict.state, refused.launches) == ("invalid", ())
    assert "power mode: 15W and MAXN" in refused.verdict.reason


def test_nothing_more_is_launched_once_too_many_pairs_are_lost(tmp_path: Path) -> None:
    found = checked(tmp_path, scenario="throttle", throttle_at=0.0)
    verdict = found.verdict
    assert verdict.state == "invalid"
    # Of the 16 declared pairs and their 2 spares 9 are left, and the first look needs 10.
    assert (verdict.rule.looks.pairs, len(verdict.pairs)) == ((10, 16), 9)


def test_a_budget_is_not_spent_on_a_check_that_cannot_be_valid_any_more(tmp_path: Path) -> None:
    found = checked(tmp_path, scenario="throttle", throttle_at=0.0, settings=replace(SETTINGS, looks=1))
    # 16 pairs are needed, 2 more may be run in place of dropped ones, and the third is dropped.
    assert (found.verdict.state, len(found.verdict.pairs)) == ("invalid", 3)


def test_settings_that_can_decide_nothing_are_refused_before_anything_is_launched(tmp_path: Path) -> None:
    before, after = model_files(tmp_path / "models")
    device = simulated("quiet", before, after, 0.0)
    flaky = Flaky(device, 0)
    (tmp_path / "work").mkdir()
    with pytest.raises(MeasurementError, match="begin with 8 pairs"):
        check(replace(device, runner=flaky), arm(before, tmp_path / "a"), arm(after, tmp_path / "b"), replace(SETTINGS, pairs=6), tmp_path / "work")
    assert flaky.runs == 0


def test_a_short_budget_is_said_to_be_short_at_any_alpha(tmp_path: Path) -> None:
    found = checked(tmp_path, settings=replace(SETTINGS, alpha=1e-6, budget_seconds=0.001))
    assert found.verdict.state == "inconclusive"
    assert "too short: the fewest pairs that can decide are 22" in found.verdict.reason
