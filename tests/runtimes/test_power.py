"""Energy by hand: powers by trapezoids over exactly the window, counters by difference, idle subtracted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fake_runtime
import numpy as np
import pytest
from device_recordings import laid_out
from fake_runtime import fake_session
from hypothesis import given
from hypothesis import strategies as st

from kdedge.runtimes import perform, power
from kdedge.runtimes.errors import NotAvailable, RuntimeFailure
from kdedge.runtimes.job import EnergyRule, Job, LaunchRule, read_job, write_job
from kdedge.runtimes.power import Readings, Supply, energy_mj, steps_of, summary
from kdedge.runtimes.reach import Reach, in_folder


def supply(name: str = "VDD_IN", range_uj: int = 0) -> Supply:
    return Supply(name, lambda: 0.0, range_uj)


def test_a_power_is_integrated_by_trapezoids() -> None:
    # 1 W rising to 3 W within 2 s, then 3 W for 1 s: 2 s x 2 W + 1 s x 3 W = 7 J.
    seconds, milliwatts = np.array([0.0, 2.0, 3.0]), np.array([1000.0, 3000.0, 3000.0])
    assert energy_mj(seconds, milliwatts, 0, (0.0, 3.0)) == pytest.approx(7000.0)


def test_the_window_ends_between_two_readings() -> None:
    # P(t) = 1 + t (W) read each second; from 0.5 to 3.5 s: 3 s x mean 3 W = 9 J.
    seconds = np.arange(5.0)
    assert energy_mj(seconds, 1000 * (1 + seconds), 0, (0.5, 3.5)) == pytest.approx(9000.0)


@pytest.mark.parametrize("window", [(0.0, 4.5), (-0.5, 3.0), (0.9, 2.5)])
def test_too_few_readings_are_no_energy(window: tuple[float, float]) -> None:
    seconds = np.arange(5.0)
    with pytest.raises(RuntimeFailure, match="at least 3 times and on both sides"):
        energy_mj(seconds, np.ones(5), 0, window)


def test_a_counter_that_starts_over_is_a_difference_all_the_same() -> None:
    values = np.array([900.0, 980.0, 50.0, 120.0])  # of 1000: +80, +70, +70
    assert steps_of(values, 1000).tolist() == [80.0, 70.0, 70.0]
    assert energy_mj(np.arange(4.0), values, 1000, (0.0, 3.0)) == pytest.approx(0.22)  # µJ to mJ


@given(st.lists(st.integers(1, 999), min_size=5, max_size=40), st.integers(0, 999))
def test_where_a_counter_starts_does_not_matter(steps: list[int], start: int) -> None:
    counted = (start + np.concatenate([[0], np.cumsum(steps)])) % 1000
    seconds = np.arange(float(len(counted)))
    assert energy_mj(seconds, counted.astype(float), 1000, (0.0, seconds[-1])) == pytest.approx(sum(steps) / 1e3)


def test_net_energy_is_without_what_the_machine_takes_when_idle() -> None:
    # Idle 2 W for 10 s, busy 5 W for 10 s, 100 inferences: 500 mJ each, of which 200 idle.
    seconds = np.linspace(0, 30, 301)
    milliwatts = np.where(seconds < 15, 2000.0, 5000.0)
    found = summary([supply()], Readings(seconds, milliwatts[None]), (1.0, 11.0), (18.0, 28.0), 100)
    assert found["gross_mj"] == pytest.approx(500.0)
    assert found["net_mj"] == pytest.approx(300.0)
    assert (found["idle_mw"], found["mean_mw"]) == (pytest.approx(2000.0), pytest.approx(5000.0))
    assert found["interval_ms"] == pytest.approx(100.0)
    assert (found["tap_point"], found["inferences"]) == ("VDD_IN", 100)


def test_rails_that_together_feed_the_module_are_added() -> None:
    seconds = np.arange(0.0, 21.0)
    rows = np.stack([np.full(21, 1000.0), np.full(21, 500.0)])
    found = summary([supply("VDD_GPU_SOC"), supply("VDD_CPU_CV")], Readings(seconds, rows), (0.0, 5.0), (10.0, 20.0), 10)
    assert found["gross_mj"] == pytest.approx(1500.0)
    assert found["tap_point"] == "VDD_GPU_SOC + VDD_CPU_CV"


@pytest.mark.parametrize(
    ("device", "names"),
    [
        ("constructed_jetson_orin_nano", ["VDD_IN"]),
        ("constructed_jetson_thor", ["VIN"]),
        ("constructed_x86_desktop", ["package-0"]),
        ("constructed_raspberry_pi_5", ["PMIC, fitted"]),
        ("constructed_android_phone", []),
    ],
)
def test_the_best_tap_point_of_each_machine(device: str, names: list[str], tmp_path: Path) -> None:
    found = power.supplies(laid_out(device, tmp_path))
    assert [one.name for one in found] == names
    assert all(one.read() > 0 and one.note for one in found)


def job(tmp_path: Path, **energy: float) -> Job:
    np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))
    rule = LaunchRule(0.0, 2, 0.1, 5, 5.0)
    return Job("energy", "fake", {"main": ["m"]}, {}, [{"image": "x.npy"}], batch=2, launch=rule, energy=EnergyRule(**energy))


def test_a_machine_of_constant_power_takes_that_power_and_nothing_net(tmp_path: Path) -> None:
    machine = laid_out("constructed_jetson_orin_nano", tmp_path / "machine")  # VDD_IN: 6 W, idle or not
    result = power.run(job(tmp_path, interval_seconds=0.005, idle_seconds=0.05), str(tmp_path), fake_session(), machine)
    energy = result.facts["energy"]
    assert result.status == "ok"
    assert energy["inferences"] == result.iterations == len(np.load(tmp_path / "samples_ns.npy"))
    assert energy["gross_mj"] * energy["inferences"] == pytest.approx(6000.0 * energy["window_seconds"])
    assert energy["net_mj"] == pytest.approx(0.0, abs=1e-9)
    assert energy["readings"] >= 3
    assert energy["note"] == "the board's own rail, not the wall; ina3221 averages: samples 1, update_interval 10"


def test_a_machine_whose_supplies_cannot_be_read_is_not_run(tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match="no supply of this machine can be read"):
        power.run(job(tmp_path), str(tmp_path), fake_session(), in_folder(str(tmp_path)))


def test_a_supply_that_vanishes_fails_the_launch_with_its_name(tmp_path: Path) -> None:
    machine = laid_out("constructed_jetson_orin_nano", tmp_path / "machine")
    seen = []

    def read(path: str) -> str:
        seen.append(path)
        if len(seen) > 60:
            raise OSError(19, "No such device")
        return machine.read(path)

    vanishing = Reach(read, machine.glob, machine.run)
    with pytest.raises(RuntimeFailure, match="the supply VDD_IN cannot be read any more"):
        power.run(job(tmp_path, interval_seconds=0.001, idle_seconds=0.2), str(tmp_path), fake_session(), vanishing)


@pytest.mark.parametrize("energy", [{"interval_seconds": 0.0}, {"interval_seconds": 1.0, "idle_seconds": 1.0}])
def test_a_rule_that_means_nothing_is_refused(energy: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match="the energy rule needs"):
        power.run(job(tmp_path, **energy), str(tmp_path), fake_session(), in_folder(str(tmp_path)))


def test_a_job_of_the_kind_energy_survives_its_file(tmp_path: Path) -> None:
    asked = job(tmp_path, interval_seconds=0.02, idle_seconds=3.0)
    write_job(str(tmp_path), asked)
    assert read_job(str(tmp_path)) == asked


def test_a_worker_does_an_energy_job_and_says_where_nothing_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(perform.RUNNERS, "energy", power.run)
    monkeypatch.setattr(perform, "adapter", lambda name: fake_runtime)
    (tmp_path / "m").write_text("any")
    write_job(str(tmp_path), job(tmp_path, interval_seconds=0.005, idle_seconds=0.05))
    monkeypatch.setattr(power, "here", lambda: in_folder(str(tmp_path / "bare")))
    said = perform.attempt(str(tmp_path))
    assert said.status == "not-run"
    assert said.reason.startswith("no supply of this machine can be read")
    machine = laid_out("constructed_jetson_orin_nano", tmp_path / "machine")
    monkeypatch.setattr(power, "here", lambda: machine)
    done = perform.attempt(str(tmp_path))
    assert (done.status, done.reason) == ("ok", "")
    assert done.facts["energy"]["idle_mw"] == pytest.approx(6000.0)
