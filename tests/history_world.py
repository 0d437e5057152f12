"""Sessions for tests of the history, and a PostgreSQL of their own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from kdedge.latency.history.records import LaunchRecord, Session

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
FINGERPRINT = {"cpu": "made up", "onnxruntime": "1.32.0"}


def session(name: str, minutes: int = 0, medians: tuple[float, ...] = (1.0, 2.0, 4.0), fingerprint: Mapping[str, str] = FINGERPRINT) -> Session:
    """A profile with a launch a median, each of three samples."""
    launches = tuple(
        LaunchRecord("digits/int8", "ab" * 32, value, 3, pair=number, samples=np.array([1, 2, 3], np.int64) * int(value * 1e6))
        for number, value in enumerate(medians)
    )
    return Session(name, "profile", NOON + timedelta(minutes=minutes), "local", fingerprint, launches)


def postgres_programs() -> Path | None:
    """The folder of PostgreSQL's server programs."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), reverse=True)
    found = shutil.which("pg_ctl")
    return places[0].parent if places else Path(found).resolve().parent if found else None


@contextmanager
def postgres(programs: Path) -> Iterator[str]:
    """A PostgreSQL on loopback in a folder of its own; gives its URL. Its server refuses to run as root and becomes `postgres` then."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if user:
            shutil.chown(folder, "postgres")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        data = folder / "data"
        _run([*user, str(programs / "initdb"), "-D", str(data), "-U", "kdedge", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"])
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        _run([*user, str(programs / "pg_ctl"), "-D", str(data), "-o", options, "-l", str(folder / "log"), "-w", "-t", "60", "start"])
        try:
            yield f"postgresql://kdedge@127.0.0.1:{port}/postgres"
        finally:
            _run([*user, str(programs / "pg_ctl"), "-D", str(data), "-m", "immediate", "-w", "stop"])


def _run(command: list[str]) -> None:
    # Not into pipes: the server would inherit them and keep them open.
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", check=False)
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}"
