"""A fingerprint says what a machine is, in strings, and nothing about whose it is."""

from __future__ import annotations

import getpass
import json
import platform
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kdedge.devices import open_device
from kdedge.devices.fingerprint import fingerprint, identify, identity_from_probe
from kdedge.errors import DeviceError

# Written by hand after the form of a Raspberry Pi 5's and a Jetson's files.
ARM_CPUINFO = """processor\t: 0
Features\t: fp asimd evtstrm aes crc32 asimdhp asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd0b

processor\t: 1
Features\t: fp asimd
CPU implementer\t: 0x41
CPU part\t: 0xd05
"""


def test_this_machine_is_described_in_strings() -> None:
    device = open_device("local")
    facts = device.identity.fingerprint
    assert device.identity.name == device.identity.kind == "local"
    assert device.identity.machines[0] == {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    assert device.python == sys.executable
    assert {"machine", "cores", "os", "kernel", "python", "onnxruntime", "openvino", "torch"} <= set(facts)
    assert all(isinstance(value, str) and value for value in facts.values())
    assert int(facts["cores"]) >= 1
    assert fingerprint() == fingerprint()


def test_a_fingerprint_holds_no_host_and_no_user() -> None:
    values = [word for value in fingerprint().values() for word in value.split()]
    assert socket.gethostname() not in values
    assert getpass.getuser() not in values


def test_an_arm_board_is_known_by_its_cores_and_features(tmp_path: Path) -> None:
    for path, text in {
        "proc/cpuinfo": ARM_CPUINFO,
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano\0",
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.0\nmore\n",
        "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
        "dev/nvhost-gpu": "",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
        "proc/driver/nvidia/gpus/0000:01/information": "Model: \t\t Orin\nIRQ: 1\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    identity = identify("board", "ssh", tmp_path)
    assert identity.machines[1:] == ("cuda",)
    facts = identity.fingerprint
    assert facts["cpu"] == "arm implementer 0x41 part 0xd05 0xd0b"
    assert facts["cpu_features"] == "asimddp asimdhp"
    assert facts["model"] == "NVIDIA Jetson Orin Nano"
    assert facts["l4t"] == "R36 (release), REVISION: 4.0"
    assert facts["os"] == "Ubuntu 22.04.5 LTS"
    assert facts["governor"] == "schedutil"
    assert facts["gpu"] == "Orin"


def test_a_machine_that_shows_nothing_has_fewer_facts_and_no_cuda(tmp_path: Path) -> None:
    identity = identify("bare", "local", tmp_path)
    assert len(identity.machines) == 1
    assert {"cpu", "gpu", "model", "governor"} & set(identity.fingerprint) == set()
    assert {"machine", "cores", "python"} <= set(identity.fingerprint)


def test_describing_a_machine_imports_no_runtime() -> None:
    program = (
        "import sys; from kdedge.devices import open_device; open_device('local'); "
        "print([name for name in ('torch', 'onnxruntime', 'openvino', 'tensorrt', 'tensorrt_rtx') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_device_is_answered_with_those_that_exist() -> None:
    with pytest.raises(DeviceError, match=r"there is no device `jetson` \(there is: .*local.*\)"):
        open_device("jetson")


FACTS = {"schema": 1, "machines": ["aarch64", "cuda"], "fingerprint": {"machine": "aarch64", "cores": "6"}, "numpy": True}


def test_a_board_is_described_by_what_its_worker_prints() -> None:
    identity = identity_from_probe("orin", "ssh", json.dumps(FACTS))
    assert (identity.name, identity.kind, identity.machines) == ("orin", "ssh", ("aarch64", "cuda"))
    assert identity.fingerprint == {"machine": "aarch64", "cores": "6"}


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        ("Welcome to the board!", "does not say what the device is"),
        (json.dumps({**FACTS, "schema": 2}), "schema 2, not 1"),
        (json.dumps({**FACTS, "machines": "aarch64"}), "`machines` is no list of words"),
        (json.dumps({**FACTS, "fingerprint": [1]}), "does not say what the device is"),
        (json.dumps({**FACTS, "numpy": False}), "its Python has no numpy, which the worker needs: install it there"),
        ("[]", "does not say what the device is"),
    ],
)
def test_what_is_no_description_is_refused(printed: str, said: str) -> None:
    with pytest.raises(DeviceError, match=f"device `orin`: .*{said}"):
        identity_from_probe("orin", "ssh", printed)


def test_what_a_device_says_of_itself_does_not_steer_a_terminal() -> None:
    said = {"schema": 1, "machines": ["aarch64"], "fingerprint": {"model": "Pi\x1b[2J\x07 5\n"}, "numpy": True}
    assert identity_from_probe("pi", "ssh", json.dumps(said)).fingerprint["model"] == "Pi [2J  5 "
