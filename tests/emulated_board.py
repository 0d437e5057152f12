"""The emulated arm64 system for tests: built at the first use into the user's own cache, where later runs find it."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

import pytest

from kdedge.devices.emulated_cpus import view_of
from kdedge.devices.sysroot import Sysroot, cache_folder, find_qemu, obtain_sysroot
from kdedge.errors import DeviceError

# Under an emulator, and on a machine that does other things too.
SECONDS = 600
_ABSENT = ("is not installed", "which needs `", "cannot be fetched")


@cache
def _obtained() -> Sysroot | str:
    try:
        return obtain_sysroot(cache_folder())
    except DeviceError as error:
        if any(words in str(error) for words in _ABSENT):
            return str(error)
        raise


def board() -> Sysroot:
    """The system, or a skip that says what is missing."""
    found = _obtained()
    if isinstance(found, str):
        pytest.skip(f"no emulated arm64 here: {found}")
    return found


def interpreter(cpu: str) -> Path:
    """The script that is Python on an emulated CPU."""
    found = board()
    return view_of(found.folder, found.python, cpu, find_qemu()) / "python"


def run_python(cpu: str, *arguments: str) -> str:
    """What a Python program on the emulated CPU prints; it must end well."""
    environment = {"PATH": os.environ.get("PATH", ""), "ORT_DISABLE_TELEMETRY": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([str(interpreter(cpu)), *arguments], capture_output=True, text=True, timeout=SECONDS, env=environment, check=False)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stderr[-2000:]}"
    return done.stdout
