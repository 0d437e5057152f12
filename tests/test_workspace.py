from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kdedge.artifact import ImageEncoder, ImportPath
from kdedge.errors import WorkspaceError
from kdedge.estimate import Estimate
from kdedge.record import from_plain, to_plain
from kdedge.workspace import Workspace

STAGES = "stages_for_tests"


@pytest.fixture(autouse=True)
def _stages_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_a_finished_stage_is_read_from_the_cache_and_equals_the_first(tmp_path: Path) -> None:
    trace = str(tmp_path / "trace")
    first = Workspace(tmp_path / "w").stage(f"{STAGES}:write", "hello", trace)
    workspace = Workspace(tmp_path / "w")
    assert workspace.stage(f"{STAGES}:write", "hello", trace) == first
    assert [event.cached for event in workspace.events] == [True]
    assert lines(Path(trace)) == ["write hello"]
    assert first[0].read_text() == "hello"


def test_a_changed_value_runs_the_stage_and_what_stands_on_it_and_nothing_before(tmp_path: Path) -> None:
    trace = tmp_path / "trace"

    def run(second: str) -> str:
        workspace = Workspace(tmp_path / "w")
        a = workspace.stage(f"{STAGES}:write", "a", str(trace))
        b = workspace.stage(f"{STAGES}:write", second, str(trace))
        joined: Path = workspace.stage(f"{STAGES}:join", (*a, *b), str(trace))["path"]
        return joined.read_text()

    assert run("b") == "a+b"
    assert run("c") == "a+c"
    assert lines(trace) == ["write a", "write b", "join", "write c", "join"]


def test_a_stage_that_failed_leaves_nothing_and_runs_again(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    workspace = Workspace(tmp_path / "w")
    for _ in range(2):
        with pytest.raises(ValueError, match="on purpose"):
            workspace.stage(f"{STAGES}:fails", str(trace))
    assert lines(trace) == ["fails", "fails"]
    assert not list((tmp_path / "w" / "stages").iterdir())
    assert not list((tmp_path / "w" / "partial").iterdir())


def test_a_changed_input_file_is_noticed_and_a_copy_of_it_is_not(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    source = tmp_path / "in.txt"
    copy = tmp_path / "copy.txt"
    source.write_text("one")
    copy.write_text("one")
    for path in (source, copy):
        Workspace(tmp_path / "w").stage(f"{STAGES}:join", (path,), str(trace))
    assert lines(trace) == ["join"]
    source.write_text("two")
    Workspace(tmp_path / "w").stage(f"{STAGES}:join", (source,), str(trace))
    assert lines(trace) == ["join", "join"]


def test_changed_code_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    module = tmp_path / "user_loss_for_workspace_test.py"
    trace = tmp_path / "trace"
    for text in ("x = 1\n", "x = 1\n", "x = 2\n"):
        module.write_text(text)
        Workspace(tmp_path / "w").stage(f"{STAGES}:write", "t", str(trace), reads=[ImportPath("user_loss_for_workspace_test:x")])
    assert len(lines(trace)) == 2


def test_what_another_version_remembered_of_a_source_is_not_believed(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    first = Workspace(tmp_path / "w")
    first.stage(f"{STAGES}:write", "t", str(trace))
    first.save()
    memo = tmp_path / "w" / "memo.json"
    entries = json.loads(memo.read_text())
    sources = {name: entry for name, entry in entries.items() if name.startswith("source ")}
    assert sources
    old = {f"source 0123456789ab:{name.partition(':')[2]}": [stamp, ["0" * 64, [], [], False]] for name, (stamp, _) in sources.items()}
    memo.write_text(json.dumps({name: entry for name, entry in entries.items() if name not in sources} | old))
    second = Workspace(tmp_path / "w")
    second.stage(f"{STAGES}:write", "t", str(trace))
    assert [event.cached for event in second.events] == [True]


def test_a_damaged_stage_is_made_again(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    (path,) = Workspace(tmp_path / "w").stage(f"{STAGES}:write", "hello", str(trace))
    path.write_text("hell")
    (path,) = Workspace(tmp_path / "w").stage(f"{STAGES}:write", "hello", str(trace))
    assert path.read_text() == "hello"
    assert len(lines(trace)) == 2


def test_a_measurement_is_repeated_on_request(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for _ in range(2):
        Workspace(tmp_path / "w").stage(f"{STAGES}:write", "hello", str(trace), again=True)
    assert len(lines(trace)) == 2


def test_two_runs_at_once_make_a_stage_once(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    program = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from kdedge.workspace import Workspace
print(Workspace(Path({str(tmp_path / "w")!r})).stage("{STAGES}:slow", {str(trace)!r}))
"""
    running = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in running] == ["done"] * 3
    assert lines(trace) == ["slow"]


def test_a_full_disk_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="No space left on device"):
        Workspace(tmp_path / "w").stage(f"{STAGES}:full")


def test_a_workspace_can_be_moved(tmp_path: Path) -> None:
    trace = str(tmp_path / "trace")
    Workspace(tmp_path / "here").stage(f"{STAGES}:write", "hello", trace)
    (tmp_path / "here").rename(tmp_path / "there")
    (path,) = Workspace(tmp_path / "there").stage(f"{STAGES}:write", "hello", trace)
    assert path.is_relative_to(tmp_path / "there")
    assert path.read_text() == "hello"
    assert len(lines(Path(trace))) == 1


def test_values_survive_being_written(tmp_path: Path) -> None:
    folder = tmp_path / "stages" / "x"
    value = {
        "encoder": ImageEncoder((32, 32)),
        "estimate": Estimate("kl", float("inf"), None, 1.5, 3, "nats"),
        "paths": (folder / "a", tmp_path / "b", Path("/elsewhere/c")),
        "nested": [1, (2.5, None, "x"), {}],
    }
    assert from_plain(to_plain(value, folder, tmp_path), folder, tmp_path) == value


def test_a_record_cannot_name_foreign_types(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="not one of kdedge's"):
        from_plain({"$": "dataclass", "type": "stages_for_tests:Foreign", "fields": {"value": 1}}, tmp_path, tmp_path)


def test_what_has_no_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="has no key"):
        Workspace(tmp_path / "w").stage(f"{STAGES}:write", object(), "trace")
