"""The emulated arm64 board: what a program is told of its CPU is what the emulator runs, and it computes what this machine computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from emulated_board import board, interpreter, run_python
from graph_families import with_one_image
from small_graphs import calibrated, dialect, images, lowered, residual

from kdedge.devices import emulated
from kdedge.devices.device import Device, DeviceSettings
from kdedge.devices.emulated_cpus import CPUS, cpuinfo, view_of
from kdedge.devices.jobs import run_job
from kdedge.devices.local import open_device as open_local
from kdedge.errors import DeviceError
from kdedge.measured import DeviceIdentity
from kdedge.runtimes.job import Job
from kdedge.targets import TARGETS

Array = npt.NDArray[Any]

# What a program on the CPU was told (AT_HWCAP, AT_HWCAP2), what it reads, and what its Python is.
QUESTION = """
import json, struct, sys, glob
vector = dict(struct.iter_unpack("<QQ", open("/proc/self/auxv", "rb").read()))
register = open("/sys/devices/system/cpu/cpu0/regs/identification/midr_el1").read()
print(json.dumps([vector[16], vector.get(26, 0), open("/proc/cpuinfo").read(), register, sys.path, glob.glob("/etc/os-release")]))
"""
# Bits of AT_HWCAP and AT_HWCAP2 in arch/arm64/include/uapi/asm/hwcap.h of Linux.
DOT_PRODUCTS, HALVES, I8MM, SME = ("asimddp", 0, 20), ("asimdhp", 0, 10), ("i8mm", 1, 13), ("sme", 1, 23)
TELLING = (DOT_PRODUCTS, HALVES, I8MM, SME)
HAS = {"cortex-a53": set(), "cortex-a72": set(), "cortex-a76": {"asimddp", "asimdhp"}, "max": {"asimddp", "asimdhp", "i8mm"}}


def test_cpuinfo_is_what_linux_writes_on_arm64() -> None:
    assert cpuinfo(CPUS["cortex-a72"], 1, ["fp", "asimd"]) == (
        "processor\t: 0\nBogoMIPS\t: 100.00\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
        "CPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n"
    )
    assert cpuinfo(CPUS["cortex-a76"], 4, []).count("CPU part\t: 0xd0b") == 4


def test_registers_are_those_of_the_cores() -> None:
    # r0p4, r0p3 and r4p1: MIDR_EL1 as their Technical Reference Manuals give it.
    assert {name: hex(CPUS[name].register) for name in ("cortex-a53", "cortex-a72", "cortex-a76")} == {
        "cortex-a53": "0x410fd034",
        "cortex-a72": "0x410fd083",
        "cortex-a76": "0x414fd0b1",
    }


@pytest.mark.parametrize("cpu", CPUS)
def test_what_a_program_reads_of_its_cpu_is_what_the_emulator_runs(cpu: str) -> None:
    """ONNX Runtime dies of an illegal instruction where the two differ."""
    *told, text, register, path, release = json.loads(run_python(cpu, "-c", QUESTION))
    features = set(next(line for line in text.splitlines() if line.startswith("Features")).partition(":")[2].split())
    for name, word, bit in TELLING:
        assert (name in features) == bool(told[word] >> bit & 1) == (name in HAS[cpu]), name
    assert {"fp", "asimd"} <= features
    assert len(features) == sum(value.bit_count() for value in told)
    assert text.count("processor\t:") == os.cpu_count()
    assert int(register, 16) == CPUS[cpu].register
    assert all(str(board().folder) in entry for entry in path if entry)
    assert release == ["/etc/os-release"]


def test_the_emulated_python_is_not_told_what_this_one_was(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong numpy')")
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path), "LD_LIBRARY_PATH": str(tmp_path), "LD_PRELOAD": "/nowhere.so"}
    done = subprocess.run([str(interpreter("cortex-a53")), "-c", "import platform; print(platform.machine())"], capture_output=True, env=environment)
    assert done.stdout == b"aarch64\n"


def test_an_unknown_cpu_is_a_sentence() -> None:
    with pytest.raises(DeviceError, match="no emulated CPU `cortex-m7`; there is: cortex-a53, cortex-a72, cortex-a76, max"):
        emulated.open_device("emulated:cortex-m7", DeviceSettings(address="cortex-m7"))


def test_a_system_that_is_not_set_up_names_the_command_and_nothing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "qemu-aarch64").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "qemu-aarch64").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(DeviceError, match="kdedge devices emulate --cpu cortex-a72"):
        emulated.open_device("emulated:cortex-a72", DeviceSettings(address="cortex-a72"))
    assert not (tmp_path / "cache").exists()


def test_an_emulator_that_does_not_know_the_cpu_is_a_sentence_and_leaves_no_view(tmp_path: Path) -> None:
    (tmp_path / "qemu").write_text(
        '#!/bin/sh\ncase $1 in --version) echo "qemu version 2.0" ;; *) echo "unable to find CPU model" >&2; exit 1 ;; esac\n'
    )
    (tmp_path / "qemu").chmod(0o755)
    with pytest.raises(DeviceError, match=r"cannot emulate a cortex-a76 here: unable to find CPU model"):
        view_of(tmp_path / "system", "usr/bin/python3.11", "cortex-a76", str(tmp_path / "qemu"))
    assert list((tmp_path / "system/views").iterdir()) == []


def test_an_emulated_board_is_no_machine_of_any_target_and_holds_no_facts_of_the_host() -> None:
    """A target's latency counts on its machines alone."""
    probed = DeviceIdentity(
        "emulated:max", "emulated", ("aarch64", "cuda"), {"cpu": "arm implementer 0x00 part 0x051", "gpu": "a card", "cores": "2"}
    )
    found = emulated.identity_of(probed, "max", "7.2.22")
    assert found.fingerprint == {"cpu": "max (emulated)", "emulator": "qemu 7.2.22, -cpu max,sme=off", "cores": "2"}
    assert not [name for name, target in TARGETS.items() if set(target.machines) & set(found.machines)]


def test_folders_of_processes_that_were_killed_are_removed_and_others_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    boards = tmp_path / "kdedge/emulated/boards"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for process in (dead.pid, os.getppid()):
        (boards / f"cortex-a53-{process}-x").mkdir(parents=True)
    own = Path(emulated._own_folder("cortex-a53"))
    assert sorted(boards.iterdir()) == sorted([boards / f"cortex-a53-{os.getppid()}-x", own])


# ---- a real board ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def device() -> Device:
    board()
    return emulated.open_device("emulated:cortex-a76", DeviceSettings(address="cortex-a76"))


def done_on(device: Device, job: Job, folder: Path) -> tuple[Array, Counter[tuple[str, str]]]:
    """The logits of all examples, and how many layers of an operator ran in a type."""
    result = run_job(device, job, folder, 300, "validate")
    assert (result.status, result.reason) == ("ok", "")
    layers = json.loads((folder / "executed.json").read_text(encoding="utf-8"))
    return np.load(folder / result.outputs[0]["logits"]), Counter((layer["operator"], layer["dtype"]) for layer in layers)


def job_of(model: Path, runtime: str, options: dict[str, Any]) -> Job:
    np.save(model.parent / "images.npy", images(4, seed=9))
    return Job("validate", runtime, {"main": [str(model)]}, options, [{"image": str(model.parent / "images.npy")}])


def test_the_board_says_what_it_is(device: Device) -> None:
    facts = device.identity.fingerprint
    assert (device.identity.kind, device.identity.machines) == ("emulated", ("emulated-aarch64",))
    assert (facts["machine"], facts["cpu"], facts["cpu_features"]) == ("aarch64", "cortex-a76 (emulated)", "asimddp asimdhp")
    assert facts["onnxruntime"] == board().wheels["onnxruntime"]
    assert not {"kernel", "governor", "gpu"} & set(facts)


@pytest.mark.parametrize(
    ("runtime", "options"), [("onnxruntime", {}), pytest.param("openvino", {"inference_precision": "f32"}, marks=pytest.mark.slow)]
)
def test_a_float_network_answers_there_as_here_within_1e_4(device: Device, tmp_path: Path, runtime: str, options: dict[str, Any]) -> None:
    pytest.importorskip(runtime)
    job = job_of(with_one_image(residual(tmp_path / "float.onnx")), runtime, {"threads": 1, **options})
    there, ran = done_on(device, job, tmp_path / "there")
    here, _ = done_on(open_local("local", DeviceSettings()), job, tmp_path / "here")
    assert np.abs(here).max() > 1
    assert np.abs(there - here).max() < 1e-4
    assert {dtype for (_, dtype) in ran} <= {"fp32", "other"}


def test_an_int8_network_runs_there_in_integers_and_differs_by_one_step_at_most(device: Device, tmp_path: Path) -> None:
    path = with_one_image(residual(tmp_path / "float.onnx"))
    model, _ = lowered(path, dialect("onnxruntime-arm"), calibrated(path))
    job = job_of(model, "onnxruntime", {"threads": 1})
    there, ran = done_on(device, job, tmp_path / "there")
    # x86 has to be told what Arm does anyway.
    told = replace(job, options={**job.options, "qdq_int8_allowed": True})
    here, _ = done_on(open_local("local", DeviceSettings()), told, tmp_path / "here")
    assert ran["QLinearConv", "int8"] == 6
    assert ran["QGemm", "int8"] == 1
    step = (here.max() - here.min()) / 255  # the output itself is float: of what 8 bits could tell apart
    assert np.abs(there - here).max() <= step
    ordered = np.sort(here, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 2 * step
    assert clear.any()
    assert (there.argmax(1) == here.argmax(1))[clear].all()
