"""Jobs on a phone without Python, end to end: the real adb client, doubles of the programs, everything else real."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from adb_daemon import Phone
from adb_world import private_server, running
from fake_native_programs import BENCHMARK_MODEL, EXECUTOR_RUNNER, PERF_TEST, TEST_RUNNER, UNIT, write_program
from runtime_models import write_images, write_net
from tflite_for_tests import write_tflite

from kdedge.devices.adb import open_device
from kdedge.devices.device import Device, DeviceSettings
from kdedge.devices.fingerprint import as_set, digest
from kdedge.devices.jobs import run_job
from kdedge.devices.lease import Lease, holder
from kdedge.devices.native import PROGRAMS
from kdedge.devices.native.runner import mask_of
from kdedge.errors import DeviceError, Disconnected
from kdedge.measured import DeviceIdentity
from kdedge.runtimes.job import Job, LaunchRule, SustainedRule
from kdedge.source import ModuleSource, closure_of, read_module

RULE = LaunchRule(warmup_seconds=0.1, warmup_iterations=10, min_seconds=0.5, min_iterations=64, max_seconds=5.0)
CAPACITIES = (250, 250, 250, 250, 800, 800, 800, 1024)  # little, big and one prime core


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with private_server(tmp_path_factory.mktemp("home")):
        yield


@pytest.fixture
def phone(tmp_path: Path) -> Iterator[Phone]:
    own = Phone(tmp_path / "phone")
    for core, capacity in enumerate(CAPACITIES):
        place = own.root / f"sys/devices/system/cpu/cpu{core}"
        place.mkdir(parents=True)
        (place / "cpu_capacity").write_text(f"{capacity}\n")
    # The host has fewer cores than the phone: its taskset only notes what it was asked.
    own.program("taskset", f'echo "$1" >>{own.root}/masks; shift; exec "$@"')
    with running(own):
        yield own


def opened(phone: Phone, **programs: Path) -> Device:
    return opened_in(phone, "data/kdedge", programs)


def opened_in(phone: Phone, root: str, programs: Mapping[str, Path]) -> Device:
    serial = f"127.0.0.1:{phone.port}"
    return open_device(f"adb:{serial}", DeviceSettings(address=serial, root=str(phone.root / root), runners=programs))


@pytest.fixture
def job(tmp_path: Path) -> Job:
    write_images(tmp_path / "x.npy", 5)
    net = write_net(tmp_path / "net.onnx")
    return Job("launch", "onnxruntime", {"main": [str(net)]}, {"threads": 1}, [{"image": str(tmp_path / "x.npy")}], batch=2, launch=RULE)


def masks(phone: Phone) -> list[str]:
    return (phone.root / "masks").read_text().split()


def left_behind(phone: Phone) -> list[Path]:
    return list((phone.root / "data/kdedge/runs").iterdir())


def test_a_launch_by_onnxruntime_perf_test_gives_every_sample(phone: Phone, job: Job, tmp_path: Path) -> None:
    device = opened(phone, onnxruntime_perf_test=write_program(tmp_path / "onnxruntime_perf_test", PERF_TEST))
    result = run_job(device, job, tmp_path / "job", 60)
    assert (result.status, result.reason, result.runtime) == ("ok", "", "onnxruntime")
    warmup, samples = np.load(tmp_path / "job/warmup_ns.npy"), np.load(tmp_path / "job/samples_ns.npy")
    # Four runs take 10 ms, so that 100 ms of warm-up are 40 runs; one second (the program takes whole ones) is 400.
    assert (len(warmup), len(samples)) == (40, 360)
    assert np.concatenate([warmup, samples]).tolist() == [round((1 + run % 4) * UNIT * 1e9) for run in range(400)]
    assert (result.iterations, result.examples, result.first_inference_ms, result.peak_memory_bytes) == (360, 2, 20.0, 35299328)
    assert [result.loop_seconds, result.load_ms] == pytest.approx([0.9, 27.3071])
    assert (result.facts["launcher"], result.facts["program"], result.facts["cores"]) == ("shell", "onnxruntime_perf_test", [7])
    assert masks(phone) == ["80"]  # one thread on the one strongest core
    assert set(result.evidence) >= {"before", "after"}
    assert "Total inference requests: 400" in (tmp_path / "job/worker.log").read_text()
    assert left_behind(phone) == []


def test_a_fast_model_keeps_every_one_of_its_many_samples(phone: Phone, job: Job, tmp_path: Path) -> None:
    # 25 us a run on average: one second is 40000 runs, and their file is larger than what a shell's output may be.
    program = write_program(tmp_path / "onnxruntime_perf_test", PERF_TEST, unit=0.00001)
    result = run_job(opened(phone, onnxruntime_perf_test=program), job, tmp_path / "job", 60)
    assert (result.status, result.reason) == ("ok", "")
    assert len(np.load(tmp_path / "job/warmup_ns.npy")) == 4000
    assert result.iterations == len(np.load(tmp_path / "job/samples_ns.npy")) == 36000  # to the run: whole microseconds add up exactly


def test_a_slow_model_is_measured_again_by_count(phone: Phone, job: Job, tmp_path: Path) -> None:
    # 25 ms a run on average: one second is 40 runs, fewer than the rule's 10 + 64.
    program = write_program(tmp_path / "onnxruntime_perf_test", PERF_TEST, unit=0.01)
    result = run_job(opened(phone, onnxruntime_perf_test=program), job, tmp_path / "job", 60)
    assert result.status == "ok"
    assert len(np.load(tmp_path / "job/warmup_ns.npy")) == 10
    assert result.iterations == len(np.load(tmp_path / "job/samples_ns.npy")) == 64


def test_program_and_model_are_sent_once_for_all_launches(phone: Phone, job: Job, tmp_path: Path) -> None:
    libraries = tmp_path / "onnxruntime"
    write_program(libraries / "onnxruntime_perf_test", PERF_TEST)
    (libraries / "libonnxruntime.so").write_bytes(bytes(100_000))
    device = opened(phone, onnxruntime_perf_test=libraries)
    assert run_job(device, job, tmp_path / "first", 60).status == "ok"
    received = phone.received
    assert received > 100_000
    assert run_job(device, job, tmp_path / "second", 60).status == "ok"
    assert phone.received == received


def test_what_was_not_used_for_two_weeks_is_removed_and_what_is_used_stays(phone: Phone, job: Job, tmp_path: Path) -> None:
    device = opened(phone, onnxruntime_perf_test=write_program(tmp_path / "onnxruntime_perf_test", PERF_TEST))
    assert run_job(device, job, tmp_path / "first", 60).status == "ok"
    root, long_ago = phone.root / "data/kdedge", time.time() - 20 * 24 * 3600
    used = list((root / "native").iterdir())
    for name in ("native/unused", "runs/of-a-host-that-died"):
        (root / name).mkdir()
        (root / name / "file").write_text("old")
    for folder in (*used, root / "native/unused", root / "runs/of-a-host-that-died"):
        os.utime(folder, (long_ago, long_ago))
    received = phone.received
    assert run_job(device, job, tmp_path / "second", 60).status == "ok"
    assert sorted((root / "native").iterdir()) == sorted(used)
    assert left_behind(phone) == []
    assert phone.received == received


def test_another_program_of_the_same_name_is_another_measurement(tmp_path: Path) -> None:
    def facts(text: str) -> str:
        program = write_program(tmp_path / "benchmark_model", text)
        identity = DeviceIdentity("phone", "adb", ("aarch64",), {})
        return as_set(identity, DeviceSettings(runners={"benchmark_model": program})).fingerprint["programs"]

    assert facts(BENCHMARK_MODEL) == facts(BENCHMARK_MODEL) != facts(BENCHMARK_MODEL + "\n")


def test_how_a_program_is_called_and_read_is_part_of_what_a_measurement_is_keyed_by() -> None:
    seen: list[str] = []

    def read(module: str, path: Path) -> ModuleSource:
        seen.append(module)
        return read_module(module, path)

    closure_of("kdedge.devices.adb", read)
    assert {module.__name__ for module in PROGRAMS.values()} < set(seen)


def test_a_program_that_fails_is_a_failed_job_with_its_last_words(phone: Phone, job: Job, tmp_path: Path) -> None:
    program = tmp_path / "onnxruntime_perf_test"
    program.write_text("#!/bin/sh\necho 'Load model failed: unsupported opset 99'\nexit 255\n")
    result = run_job(opened(phone, onnxruntime_perf_test=program), job, tmp_path / "job", 60)
    assert (result.status, result.reason) == ("failed", "onnxruntime_perf_test ended with exit code 255: Load model failed: unsupported opset 99")
    program.write_text("#!/bin/sh\nkill -11 $$\n")
    assert "ended by signal 11" in run_job(opened(phone, onnxruntime_perf_test=program), job, tmp_path / "job", 60).reason
    program.write_text("#!/bin/sh\necho nothing measured\n: >times.csv\n")
    assert "wrote no times" in run_job(opened(phone, onnxruntime_perf_test=program), job, tmp_path / "job", 60).reason
    assert left_behind(phone) == []


def test_a_job_at_its_limit_is_stopped_and_says_so(phone: Phone, job: Job, tmp_path: Path) -> None:
    program = tmp_path / "onnxruntime_perf_test"
    program.write_text("#!/bin/sh\necho begun; exec sleep 300\n")
    result = run_job(opened(phone, onnxruntime_perf_test=program), job, tmp_path / "job", 2)
    assert (result.status, result.reason) == ("failed", "stopped after 2 s, the limit of this job: begun")
    assert left_behind(phone) == []


def test_a_connection_that_breaks_in_a_launch_is_no_result(phone: Phone, job: Job, tmp_path: Path) -> None:
    program = tmp_path / "onnxruntime_perf_test"
    program.write_text(f"#!/bin/sh\n: >{phone.root}/begun\nhead -c 100000 /dev/zero | tr '\\0' x; sleep 300\n")
    device = opened(phone, onnxruntime_perf_test=program)
    assert device.transport.alive()
    phone.break_when = phone.root / "begun"
    with pytest.raises(Disconnected):
        run_job(device, job, tmp_path / "job", 60)


def test_a_phone_that_another_host_uses_is_not_used(phone: Phone, job: Job, tmp_path: Path) -> None:
    device = opened(phone, onnxruntime_perf_test=write_program(tmp_path / "onnxruntime_perf_test", PERF_TEST))
    other = Lease(device.transport, str(phone.root / "data/kdedge"), "other")
    other.take("run")
    with pytest.raises(DeviceError, match="is taken by"):
        run_job(device, job, tmp_path / "job", 60)
    other.give_back()
    assert run_job(device, job, tmp_path / "job", 60).status == "ok"
    assert holder(device.transport, str(phone.root / "data/kdedge"), "phone") is None


@pytest.mark.parametrize(
    ("programs", "kind", "runtime", "said"),
    [
        (
            {},
            "launch",
            "onnxruntime",
            "a launch job of onnxruntime without Python on the device needs onnxruntime_perf_test: name it under `runners`",
        ),
        (
            {"onnx_test_runner": TEST_RUNNER},
            "launch",
            "onnxruntime",
            "onnx_test_runner can do no launch job of onnxruntime; supply onnxruntime_perf_test",
        ),
        ({"onnxruntime_perf_test": PERF_TEST}, "validate", "onnxruntime", "onnxruntime_perf_test can do no validate job of onnxruntime"),
        ({}, "launch", "openvino", "no native program runs openvino on a device without Python"),
        ({}, "energy", "onnxruntime", "a job of the kind `energy` needs a Python on the device: no native program for onnxruntime does it"),
    ],
)
def test_what_no_program_does_is_not_run(
    programs: dict[str, str], kind: str, runtime: str, said: str, phone: Phone, job: Job, tmp_path: Path
) -> None:
    device = opened(phone, **{name: write_program(tmp_path / name, text, differs=False) for name, text in programs.items()})
    result = run_job(device, replace(job, kind=kind, runtime=runtime), tmp_path / "job", 60)
    assert result.status == "not-run"
    assert said in result.reason


def test_a_sustained_launch_is_not_run(phone: Phone, job: Job, tmp_path: Path) -> None:
    device = opened(phone, onnxruntime_perf_test=write_program(tmp_path / "onnxruntime_perf_test", PERF_TEST))
    result = run_job(device, replace(job, sustained=SustainedRule()), tmp_path / "job", 60)
    assert (result.status, result.reason) == (
        "not-run",
        "a sustained launch needs a Python on the device: no native program for onnxruntime does it",
    )


def test_a_program_that_is_not_where_it_is_said_to_be_is_not_run(phone: Phone, job: Job, tmp_path: Path) -> None:
    result = run_job(opened(phone, onnxruntime_perf_test=tmp_path / "none"), job, tmp_path / "job", 60)
    assert (result.status, result.reason) == ("not-run", f"the native program onnxruntime_perf_test is not at {tmp_path / 'none'}")


def test_a_misspelt_program_is_a_failed_job(phone: Phone, job: Job, tmp_path: Path) -> None:
    result = run_job(opened(phone, onnxruntime_perftest=tmp_path / "none"), job, tmp_path / "job", 60)
    assert result.status == "failed"
    assert "there is no native program `onnxruntime_perftest`" in result.reason


@pytest.mark.parametrize(("differs", "equal"), [(False, 3), (True, 2)])
def test_onnx_test_runner_says_how_many_batches_agree(differs: bool, equal: int, phone: Phone, job: Job, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    program = write_program(tmp_path / "onnx_test_runner", TEST_RUNNER, differs=differs)
    result = run_job(opened(phone, onnx_test_runner=program), replace(job, kind="validate"), tmp_path / "job", 60)
    assert (result.status, result.facts["compared"]["equal"], result.facts["compared"]["cases"]) == ("not-run", equal, 3)
    assert f"{equal} of 3 batches equal those of ONNX Runtime on this machine within 0.001" in result.reason


def test_litert_validates_every_example_and_a_launch_says_that_it_has_no_percentiles(phone: Phone, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", values)
    model = write_tflite(tmp_path / "m.tflite", [("serving:0", (1, 3), "float32")], [("logits", (1, 2), "float32"), ("sign", (1, 1), "int8")])
    job = Job("validate", "litert", {"main": [str(model)]}, {"threads": 2}, [{"image": str(tmp_path / "x.npy")}], batch=2, launch=RULE)
    # Its folder's name is nobody's to choose either.
    device = opened_in(phone, "data/user's own", {"benchmark_model": write_program(tmp_path / "benchmark_model", BENCHMARK_MODEL)})
    result = run_job(device, job, tmp_path / "job", 60)
    assert (result.status, result.reason, result.examples, result.iterations) == ("ok", "", 5, 3)
    sums = values.sum(1, keepdims=True)
    np.testing.assert_allclose(np.load(tmp_path / "job" / result.outputs[0]["logits"]), np.concatenate([sums, 2 * sums], 1), rtol=1e-6)
    assert np.load(tmp_path / "job" / result.outputs[0]["sign"]).tolist() == (sums > 0).astype(np.int8).tolist()
    assert set(masks(phone)) == {"f0"}  # two threads: the strongest core is one, so that the next cluster comes with it
    launched = run_job(device, replace(job, kind="launch"), tmp_path / "launch", 60)
    assert launched.status == "not-run"
    assert "no percentiles" in launched.reason
    assert "64 runs with an average of 145.5 ms" in launched.reason
    assert (launched.load_ms, launched.first_inference_ms) == (92.318, 235.158)
    assert not (tmp_path / "launch/samples_ns.npy").exists()


def test_executorch_validates_every_example_and_launches(phone: Phone, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", values)
    (tmp_path / "m.pte").write_bytes(b"program")
    job = Job("validate", "executorch", {"main": [str(tmp_path / "m.pte")]}, {}, [{"image": str(tmp_path / "x.npy")}], batch=1, launch=RULE)
    device = opened(phone, executor_runner=write_program(tmp_path / "executor_runner", EXECUTOR_RUNNER, iterations=True))
    result = run_job(device, job, tmp_path / "job", 60)
    assert (result.status, result.reason) == ("ok", "")
    found = np.load(tmp_path / "job" / result.outputs[0]["output_0"])
    np.testing.assert_allclose(found, np.stack([values.sum(1), values.max(1)], 1), rtol=1e-6)
    launched = run_job(device, replace(job, kind="launch"), tmp_path / "launch", 60)
    assert (launched.status, launched.load_ms, launched.first_inference_ms) == ("ok", 7.85, 1.0)
    warmup, samples = np.load(tmp_path / "launch/warmup_ns.npy"), np.load(tmp_path / "launch/samples_ns.npy")
    assert warmup.sum() >= 0.1e9
    assert samples.sum() >= 0.5e9
    assert np.concatenate([warmup, samples])[:4].tolist() == [2_000_000, 3_000_000, 4_000_000, 1_000_000]


def test_an_executor_runner_that_tells_no_iterations_has_no_percentiles(phone: Phone, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((1, 4), np.float32))
    (tmp_path / "m.pte").write_bytes(b"program")
    job = Job("launch", "executorch", {"main": [str(tmp_path / "m.pte")]}, {}, [{"image": str(tmp_path / "x.npy")}], launch=RULE)
    device = opened(phone, executor_runner=write_program(tmp_path / "executor_runner", EXECUTOR_RUNNER, iterations=False))
    result = run_job(device, job, tmp_path / "job", 60)
    assert result.status == "not-run"
    assert "no percentiles" in result.reason
    assert result.facts["summary"]["count"] == 75


def test_on_android_executorch_is_read_from_the_log_of_its_own_process(phone: Phone, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((1, 4), np.float32))
    (tmp_path / "m.pte").write_bytes(b"program")
    # Android's build of the runner writes its log to the system (android.cpp); this one keeps it in a file by its number.
    text = EXECUTOR_RUNNER.replace("file=sys.stderr)", f"file=open('{phone.root}/log-%d' % __import__('os').getpid(), 'a'))")
    phone.program("logcat", f'for word in "$@"; do case $word in --pid=*) cat {phone.root}/log-${{word#--pid=}};; esac; done')
    job = Job("launch", "executorch", {"main": [str(tmp_path / "m.pte")]}, {}, [{"image": str(tmp_path / "x.npy")}], launch=RULE)
    result = run_job(opened(phone, executor_runner=write_program(tmp_path / "executor_runner", text, iterations=True)), job, tmp_path / "job", 60)
    assert (result.status, result.load_ms) == ("ok", 7.85)


@pytest.mark.parametrize(
    ("threads", "mask", "cores"),
    [(1, "80", [7]), (2, "f0", [4, 5, 6, 7]), (4, "f0", [4, 5, 6, 7]), (8, "ff", list(range(8))), (None, "f0", [4, 5, 6, 7])],
)
def test_the_strongest_cores_are_taken_by_whole_clusters(threads: int | None, mask: str, cores: list[int]) -> None:
    assert mask_of({f"cpu{core}": capacity for core, capacity in enumerate(CAPACITIES)}, threads) == (mask, cores)


def test_equal_cores_and_unknown_ones_are_not_pinned() -> None:
    assert mask_of({"cpu0": 1024, "cpu1": 1024}, 1) == ("", [])
    assert mask_of({}, 1) == ("", [])


def test_the_hash_of_a_folder_depends_on_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x").write_text("1")
    first = digest(tmp_path / "a")
    (tmp_path / "a/x").rename(tmp_path / "a/y")
    second = digest(tmp_path / "a")
    (tmp_path / "a/y").write_text("2")
    assert len({first, second, digest(tmp_path / "a")}) == 3
