"""A workspace after a process died in the middle of one of its own steps."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kdedge.workspace import Workspace

TESTS = Path(__file__).parent
# Dies where the method named first would be called on a path whose name ends as the second word says.
PROGRAM = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from kdedge.workspace import Workspace
method, ending = sys.argv[1:]
real = getattr(Path, method)
def deadly(self, *arguments, **named):
    if self.name.endswith(ending):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, *arguments, **named)
setattr(Path, method, deadly)
workspace = Workspace(Path({root!r}))
key = workspace.stage("resumable_stage_for_tests:count", 3)[0].parent.name
workspace.stage("stages_for_tests:write", "hello", {trace!r})
workspace.save()
"""


def killed_at(method: str, ending: str, folder: Path) -> None:
    program = PROGRAM.format(tests=str(TESTS), root=str(folder / "w"), trace=str(folder / "trace"))
    done = subprocess.run([sys.executable, "-c", program, method, ending], cwd=TESTS.parent, check=False)
    assert done.returncode == -signal.SIGKILL


def records(folder: Path) -> dict[str, str]:
    """Every file of every stage, and what it holds."""
    return {path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("method", "ending"),
    [("mkdir", "partial"), ("replace", "result.json.partial"), ("rename", ""), ("replace", "memo.json.partial")],
    ids=["nothing made yet", "half a record", "no place yet", "half a memory"],
)
def test_a_killed_step_is_done_again_and_leaves_nothing(method: str, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TESTS))
    trace = str(tmp_path / "trace")
    killed_at(method, ending, tmp_path)
    for root in ("w", "never killed"):
        for _ in range(2):
            workspace = Workspace(tmp_path / root)
            (path,) = workspace.stage("resumable_stage_for_tests:count", 3)
            workspace.stage("stages_for_tests:write", "hello", trace)
            workspace.save()
        assert path.read_text() == "0\n1\n2\n"
        assert [event.cached for event in workspace.events] == [True, True]
    assert records(tmp_path / "w" / "stages") == records(tmp_path / "never killed" / "stages")
    assert not list((tmp_path / "w" / "partial").iterdir())
    assert {path.name for path in (tmp_path / "w").iterdir()} <= {"stages", "partial", "locks", "runs", "memo.json"}
    for record in (tmp_path / "w" / "stages").glob("*/result.json"):
        assert "result.json" not in json.loads(record.read_text())["files"]
