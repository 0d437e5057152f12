"""One measurement while something goes wrong, and what must be true afterwards. `make bench-faults` runs hundreds, the suite a few.

A run is three launches and a validation on a board, on which something is set for the measurement, with one fault at a random moment: the
connection cut (before or after a command was done there) for a while or for good, the worker or its supervisor killed, the board restarted
(everything of ours there dies), its disk full. Over `ssh` connections are cut for real.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from board_world import DOUBLED, IDENTITY, QUICK, RUNTIMES
from runtime_models import FAKE_RUNTIME

from kdedge.devices.board import BoardRunner
from kdedge.devices.device import Device
from kdedge.devices.faults import Fault, FaultyTransport
from kdedge.devices.jobs import run_job
from kdedge.devices.lease import SECONDS as LEASE_SECONDS
from kdedge.devices.lease import holder
from kdedge.devices.local import LocalTransport
from kdedge.devices.setters import undo_left_over
from kdedge.devices.transport import Completed, Transport
from kdedge.devices.worker_archive import write_archive
from kdedge.errors import DeviceError
from kdedge.runtimes.job import Job, LaunchRule, Result

# What may keep the host from putting back what it set, which the next session does then.
_CONNECTIONS = ("cut", "cut-after", "outage", "connection")
KINDS = ("cut", "cut-after", "outage", "connection", "worker killed", "supervisor killed", "restart", "disk full")
LAUNCHES = 3

# The `settings` of a phone, whose one setting is the file beside it.
SETTINGS = """#!/bin/sh
here=$(dirname "$0")
case "$1" in
get) cat "$here/setting" ;;
put) echo "$4" >"$here/setting"; echo "$4" >>"$here/history" ;;
esac
"""
BEFORE = "3"

# Runtime `slow`: the fake one, which takes its time to open, so that faults find it at work, and says which process it was.
SLOW = """
import os
import time
from .fake import is_available, version
from . import fake


def open_session(paths, options):
    with open(options["count"], "a") as handle:
        handle.write("%d\\n" % os.getpid())
    time.sleep(options["seconds"])
    return fake.open_session(paths, options)
"""


@dataclass(frozen=True)
class Outcome:
    """What came of one run. `wrong`: what must not be, in sentences; empty where all is well. `ended`: ok or the named failure of each job."""

    seed: int
    kind: str
    ended: tuple[str, ...]
    wrong: tuple[str, ...]
    struck: bool


class _WithSettings:
    """A board that has, besides what it is, the program `settings` of a phone in a folder of ours."""

    def __init__(self, inner: Transport, tools: Path) -> None:
        self._inner = inner
        self._tools = tools

    def push(self, local: Path, remote: str) -> int:
        return self._inner.push(local, remote)

    def pull(self, remote: str, local: Path) -> None:
        self._inner.pull(remote, local)

    def run(self, argv: Sequence[str], timeout: float, env: Mapping[str, str] | None = None) -> Completed:
        return self._inner.run([str(self._tools / "settings"), *argv[1:]] if argv[0] == "settings" else argv, timeout, env)

    def spawn(self, argv: Sequence[str], log: str, env: Mapping[str, str] | None = None) -> None:
        self._inner.spawn(argv, log, env)

    def read_text(self, remote: str) -> str:
        return self._inner.read_text(remote)

    def alive(self) -> bool:
        return self._inner.alive()

    def close(self) -> None:
        self._inner.close()


def _settings(folder: Path) -> Path:
    """A folder with the program `settings`, and how its setting stands."""
    tools = folder / "tools"
    tools.mkdir()
    (tools / "settings").write_text(SETTINGS)
    (tools / "settings").chmod(0o755)
    (tools / "setting").write_text(BEFORE + "\n")
    return tools


def slow_worker(folder: Path) -> Path:
    """A worker archive with the runtime `slow`."""
    package = (RUNTIMES / "__init__.py").read_text() + '\nADAPTERS.update({"fake": "fake", "slow": "slow"})\n'
    return write_archive(folder, {"__init__.py": package.encode(), "fake.py": FAKE_RUNTIME.read_bytes(), "slow.py": SLOW.encode()})


def faulty_run(
    seed: int, folder: Path, archive: Path, reach: Callable[[], Transport], cut: Callable[[], Any] | None = None, kinds: tuple[str, ...] = KINDS
) -> Outcome:
    """Run one. `reach` opens a transport; `cut` cuts its connections for real (ssh), where that can be done."""
    draw = random.Random(seed)
    kind = draw.choice([each for each in kinds if cut is not None or each != "connection"])
    root, tools = folder / "board", _settings(folder)
    script = _script(kind, draw)
    transport = FaultyTransport(_WithSettings(reach(), tools), script)
    patience = replace(QUICK, outage=3.0, start=10.0, slack=10.0)
    board = BoardRunner(IDENTITY, transport, sys.executable, str(root), wanted={"stay_awake": True}, archive=archive, patience=patience)
    device = Device(IDENTITY, transport, sys.executable, board)
    with _meanwhile(kind, draw, root, cut) as struck:
        ended, wrong = _measured(device, folder)
    board.close()
    wrong += _left_behind(reach, root, may_run_out=kind == "outage")
    wrong += _left_set(reach, root, tools, may_be_noted=kind in _CONNECTIONS)
    if "ok" in ended and not (tools / "history").exists():
        wrong.append("jobs were done without what was to be set for them")
    return Outcome(seed, kind, tuple(ended), tuple(wrong), bool(transport.struck or struck))


def _script(kind: str, draw: random.Random) -> list[Fault]:
    at = draw.randint(1, 40)
    if kind in ("cut", "cut-after"):
        return [Fault(at, "cut" if kind == "cut" else "cut-after", lasting=draw.randint(1, 3))]
    if kind == "outage":  # longer than anybody waits
        return [Fault(at, "cut", lasting=10_000)]
    if kind == "disk full":
        return [Fault(draw.randint(1, 6), "disk-full", operation=draw.choice(["push", "spawn"]), lasting=draw.randint(1, 4))]
    return []


@contextlib.contextmanager
def _meanwhile(kind: str, draw: random.Random, root: Path, cut: Callable[[], Any] | None) -> Iterator[list[str]]:
    """Strike at a random moment from another thread; the list holds what was struck."""
    struck: list[str] = []
    strikes = {
        "worker killed": lambda: _kill(root, supervisors=False, draw=draw),
        "supervisor killed": lambda: _kill(root, supervisors=True, draw=draw),
        "restart": lambda: _kill(root, supervisors=None, draw=draw),
        "connection": cut or (lambda: 0),
    }
    over = threading.Event()

    def strike() -> None:
        time.sleep(draw.uniform(0.0, 1.5))
        while not over.is_set() and not struck:
            if strikes[kind]():
                struck.append(kind)
            time.sleep(0.01)

    thread = threading.Thread(target=strike)
    if kind in strikes:
        thread.start()
    try:
        yield struck
    finally:
        over.set()
        if kind in strikes:
            thread.join()


def _measured(device: Device, folder: Path) -> tuple[list[str], list[str]]:
    """Three launches and a validation; how each ended, and what is wrong with that."""
    ended, wrong, processes = [], [], []
    for name in (*(f"launch-{number:02d}" for number in range(LAUNCHES)), "validate"):
        count = folder / f"{name}.count"
        work = folder / name
        try:
            result = run_job(device, _job(name, folder, count), work, 20.0, name)
        except DeviceError as error:
            ended.append(f"{type(error).__name__}: {error}")
            if not str(error):
                wrong.append(f"{name}: a failure without a name")
            continue
        ended.append(result.status if result.status == "ok" else f"{result.status}: {result.reason}")
        if result.status == "ok":
            wrong += _wrong_with(result, name, work)
            processes.append(_last_process(count))
        elif not result.reason:
            wrong.append(f"{name}: a failure without a name")
    if len(set(processes)) != len(processes):
        wrong.append(f"one process was counted twice: {processes}")
    return ended, wrong


def _wrong_with(result: Result, name: str, work: Path) -> list[str]:
    if name == "validate":
        found = np.load(work / result.outputs[0]["doubled"], allow_pickle=False).tolist() if result.outputs else None
        return [] if found == DOUBLED else [f"validate: the result is {found}"]
    samples = np.load(work / "samples_ns.npy", allow_pickle=False) if (work / "samples_ns.npy").is_file() else np.empty(0)
    return [] if len(samples) == result.iterations == 5 else [f"{name}: {len(samples)} samples for {result.iterations} iterations"]


def _job(name: str, folder: Path, count: Path) -> Job:
    np.save(folder / "x.npy", np.arange(10, dtype=np.float32).reshape(5, 2))
    (folder / "model").write_text("any")
    rule = LaunchRule(warmup_seconds=0.0, warmup_iterations=1, min_seconds=0.0, min_iterations=5)
    options = {"count": str(count), "seconds": 0.15}
    buckets = [{"image": str(folder / "x.npy")}]
    return Job("validate" if name == "validate" else "launch", "slow", {"main": [str(folder / "model")]}, options, buckets, batch=2, launch=rule)


def _last_process(count: Path) -> int:
    return int(count.read_text().split()[-1])


def _ours(root: Path) -> dict[int, int]:
    """Processes that work for this board, with their parents."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if b"supervise" in words and any(str(root).encode() in word for word in words):
                    found[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    return found


def _kill(root: Path, supervisors: bool | None, draw: random.Random) -> int:
    """Kill a worker (a process whose parent is a supervisor), a supervisor, or everything of ours. Returns how many."""
    ours = _ours(root)
    workers = [process for process, parent in ours.items() if parent in ours]
    targets = [*ours] if supervisors is None else [process for process in ours if process not in workers] if supervisors else workers
    if not targets:
        return 0
    chosen = targets if supervisors is None else [draw.choice(targets)]
    for process in chosen:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return len(chosen)


def _left_behind(reach: Callable[[], Transport], root: Path, may_run_out: bool) -> list[str]:
    """What must not be there any more: a lease that is held, a process. `may_run_out`: a lease of a board that could not be reached any more does so
    by itself."""
    transport, wrong = reach(), []
    try:
        for _ in range(200):  # a job that its host gave up ends by itself, at its limit at the latest
            if not _ours(root):
                break
            time.sleep(0.1)
        else:
            wrong.append("a process of a job is still there")
        held = holder(transport, str(root), IDENTITY.name) if root.exists() else None
        if held is not None and not (may_run_out and held.seconds <= LEASE_SECONDS):
            wrong.append(f"a lease is left behind: {held}")
    finally:
        transport.close()
    return wrong


def _left_set(reach: Callable[[], Transport], root: Path, tools: Path, may_be_noted: bool) -> list[str]:
    """What must not stand otherwise than before. `may_be_noted`: where the connection broke at the end, the next session puts it back."""
    if (tools / "setting").read_text().strip() != BEFORE and may_be_noted:
        transport = _WithSettings(reach(), tools)
        try:
            undo_left_over(transport, str(root))
        finally:
            transport.close()
    standing = (tools / "setting").read_text().strip()
    return [] if standing == BEFORE else [f"a setting is left changed: {standing}"]


def local() -> Transport:
    """A board that is a folder of this machine."""
    return LocalTransport()
