"""A worker that dies is a recorded result with a reason, and the rest goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtime_models import write_images, write_interpreter, write_net, write_quantized

from kdedge import progress
from kdedge.devices import open_device
from kdedge.devices.device import Device
from kdedge.devices.jobs import environment, run_job
from kdedge.devices.transport import Completed
from kdedge.errors import DeviceError, DeviceGone, DeviceTaken, DeviceUnresponsive, Disconnected
from kdedge.runtimes.job import Job, LaunchRule, Result

SHORT = LaunchRule(warmup_seconds=0.0, warmup_iterations=2, min_seconds=0.0, min_iterations=5, max_seconds=5.0)


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Device:
    """This machine, with an interpreter that knows the runtime `fake`."""
    return replace(open_device("local"), python=write_interpreter(tmp_path_factory.mktemp("python") / "python"))


@pytest.fixture
def fake(tmp_path: Path) -> Job:
    np.save(tmp_path / "x.npy", np.arange(10, dtype=np.float32).reshape(5, 2))
    (tmp_path / "model").write_text("any")
    return Job("validate", "fake", {"main": [str(tmp_path / "model")]}, {}, [{"image": str(tmp_path / "x.npy")}], batch=2)


def doing(job: Job, what: str) -> Job:
    return replace(job, options={"do": what})


def test_a_job_is_done_in_its_own_folder_with_links_and_relative_paths(device: Device, fake: Job, tmp_path: Path) -> None:
    result = run_job(device, fake, tmp_path / "job", 60)
    assert (result.status, result.reason, result.runtime_version) == ("ok", "", "1.0")
    written = json.loads((tmp_path / "job" / "job.json").read_text())
    assert written["graphs"] == {"main": ["files/graph-0/model"]}
    assert written["buckets"] == [{"image": "files/inputs-0/0.npy"}]
    assert (tmp_path / "job" / "files/inputs-0/0.npy").samefile(tmp_path / "x.npy")
    assert np.load(tmp_path / "job" / result.outputs[0]["doubled"]).tolist() == [[0, 2], [4, 6], [8, 10], [12, 14], [16, 18]]
    assert not (tmp_path / "job" / "crash.txt").exists()


def test_a_finished_job_can_be_run_again_where_it_stands(device: Device, fake: Job, tmp_path: Path) -> None:
    first = run_job(device, fake, tmp_path / "job", 60)
    (tmp_path / "job" / "result.json").write_text("{}")
    again = run_job(device, fake, tmp_path / "job", 60)
    assert again.outputs == first.outputs


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("segfault", r"signal 11 (SIGSEGV) in string_at (__init__.py, line"),
        ("be killed", "killed (signal 9), probably out of memory"),
        ("allocate", "out of memory: Unable to allocate 4.00 GiB"),
        ("raise", "ValueError: the kernel does not like this input"),
        ("leave", "SystemExit: not today"),
        ("exit", "the worker ended with exit code 7 and no result: licence expired"),
        ("lose a row", "output `doubled` has shape [1, 2] for a batch of 2"),
    ],
)
def test_a_death_is_a_failure_that_says_what_happened(what: str, said: str, device: Device, fake: Job, tmp_path: Path) -> None:
    result = run_job(device, doing(fake, what), tmp_path / "job", 60)
    assert (result.status, result.runtime) == ("failed", "fake")
    assert result.reason.startswith(said)
    assert "\n" not in result.reason


def test_a_job_at_its_limit_is_stopped_and_says_the_limit_and_the_last_words(device: Device, fake: Job, tmp_path: Path) -> None:
    result = run_job(device, doing(fake, "hang"), tmp_path / "job", 5)
    assert (result.status, result.reason) == ("failed", "stopped after 5 s, the limit of this job: about to hang")


def test_an_old_result_is_not_taken_for_that_of_a_worker_that_died(device: Device, fake: Job, tmp_path: Path) -> None:
    assert run_job(device, fake, tmp_path / "job", 60).status == "ok"
    assert run_job(device, doing(fake, "exit"), tmp_path / "job", 60).status == "failed"


def test_a_runtime_that_is_not_here_is_not_run_rather_than_failed(tmp_path: Path) -> None:
    write_images(tmp_path / "x.npy", 2)
    net = write_net(tmp_path / "net.onnx")
    options = {"providers": ["CUDAExecutionProvider"]}
    result = run_job(
        open_device("local"), Job("validate", "onnxruntime", {"main": [str(net)]}, options, [{"image": str(tmp_path / "x.npy")}]), tmp_path / "j", 60
    )
    assert result.status == "not-run"
    assert "this build has no CUDAExecutionProvider" in result.reason


@pytest.mark.parametrize(("runtime", "dtype"), [("onnxruntime", "int8"), ("openvino", "int8")])
def test_a_real_quantized_net_is_validated_and_launched(runtime: str, dtype: str, tmp_path: Path) -> None:
    pytest.importorskip(runtime)
    write_images(tmp_path / "x.npy", 5)
    net = write_quantized(tmp_path / "q.onnx", write_net(tmp_path / "f.onnx"))
    options = {"threads": 1, **({"inference_precision": "f32"} if runtime == "openvino" else {})}
    job = Job("validate", runtime, {"main": [str(net)]}, options, [{"image": str(tmp_path / "x.npy")}], batch=2, launch=SHORT)
    valid = run_job(open_device("local"), job, tmp_path / "validate", 60)
    assert (valid.status, valid.reason) == ("ok", "")
    assert valid.facts["executed"][dtype] >= 3
    assert np.load(tmp_path / "validate" / valid.outputs[0]["logits"]).shape == (5, 4)
    launched = run_job(open_device("local"), replace(job, kind="launch"), tmp_path / "launch", 60)
    assert (launched.status, launched.iterations) == ("ok", 5)
    assert launched.load_ms is not None
    assert launched.load_ms > 0
    assert len(np.load(tmp_path / "launch" / "samples_ns.npy")) == 5
    assert launched.evidence["environment"] == {
        "MKL_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "OPENBLAS_NUM_THREADS": "1",
    }


def test_the_worker_finds_thread_counts_silence_and_no_secrets(device: Device, fake: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    monkeypatch.setenv("API_TOKEN", "secret")
    seen = run_job(device, fake, tmp_path / "job", 60).facts["environment"]
    assert seen["OMP_NUM_THREADS"] == device.identity.fingerprint["cores"]
    assert seen["OMP_WAIT_POLICY"] == "PASSIVE"
    assert seen["PYTHONDONTWRITEBYTECODE"] == "1"
    assert seen["CI"] == "true"
    assert "API_TOKEN" not in seen
    assert environment(replace(fake, options={"threads": 1}), device)["OMP_NUM_THREADS"] == "1"


def test_a_file_named_like_a_runtime_in_the_users_folder_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "x.npy", 2)
    net = write_net(tmp_path / "net.onnx")
    (tmp_path / "onnxruntime.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    result = run_job(
        open_device("local"), Job("validate", "onnxruntime", {"main": [str(net)]}, {}, [{"image": str(tmp_path / "x.npy")}]), tmp_path / "j", 60
    )
    assert (result.status, result.reason) == ("ok", "")


def test_a_missing_file_of_the_job_is_an_error_before_anything_runs(fake: Job, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"absent\.onnx cannot be placed"):
        run_job(open_device("local"), replace(fake, graphs={"main": [str(tmp_path / "absent.onnx")]}), tmp_path / "job", 60)


class Recorded:
    """A device that answers with a result that somebody else wrote."""

    def __init__(self, text: str) -> None:
        self._text = text

    def push(self, local: Path, remote: str) -> None:
        pass

    def run(self, argv: list[str], timeout: float, env: Any = None) -> Completed:
        (Path(argv[-1]) / "result.json").write_text(self._text)
        return Completed(0, "", "")


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({"status": "ok", "outputs": [{"y": "../../elsewhere.npy"}], "schema": 1}, "output `y` lies outside the job's folder: ../../elsewhere.npy"),
        ({"status": "ok", "outputs": [{"y": "/etc/passwd"}], "schema": 1}, "output `y` lies outside the job's folder"),
        ({"status": "ok", "schema": 99}, "schema 99; this worker reads schema 1"),
        ({"status": "ok", "schema": 1, "colour": "red"}, "the worker's result cannot be read"),
        ("not json", "the worker's result cannot be read"),
    ],
)
def test_a_foreign_result_is_not_trusted(result: Any, said: str, fake: Job, tmp_path: Path) -> None:
    text = result if isinstance(result, str) else json.dumps(result)
    transport: Any = Recorded(text)
    got = run_job(Device(open_device("local").identity, transport, "python"), fake, tmp_path / "job", 1)
    assert isinstance(got, Result)
    assert got.status == "failed"
    assert said in got.reason


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's parent-death signal")
def test_a_worker_does_not_outlive_a_parent_that_was_killed(device: Device, fake: Job, tmp_path: Path) -> None:
    program = f"""
import sys
from dataclasses import replace
from pathlib import Path
from kdedge.devices import open_device
from kdedge.devices.jobs import run_job
from kdedge.runtimes.job import Job
job = Job("validate", "fake", {fake.graphs!r}, {{"do": "hang"}}, {fake.buckets!r}, batch=2)
run_job(replace(open_device("local"), python={device.python!r}), job, Path({str(tmp_path / "job")!r}), 60)
"""
    parent = subprocess.Popen([sys.executable, "-c", program])
    try:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        worker = _eventually(lambda: children.read_text().split() if (tmp_path / "job" / "crash.txt").exists() else [])
        os.kill(parent.pid, signal.SIGKILL)
        _eventually(lambda: not Path(f"/proc/{worker[0]}/cmdline").exists() or not Path(f"/proc/{worker[0]}/cmdline").read_bytes())
    finally:
        parent.kill()
        parent.wait()


def _eventually(condition: Any) -> Any:
    for _ in range(400):
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen within 20 s")


@pytest.mark.parametrize(
    ("error", "state"), [(Disconnected, "lost"), (DeviceGone, "gone"), (DeviceTaken, "taken"), (DeviceUnresponsive, "does not answer")]
)
def test_a_device_that_is_lost_is_shown_by_the_class_of_its_loss_whatever_does_its_jobs(
    error: type[DeviceError], state: str, device: Device, fake: Job, tmp_path: Path
) -> None:
    """Also one without a Python, whose runner tries nothing again."""

    class Losing:
        def run(self, job: Job, folder: Path, timeout: float, name: str) -> Result:
            raise error("unplugged")

        def close(self) -> None: ...

    table = progress.DeviceTable(["phone"], 2)
    with progress.on_device(table, "phone"):
        with pytest.raises(error):
            run_job(replace(device, runner=Losing()), fake, tmp_path / "job", 60)
        progress.cell_done(lost=True)
        assert (table.row("phone").state, table.row("phone").done) == (state, 1)
        assert run_job(device, fake, tmp_path / "job", 60).status == "ok"
        assert table.row("phone").state == "working"
