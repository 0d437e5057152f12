"""A phone with a Python of its own: the real adb client, a loopback device daemon, and an arm64 Python under qemu that does the job."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from adb_daemon import Phone
from adb_world import private_server, running
from emulated_board import interpreter
from runtime_models import write_net

from kdedge.devices import adb
from kdedge.devices.board import BoardRunner
from kdedge.devices.device import DeviceSettings
from kdedge.devices.jobs import run_job
from kdedge.devices.local import open_device as open_local
from kdedge.runtimes.job import Job

pytest.importorskip("onnxruntime")


@pytest.fixture(name="python")
def _python() -> Path:
    # Before the phone, whose client gets a home of its own: the emulated system lies in the user's.
    return interpreter("cortex-a72")


@pytest.fixture(name="phone")
def _phone(python: Path, tmp_path: Path) -> Iterator[Phone]:
    (tmp_path / "home").mkdir()
    with private_server(tmp_path / "home"), running(Phone(tmp_path / "phone")) as phone:
        yield phone


@pytest.mark.slow
def test_an_arm64_python_behind_adb_answers_as_this_machine_does(phone: Phone, python: Path, tmp_path: Path) -> None:
    settings = DeviceSettings(address=f"127.0.0.1:{phone.port}", root=str(phone.root / "data/kdedge"), python=str(python))
    device = adb.open_device("adb:phone", settings)
    assert isinstance(device.runner, BoardRunner)
    assert re.match("aarch64", device.identity.machines[0])
    model = write_net(tmp_path / "net.onnx")
    images = np.random.default_rng(0).random((4, 3, 8, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", images)
    job = Job("validate", "onnxruntime", {"main": [str(model)]}, {"threads": 1}, [{"image": str(tmp_path / "x.npy")}])
    there = run_job(device, job, tmp_path / "there", 300)
    here = run_job(open_local("local", DeviceSettings()), job, tmp_path / "here", 60)
    device.runner.close()
    assert (there.status, there.reason, here.status) == ("ok", "", "ok")
    for name, path in here.outputs[0].items():
        answered = np.load(tmp_path / "there" / there.outputs[0][name])
        np.testing.assert_allclose(answered, np.load(tmp_path / "here" / path), atol=1e-4)
