"""kill -9 at any moment loses no finished work and changes no byte of what comes out."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import whole_runs
from whole_runs import alive_in, descendants, finish, kind_of, leftovers, locks_open_in, outcome, unmeasured, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes through /proc"),
]

KILLS = 20
SEED = 20
ORPHAN_SECONDS = 5.0
# The lock under which a run lays out its results: no stage, but it writes too.
PUBLISHING = f"runs-{whole_runs.NAME}"


@dataclass(frozen=True)
class Unbroken:
    """A run that nobody disturbed. `begins`: (moment in seconds since its start, lock taken then), in order, first `""` for the start itself."""

    workspace: Path
    result: dict[str, Any]
    files: dict[str, str]
    begins: tuple[tuple[float, str], ...]
    seconds: float

    def length(self, place: int) -> float:
        """How long what begins at this place took, in seconds."""
        ends = [moment for moment, _ in self.begins[1:]] + [self.seconds]
        return ends[place] - self.begins[place][0]


@dataclass(frozen=True)
class Kill:
    """One kill: `after` seconds into what began at `place` of the unbroken run. `inside`: it must be hit while it works, not passed."""

    place: int
    after: float
    inside: bool


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    workspace = tmp_path_factory.mktemp("unbroken") / "workspace"
    started = time.time()
    result = finish(workspace)
    seconds = time.time() - started
    # Each stage begins when the one before has its place, and publishing when the last bundle has.
    ends = sorted(((folder / "result.json").stat().st_mtime - started, folder.name) for folder in workspace.glob("stages/*"))
    names = [name for _, name in ends]
    # How much of the time to the end of the first stage is Python's own start, the folders do not tell: half of it.
    begins = [(0.0, ""), (ends[0][0] / 2, names[0]), *((end, name) for (end, _), name in zip(ends, names[1:], strict=False))]
    page = next(place for place, (_, name) in enumerate(begins) if kind_of(name) == "page.write_report")
    begins.insert(page, (begins[page][0], PUBLISHING))
    return Unbroken(workspace, result, outcome(workspace), tuple(begins), seconds)


@pytest.fixture
def copy(unbroken: Unbroken, tmp_path: Path) -> Path:
    """The unbroken run's workspace, to take stages from."""
    return Path(shutil.copytree(unbroken.workspace, tmp_path / "workspace"))


def test_a_run_killed_twenty_times_ends_with_the_bytes_of_an_unbroken_one(unbroken: Unbroken, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    kills = planned(unbroken)
    assert len(kills) >= KILLS
    for kill in kills:
        assert killed(kill, unbroken, workspace), f"{kill} ({unbroken.begins[kill.place][1]}) was not hit in ten attempts"
    result = finish(workspace)
    assert outcome(workspace) == unbroken.files
    assert unmeasured(result, workspace) == unmeasured(unbroken.result, unbroken.workspace)
    assert leftovers(workspace) == []


@pytest.mark.parametrize(
    ("stage", "module", "library"),
    [
        ("validate.validate", "kdedge.runtimes.worker", "/onnxruntime/"),
        ("launches.profile", "kdedge.runtimes.worker", "/openvino/"),
        ("build.build", "kdedge.runtimes.tensorrt_build", "/tensorrt_rtx"),
    ],
)
def test_what_a_run_started_does_not_outlive_it(stage: str, module: str, library: str, copy: Path, unbroken: Unbroken) -> None:
    if "rtx" in library:
        pytest.importorskip("tensorrt_rtx")
    remove(copy, stage)
    process = whole_runs.start(copy)
    children: list[int] = []

    def at_work() -> bool:
        children[:] = [child for child, command in descendants(process.pid).items() if module in command and library in whole_runs.maps_of(child)]
        return bool(children) or process.poll() is not None

    assert until(at_work, 300)
    assert len(children) == 1, f"{stage} started no process that loaded {library}"
    # It stands still: it would not end on its own.
    os.kill(children[0], signal.SIGSTOP)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    try:
        assert until(lambda: not whole_runs.command_of(children[0]), ORPHAN_SECONDS)
    finally:
        if whole_runs.command_of(children[0]):
            os.kill(children[0], signal.SIGKILL)
    finish(copy)
    assert outcome(copy) == unbroken.files
    assert leftovers(copy) == []


def test_a_run_killed_while_it_waits_leaves_the_run_that_works_alone(copy: Path, unbroken: Unbroken) -> None:
    worker, waiter = one_works_and_one_waits(copy)
    waiter.kill()
    assert waiter.wait() == -signal.SIGKILL
    worker.send_signal(signal.SIGCONT)
    result, said = whole_runs.ended(worker)
    assert "another run is making this" not in said
    assert outcome(copy) == unbroken.files
    assert result["artifacts"] == finish(copy)["artifacts"]
    assert leftovers(copy) == []


def test_a_run_that_waits_for_one_that_is_killed_takes_over(copy: Path, unbroken: Unbroken) -> None:
    worker, waiter = one_works_and_one_waits(copy)
    worker.kill()
    assert worker.wait() == -signal.SIGKILL
    result, said = whole_runs.ended(waiter)
    assert "another run is making this" in said
    assert outcome(copy) == unbroken.files
    assert unmeasured(result, copy) == unmeasured(unbroken.result, unbroken.workspace)
    assert leftovers(copy) == []


# ---- killing ---------------------------------------------------------------------------------------------------------------


def planned(unbroken: Unbroken) -> list[Kill]:
    """At least twenty random moments, in the order of the run: one inside each kind of stage, one inside publishing, the rest anywhere."""
    chance = random.Random(SEED)
    kinds: dict[str, list[int]] = {}
    for place, (_, name) in enumerate(unbroken.begins):
        kinds.setdefault(kind_of(name), []).append(place)
    del kinds[""]
    kills = [Kill(place, chance.uniform(0, unbroken.length(place)), True) for place in map(chance.choice, kinds.values())]
    moments = [chance.uniform(0, unbroken.seconds) for _ in range(max(KILLS - len(kills), KILLS // 3))]
    for moment in moments:
        place = max(place for place, (begin, _) in enumerate(unbroken.begins) if begin <= moment)
        kills.append(Kill(place, moment - unbroken.begins[place][0], False))
    return sorted(kills, key=lambda kill: (kill.place, kill.after))


def killed(kill: Kill, unbroken: Unbroken, workspace: Path) -> bool:
    """Kill a run at this moment. Where it had passed what it should hit, that is made again, and met at an earlier moment."""
    chance = random.Random(f"{SEED} {kill}")
    name = unbroken.begins[kill.place][1]
    after = kill.after
    for _ in range(10):
        remove(workspace, name)  # the kill before may have come late
        started = time.time()
        process = whole_runs.start(workspace)
        at = partial(is_at, name, process, workspace, started if kill.inside else 0.0)
        assert until(lambda: at() or process.poll() is not None, 300), f"a run did not come to {name} within 300 s"  # noqa: B023
        reached = time.monotonic()
        until(lambda: not at(), after)  # noqa: B023
        after = chance.uniform(0, time.monotonic() - reached)
        hit = stopped = whole_runs.stop(process)
        if stopped:
            # It stands still: what is true now is true when it dies.
            hit = at() or not kill.inside
            children = descendants(process.pid)
            os.kill(process.pid, signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            assert until(lambda: not any(map(whole_runs.command_of, children)) and not alive_in(workspace), ORPHAN_SECONDS), (  # noqa: B023
                f"{children} and {alive_in(workspace)} live on"
            )
        assert process.returncode == (-signal.SIGKILL if stopped else 0)
        finished = outcome(workspace)
        assert finished == {name: unbroken.files.get(name) for name in finished}
        if hit:
            return True
    return False


def is_at(name: str, process: subprocess.Popen[str], workspace: Path, since: float) -> bool:
    """Whether a run is in a stage; with `since`, when it was started, whether it has begun to work there."""
    if process.poll() is not None:
        return False
    held = [lock for lock in locks_open_in(process.pid) if matches(name, lock)]
    if not name or not held or not since or name == PUBLISHING:
        return bool(held) or not name
    # A killed attempt may have left a folder: work is a new one, or in training, which goes on in the old one, a new checkpoint.
    sign = "member0/checkpoint.bin" if kind_of(name) == "teacher.obtain" else "checkpoint.bin" if kind_of(name) == "trainer.distill" else "."
    try:
        return (workspace / "partial" / held[0] / sign).stat().st_mtime >= since
    except FileNotFoundError:
        return False


def matches(name: str, other: str) -> bool:
    """Whether two stages are the same: keys of those whose inputs hold times differ from run to run."""
    return name == other or (kind_of(name) in whole_runs.HOLD_TIMES and kind_of(name) == kind_of(other))


def remove(workspace: Path, *stages: str) -> None:
    """Take finished stages, by name or by kind, from a workspace."""
    for folder in workspace.glob("stages/*"):
        if any(stage == kind_of(folder.name) or matches(stage, folder.name) for stage in stages):
            shutil.rmtree(folder)
    if PUBLISHING in stages:
        shutil.rmtree(workspace / "runs" / whole_runs.NAME, ignore_errors=True)


def one_works_and_one_waits(workspace: Path) -> tuple[subprocess.Popen[str], subprocess.Popen[str]]:
    """A run that stands still in the middle of the teacher's training and goes on when it is told to, and one that waits for it."""
    remove(workspace, "teacher.obtain")
    worker = whole_runs.start(workspace, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert until(lambda: list((workspace / "partial").glob("teacher.obtain-*/member0/checkpoint.bin")), 120)
    assert whole_runs.stop(worker)
    held = locks_open_in(worker.pid)
    assert [kind_of(lock) for lock in held] == ["teacher.obtain"]
    waiter = whole_runs.start(workspace, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert until(lambda: locks_open_in(waiter.pid) == held, 120)
    return worker, waiter
