from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtime_models import write_images, write_interpreter, write_net

from kdedge.devices.device import Device, DeviceSettings
from kdedge.devices.faults import Fault, FaultyTransport
from kdedge.devices.jobs import run_job
from kdedge.devices.local import LocalTransport
from kdedge.devices.simulated import open_device
from kdedge.errors import DeviceError, Disconnected
from kdedge.latency.validity import invalid_because
from kdedge.runtimes.job import Job, LaunchRule, SustainedRule
from kdedge.targets import TARGETS

RULE = LaunchRule(warmup_seconds=0.05, warmup_iterations=5, min_seconds=0.0, min_iterations=100, max_seconds=60.0)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter that knows the runtime `fake`."""
    return write_interpreter(tmp_path_factory.mktemp("python") / "python")


@pytest.fixture
def job(tmp_path: Path) -> Job:
    np.save(tmp_path / "x.npy", np.arange(10, dtype=np.float32).reshape(5, 2))
    (tmp_path / "model").write_text("any")
    return Job("validate", "fake", {"main": [str(tmp_path / "model")]}, {}, [{"image": str(tmp_path / "x.npy")}], batch=2, launch=RULE)


def opened(scenario: str, python: str = "", transport: Any = None, **changes: Any) -> Device:
    return open_device(f"simulated:{scenario}", DeviceSettings(address=scenario, python=python, set=changes), transport)


def medians(device: Device, jobs: list[Job], folder: Path) -> list[float]:
    found = []
    for number, each in enumerate(jobs):
        result = run_job(device, replace(each, kind="launch"), folder / str(number), 60)
        assert (result.status, result.reason) == ("ok", "")
        found.append(float(np.median(np.load(folder / str(number) / "samples_ns.npy"))) / 1e6)
    return found


def test_its_latency_is_nobodys(python: str) -> None:
    identity = opened("quiet").identity
    assert (identity.name, identity.kind, identity.machines) == ("simulated:quiet", "simulated", ("simulated",))
    assert not any("simulated" in target.machines for target in TARGETS.values())  # so every cell there is a proxy
    assert "launch_sd" in identity.fingerprint["simulated"]
    assert identity.fingerprint != opened("quiet", seed=1).identity.fingerprint


def test_answers_are_real(python: str, job: Job, tmp_path: Path) -> None:
    result = run_job(opened("noisy", python), job, tmp_path / "job", 60)
    assert (result.status, result.reason) == ("ok", "")
    assert np.load(tmp_path / "job" / result.outputs[0]["doubled"]).tolist() == [[0, 2], [4, 6], [8, 10], [12, 14], [16, 18]]


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"kind": "energy"}, "a job of the kind `energy`"), ({"kind": "launch", "sustained": SustainedRule()}, "a sustained launch")],
)
def test_it_makes_up_neither_energy_nor_heat(changes: dict[str, Any], what: str, job: Job, tmp_path: Path) -> None:
    result = run_job(opened("quiet", milliseconds=1.0), replace(job, **changes), tmp_path / "job", 60)
    assert (result.status, result.reason.partition(" cannot be simulated")[0]) == ("not-run", what)


def test_a_model_that_is_five_percent_slower_is_just_that(job: Job, tmp_path: Path) -> None:
    (tmp_path / "slower").write_text("another")
    slower = replace(job, graphs={"main": [str(tmp_path / "slower")]})
    times = {hashlib.sha256(b"any").hexdigest(): 2.0, hashlib.sha256(b"another").hexdigest()[:12]: 2.1}
    found = medians(opened("quiet", milliseconds=times, launch_sd=0, iteration_sd=0), [job, slower], tmp_path / "jobs")
    assert found == [2.0, 2.1]


def test_launches_are_repeated_exactly_and_each_is_another(job: Job, tmp_path: Path) -> None:
    first, again = (medians(opened("noisy", milliseconds=1.0, seed=3), [job] * 4, tmp_path / name) for name in ("a", "b"))
    assert first == again
    assert len(set(first)) == 4


def test_a_launch_looks_like_a_workers(job: Job, tmp_path: Path) -> None:
    result = run_job(opened("noisy", milliseconds=1.0), replace(job, kind="launch"), tmp_path / "job", 60)
    samples = np.load(tmp_path / "job" / "samples_ns.npy")
    assert samples.dtype == np.int64
    assert result.iterations == len(samples) == 100
    assert result.loop_seconds == pytest.approx(samples.sum() / 1e9)
    assert len(np.load(tmp_path / "job" / "warmup_ns.npy")) == 50
    assert {"before", "after", "simulated"} <= set(result.evidence)
    assert result.load_ms is not None


def test_without_a_given_time_the_model_is_run_here_once(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    write_images(tmp_path / "x.npy", 2)
    net = write_net(tmp_path / "net.onnx")
    job = Job("launch", "onnxruntime", {"main": [str(net)]}, {"threads": 1}, [{"image": str(tmp_path / "x.npy")}], launch=RULE)
    device = opened("quiet", launch_sd=0, iteration_sd=0)
    (first, second) = medians(device, [job, job], tmp_path / "jobs")
    assert first == second > 0
    result = run_job(device, job, tmp_path / "again", 60)
    assert result.runtime_version
    assert result.peak_memory_bytes
    assert result.facts["simulated_base_ms"] == pytest.approx(first, abs=1e-6)
    assert not (tmp_path / "again" / "undisturbed").exists()


def test_what_cannot_run_here_fails_there_too(python: str, job: Job, tmp_path: Path) -> None:
    result = run_job(opened("quiet", python), replace(job, kind="launch", options={"do": "exit"}), tmp_path / "job", 60)
    assert result.status == "failed"
    assert "licence expired" in result.reason


def test_throttling_begins_on_the_virtual_clock_and_makes_launches_invalid(job: Job, tmp_path: Path) -> None:
    device = opened("throttle", milliseconds=1.0)
    valid = []
    for number in range(20):
        result = run_job(device, replace(job, kind="launch"), tmp_path / str(number), 60)
        valid.append(not invalid_because(result))
    assert valid == sorted(valid, reverse=True)  # first all valid, then none
    assert 8 < sum(valid) < 14  # 5 s, and a launch takes 0.3 s and 150 iterations


def test_disconnects_are_errors_and_failures_results(job: Job, tmp_path: Path) -> None:
    device = opened("disconnects", milliseconds=1.0, disconnect_share=0.3, failure_share=0.3)
    seen = set()
    for number in range(40):
        try:
            seen.add(run_job(device, replace(job, kind="launch"), tmp_path / str(number), 60).reason)
        except Disconnected as error:
            seen.add(str(error).partition(" in launch")[0])
    assert seen == {
        "",
        "signal 9 (SIGKILL), as the scenario `disconnects` says",
        "device `simulated:disconnects`: the connection broke",
    }


def test_a_launch_longer_than_its_limit_is_stopped(job: Job, tmp_path: Path) -> None:
    result = run_job(opened("quiet", milliseconds=100.0), replace(job, kind="launch"), tmp_path / "job", 2)
    assert (result.status, result.reason) == ("failed", "stopped after 2 s, the limit of this job")


@pytest.mark.parametrize(
    ("scenario", "changes", "said"),
    [
        ("", {}, "there is no simulated device"),
        ("quiet", {"seed": -1}, "seed"),
        ("quiet", {"milliseconds": 0}, "milliseconds"),
        ("quiet", {"milliseconds": {"ab": "fast"}}, "milliseconds"),
        ("quiet", {"colour": 1}, "there is no `colour`"),
    ],
)
def test_settings_that_mean_nothing_are_told(scenario: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DeviceError, match=said):
        opened(scenario, **changes)


def test_a_scripted_cut_ends_a_real_job_with_a_named_error(python: str, job: Job, tmp_path: Path) -> None:
    transport = FaultyTransport(LocalTransport(), [Fault(1, "cut", "run")])
    with pytest.raises(Disconnected, match="the connection broke"):
        run_job(opened("quiet", python, transport), job, tmp_path / "job", 60)
    assert run_job(opened("quiet", python, transport), job, tmp_path / "job", 60).status == "ok"  # the fault was for one operation
