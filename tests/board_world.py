"""A board for tests: this machine through the local transport, with a worker that knows a runtime which misbehaves on request."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from runtime_models import FAKE_RUNTIME

from kdedge.devices.board import BoardRunner
from kdedge.devices.local import LocalTransport
from kdedge.devices.patience import Patience
from kdedge.devices.transport import Completed
from kdedge.devices.worker_archive import write_archive
from kdedge.measured import DeviceIdentity
from kdedge.runtimes.job import Job

RUNTIMES = Path(__file__).parents[1] / "runtimes"
QUICK = Patience(wait=0.01, longest_wait=0.1, outage=20.0, poll=0.02, longest_poll=0.1, start=20.0)
IDENTITY = DeviceIdentity("board", "ssh", ("x86_64",), {"cores": "1"})

# Runtime `counted`: the fake one, which notes each time that it is opened, and takes its time, or waits until a file is there.
COUNTED = """
import os
import time
from .fake import is_available, version
from . import fake


def open_session(paths, options):
    with open(options["count"], "a") as handle:
        handle.write("opened\\n")
    time.sleep(options.get("seconds", 0))
    while not os.path.exists(options.get("until", "/")):
        time.sleep(0.02)
    return fake.open_session(paths, options)
"""


def fake_worker(folder: Path) -> Path:
    """A worker archive with the runtimes `fake` and `counted`."""
    package = (RUNTIMES / "__init__.py").read_text() + '\nADAPTERS.update({"fake": "fake", "counted": "counted"})\n'
    return write_archive(folder, {"__init__.py": package.encode(), "fake.py": FAKE_RUNTIME.read_bytes(), "counted.py": COUNTED.encode()})


def fake_job(folder: Path, **options: object) -> Job:
    """Five rows to double, in batches of two. With `count` (a file) it is noted how often it was begun."""
    np.save(folder / "x.npy", np.arange(10, dtype=np.float32).reshape(5, 2))
    (folder / "model").write_text("any")
    runtime = "counted" if "count" in options else "fake"
    return Job("validate", runtime, {"main": [str(folder / "model")]}, dict(options), [{"image": str(folder / "x.npy")}], batch=2)


DOUBLED = [[0, 2], [4, 6], [8, 10], [12, 14], [16, 18]]


def begun(count: Path) -> int:
    return len(count.read_text().splitlines()) if count.exists() else 0


def runner(root: Path, archive: Path, transport: LocalTransport | None = None, patience: Patience = QUICK) -> BoardRunner:
    return BoardRunner(IDENTITY, transport or LocalTransport(), sys.executable, str(root), archive=archive, patience=patience)


class Watched(LocalTransport):
    """The local transport, watched: `watch(kind, number, when)` is called before and after each call (push, pull, run, spawn) and may raise."""

    def __init__(self, watch: Callable[[str, int, str], None]) -> None:
        self._watch = watch
        self.calls: list[str] = []

    def push(self, local: Path, remote: str) -> int:
        with self._watched("push"):
            return super().push(local, remote)

    def pull(self, remote: str, local: Path) -> None:
        with self._watched("pull"):
            super().pull(remote, local)

    def run(self, argv: Sequence[str], timeout: float, env: Mapping[str, str] | None = None) -> Completed:
        with self._watched("run"):
            return super().run(argv, timeout, env)

    def spawn(self, argv: Sequence[str], log: str, env: Mapping[str, str] | None = None) -> None:
        with self._watched("spawn"):
            super().spawn(argv, log, env)

    @contextmanager
    def _watched(self, kind: str) -> Iterator[None]:
        number = len(self.calls)
        self.calls.append(kind)
        self._watch(kind, number, "before")
        yield
        self._watch(kind, number, "after")
