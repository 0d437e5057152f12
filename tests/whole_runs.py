"""Whole runs of a small recipe as processes of their own, for tests that kill them or start two at once: starting, watching, comparing."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
NAME = "digits"
# The packaged recipe, cut down to about a dozen seconds, most of them imports. One precision a target, so that no measured time decides
# what ships; a checkpoint after every step, so that any kill lands beside one.
SMALL = (
    "data.limit_train=256",
    "data.limit_test=96",
    "data.calibration=32",
    "teacher.arguments.width=8",
    "teacher.train.epochs=4",
    "teacher.train.checkpoint_seconds=0",
    "student.arguments.width=8",
    "distill.epochs=6",
    "distill.checkpoint_seconds=0",
    "export=[{target: onnxruntime-x86, precision: [int8]}, {target: openvino, precision: [fp16]}, {target: tensorrt, precision: [int8]}]",
    "profile.launches=2",
    "profile.warmup_seconds=0.05",
    "profile.min_seconds=0.1",
    "gate={}",
)
# Stages that time something, and stages whose inputs hold such times: only some of their files repeat.
TIMED, HOLD_TIMES = ("launches.profile", "validate.validate"), ("pack.pack", "page.write_report")


def start(workspace: Path, **streams: Any) -> subprocess.Popen[str]:
    """Begin a run, with its streams as in `subprocess`; nothing of it is shown unless asked for."""
    sets = [word for item in SMALL for word in ("--set", item)]
    recipe = str(ROOT / "examples" / "digits.yaml")
    command = [sys.executable, "-m", "kdedge", "run", recipe, "--workspace", str(workspace), *sets, "--json"]
    where = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **streams}
    # One thread: sums are split by threads, and two runs at once must not wait for each other's.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.Popen(command, text=True, cwd=ROOT, env=environment, **where)


def ended(process: subprocess.Popen[str]) -> tuple[dict[str, Any], str]:
    """Wait for a run started with both streams as pipes; its JSON object and what it said on the way."""
    stdout, stderr = process.communicate()
    assert process.returncode == 0, f"the run ended with {process.returncode}: {stderr}"
    found: dict[str, Any] = json.loads(stdout.splitlines()[-1])
    return found, stderr


def finish(workspace: Path) -> dict[str, Any]:
    """A run to its end; its JSON object."""
    return ended(start(workspace, stdout=subprocess.PIPE, stderr=subprocess.PIPE))[0]


# ---- what came out ---------------------------------------------------------------------------------------------------------


def outcome(workspace: Path) -> dict[str, str]:
    """Every file of every finished stage -> its hash, or "measured" where two runs differ. Folders with times in their keys lose the key."""
    found = {}
    for folder in sorted(workspace.glob("stages/*")):
        kind = kind_of(folder.name)
        name = kind if kind in HOLD_TIMES else folder.name
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                found[f"{name}/{path.relative_to(folder).as_posix()}"] = _hash(kind, path)
    return found


def kind_of(folder: str) -> str:
    """The stage that a folder belongs to: its name without the key."""
    return folder.rpartition("-")[0]


def _hash(kind: str, path: Path) -> str:
    if kind == "pack.pack" and path.name == "manifest.json":
        return hashlib.sha256(json.dumps(_without_times(json.loads(path.read_text())), sort_keys=True).encode()).hexdigest()
    measured = path.name.startswith(("result.json", "warmup-", "launch-", "report.html", "executed.json"))
    if measured and kind in (*TIMED, *HOLD_TIMES):
        return "measured"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _without_times(manifest: dict[str, Any]) -> dict[str, Any]:
    evidence = {name: value for name, value in manifest["evidence"].items() if name not in ("latency", "peak_memory_mb")}
    return {**{name: value for name, value in manifest.items() if name != "digest"}, "evidence": evidence}


def unmeasured(result: dict[str, Any], workspace: Path) -> dict[str, Any]:
    """A run's JSON without times and memory, its paths relative to the workspace."""
    found: dict[str, Any] = json.loads(json.dumps(result).replace(f"{workspace}/", ""))
    for cell in found["artifacts"]:
        for name in ("latency_median", "latency_p90", "peak_memory_mb"):
            cell[name] = cell[name] is not None
        if audit := cell.get("audit"):
            audit["conversion_ms"] = audit["conversion_ms"] is not None
            for row in audit["rows"]:
                row["milliseconds"] = row["milliseconds"] is not None
    return found


def leftovers(workspace: Path) -> list[str]:
    """What a finished run must not leave lying: attempts, and files that are not whole."""
    unfinished = [path for path in workspace.rglob("*") if path.name.startswith(".") or path.name.endswith((".partial", ".new", ".old", ".tmp"))]
    return sorted(path.relative_to(workspace).as_posix() for path in {*unfinished, *workspace.glob("partial/*")})


# ---- processes -------------------------------------------------------------------------------------------------------------


def locks_open_in(process: int) -> set[str]:
    """Names of the workspace's locks that a process holds or waits for, read from its open files."""
    found = set()
    for link in _listed(Path(f"/proc/{process}/fd")):
        try:
            target = link.readlink()
        except OSError:
            continue
        if target.suffix == ".lock" and target.parent.name == "locks":
            found.add(target.stem)
    return found


def stop(process: subprocess.Popen[str]) -> bool:
    """Make a process stand still; False where it has ended."""
    process.send_signal(signal.SIGSTOP)
    while process.poll() is None:
        if all(_state(process.pid, int(thread.name)) == "T" for thread in _listed(Path(f"/proc/{process.pid}/task"))):
            return True
    return False


def descendants(process: int) -> dict[int, str]:
    """Process id -> command line, of everything that a process has started."""
    children: dict[int, list[int]] = {}
    for entry in _listed(Path("/proc")):
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    queue, found = [process], {}
    while queue:
        for child in children.get(queue.pop(), []):
            found[child] = command_of(child)
            queue.append(child)
    return found


def alive_in(workspace: Path) -> dict[int, str]:
    """Processes that work in a workspace: those whose command line names it."""
    commands = {int(entry.name): command_of(int(entry.name)) for entry in _listed(Path("/proc")) if entry.name.isdigit()}
    return {process: command for process, command in commands.items() if f"{workspace}/" in command}


def command_of(process: int) -> str:
    """A living process's command line; empty for one that is dead."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def maps_of(process: int) -> str:
    """The files that a process has mapped, its libraries among them; empty for one that is dead."""
    try:
        return Path(f"/proc/{process}/maps").read_text(errors="replace")
    except OSError:
        return ""


def until(condition: Callable[[], Any], seconds: float) -> bool:
    """Whether a condition became true within `seconds`; looked at some hundred times a second."""
    end = time.monotonic() + seconds
    while not (found := bool(condition())) and time.monotonic() < end:
        time.sleep(0.002)
    return found


def _stat(process: int, thread: int | None = None) -> list[str]:
    path = f"/proc/{process}/stat" if thread is None else f"/proc/{process}/task/{thread}/stat"
    try:
        return Path(path).read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _state(process: int, thread: int) -> str:
    return next(iter(_stat(process, thread)), "T")  # a thread that ended stands still


def _listed(folder: Path) -> Iterator[Path]:
    try:
        yield from list(folder.iterdir())
    except OSError:  # the process has ended
        return
