"""A limit removes whole results, least recently used first, and never one that a run uses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdedge import progress
from kdedge.errors import WorkspaceError
from kdedge.workspace import Workspace

KIND = "evictable_stages.fill"
FILL = "evictable_stages:fill"
CODE = """
from pathlib import Path

def fill(number, size, *, folder):
    path = folder / "answer.bin"
    path.write_bytes(bytes([number]) * size)
    return path

def other(size, *, folder):
    (folder / "big.bin").write_bytes(bytes(size))
    return size
"""
SIZE = 20_000
ONE = 21_000 * 1e-9  # a result with its record is a little larger than SIZE; in gigabytes


@pytest.fixture(autouse=True)
def _stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "evictable_stages.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    monkeypatch.delitem(sys.modules, "evictable_stages", raising=False)


class Heard(progress.Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


def run(root: Path, numbers: list[int], limit: float, size: int = SIZE) -> tuple[Workspace, list[int]]:
    """A run that needs some results, `limit` of which may stay; and which of them it had to make."""
    workspace = Workspace(root)
    calls = [(FILL, number, size) for number in numbers]
    with workspace.limited(KIND, limit * ONE, calls):
        for call in calls:
            workspace.stage(*call, label=str(call[1]))
    return workspace, [int(event.name.split()[-1]) for event in workspace.events if not event.cached]


def there(root: Path) -> set[int]:
    return {path.read_bytes()[0] for path in root.glob("stages/*/answer.bin")}


def age(root: Path, number: int, seconds: float) -> None:
    """Make a result look as if it was used so long ago."""
    for path in root.glob("stages/*/answer.bin"):
        if path.read_bytes()[0] == number:
            used = path.parent.stat().st_mtime - seconds
            os.utime(path.parent, (used, used))


def test_what_was_not_used_for_longest_goes_first_and_as_a_whole(tmp_path: Path) -> None:
    root = tmp_path / "w"
    run(root, [1, 2, 3], 100)[0].save()
    for number, seconds in ((1, 10), (2, 30), (3, 20)):
        age(root, number, seconds)
    heard = Heard()
    with progress.listening(heard):
        run(root, [4], 2)[0].save()
    assert there(root) == {1, 4}
    assert len([line for line in heard.lines if "removed" in line and KIND in line]) == 2
    assert list(root.glob("partial/*")) == []
    assert len(list(root.glob("stages/*"))) == 2


def test_reading_a_result_is_a_use_of_it(tmp_path: Path) -> None:
    root = tmp_path / "w"
    run(root, [1, 2], 100)[0].save()
    age(root, 1, 50)
    age(root, 2, 20)
    run(root, [1], 100)[0].save()
    run(root, [3], 2)[0].save()
    assert there(root) == {1, 3}


def test_what_a_run_needs_stays_although_it_was_used_longest_ago(tmp_path: Path) -> None:
    root = tmp_path / "w"
    run(root, [1, 2, 3], 100)[0].save()
    for number, seconds in ((1, 10), (2, 30), (3, 60)):
        age(root, number, seconds)
    run(root, [9], 100)[0].save()
    # 3 is the oldest, and this run reads it last of all.
    workspace, made = run(root, [1, 3], 2)
    assert made == []
    assert there(root) == {1, 3}
    workspace.save()


def test_what_another_living_run_uses_stays(tmp_path: Path) -> None:
    root = tmp_path / "w"
    first, _ = run(root, [1], 100)
    age(root, 1, 100)
    heard = Heard()
    with progress.listening(heard):
        run(root, [2], 1)[0].save()
    assert there(root) == {1, 2}
    assert any("what is in use takes" in line for line in heard.lines)
    first.save()
    run(root, [2], 1)[0].save()
    assert there(root) == {2}


def test_a_run_that_died_holds_nothing(tmp_path: Path) -> None:
    root = tmp_path / "w"
    program = f"""
import os, sys; sys.path.insert(0, {str(tmp_path / "code")!r})
from pathlib import Path
from kdedge.workspace import Workspace
w = Workspace(Path({str(root)!r}))
with w.limited({KIND!r}, 1.0):
    w.stage({FILL!r}, 1, {SIZE})
    os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 9
    assert there(root) == {1}
    run(root, [2], 1)[0].save()
    assert there(root) == {2}


def test_a_result_larger_than_the_limit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"takes 5\.0.e-05 GB, and all results of evictable_stages.fill together may take 4\.2e-05 GB"):
        run(tmp_path / "w", [1], 2, size=50_000)


def test_other_stages_and_a_stage_outside_of_a_limit_are_left_alone(tmp_path: Path) -> None:
    root = tmp_path / "w"
    workspace = Workspace(root)
    workspace.stage("evictable_stages:other", 50_000)
    workspace.stage(FILL, 1, SIZE)
    workspace.stage(FILL, 2, SIZE)
    assert there(root) == {1, 2}
    run(root, [3], 1)[0].save()
    assert there(root) == {3}
    assert len(list(root.glob("stages/evictable_stages.other-*/big.bin"))) == 1


def test_what_was_removed_is_made_again_with_the_same_bytes(tmp_path: Path) -> None:
    root = tmp_path / "w"
    run(root, [1], 100)[0].save()
    before = {path.parent.name: path.read_bytes() for path in root.glob("stages/*/answer.bin")}
    run(root, [2], 1)[0].save()
    assert there(root) == {2}
    assert run(root, [1], 100)[1] == [1]
    assert before.items() <= {path.parent.name: path.read_bytes() for path in root.glob("stages/*/answer.bin")}.items()


def test_a_removal_that_was_killed_is_finished_by_the_next(tmp_path: Path) -> None:
    root = tmp_path / "w"
    Workspace(root)
    half = root / "partial" / f"{KIND}-0123.evicted"
    half.mkdir()
    (half / "answer.bin").write_bytes(b"x")
    run(root, [1], 100)
    assert not half.exists()


def test_two_runs_at_once_under_one_limit_both_end_well(tmp_path: Path) -> None:
    root = tmp_path / "w"
    program = f"""
import sys; sys.path.insert(0, {str(tmp_path / "code")!r})
from pathlib import Path
from kdedge.workspace import Workspace
for turn in range(12):
    w = Workspace(Path({str(root)!r}))
    calls = [({FILL!r}, int(sys.argv[1]) * 16 + (turn + k) % 4, {SIZE}) for k in range(2)]
    with w.limited({KIND!r}, 4 * {ONE}, calls):
        paths = [w.stage(*call) for call in calls]
    assert [path.read_bytes() for path in paths] == [bytes([call[1]]) * {SIZE} for call in calls]
    w.save()
"""
    running = [subprocess.Popen([sys.executable, "-c", program, str(k)], stderr=subprocess.PIPE, text=True) for k in (1, 2, 2)]
    errors = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], errors
    run(root, [99], 4)[0].save()
    assert len(there(root)) == 4
