"""The real adb client and a server of its own, so that no test touches a developer's phones or keys."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from adb_daemon import Phone

from kdedge.devices.adb_client import find_adb
from kdedge.errors import MissingExtra


@contextlib.contextmanager
def private_server(folder: Path) -> Iterator[None]:
    """A free port and an empty home for adb's server, which is ended afterwards; skips where there is no adb."""
    try:
        program = find_adb()
    except MissingExtra as error:
        pytest.skip(str(error))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANDROID_ADB_SERVER_PORT", port)
        patch.setenv("HOME", str(folder))
        patch.delenv("ADB_SERVER_SOCKET", raising=False)
        patch.delenv("ANDROID_SERIAL", raising=False)
        try:
            yield
        finally:
            subprocess.run([program, "kill-server"], env={**os.environ}, capture_output=True, timeout=30, check=False)


@contextlib.contextmanager
def running(phone: Phone) -> Iterator[Phone]:
    """The phone's daemon for the time of a test, and not known to the server afterwards."""
    phone.start()
    try:
        yield phone
    finally:
        subprocess.run([find_adb(), "disconnect", f"127.0.0.1:{phone.port}"], capture_output=True, timeout=30, check=False)
        phone.stop()
