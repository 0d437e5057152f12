"""The history keeps what was measured: whole sessions, whoever writes beside, in SQLite and in PostgreSQL alike."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC
from pathlib import Path

import numpy as np
import pytest
from history_world import FINGERPRINT, NOON, postgres, postgres_programs, session

from kdedge.errors import WorkspaceError

sa = pytest.importorskip("sqlalchemy")
pytest.importorskip("alembic")

from kdedge.latency.history import store  # noqa: E402
from kdedge.latency.history.records import SeriesKey, environment_key  # noqa: E402
from kdedge.latency.history.store import History, open_history, url_of  # noqa: E402
from kdedge.latency.history.tables import metadata  # noqa: E402

KEY = SeriesKey("digits/int8", "local", environment_key(FINGERPRINT))
WRITERS, SESSIONS_EACH = 8, 5


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    pytest.importorskip("psycopg")
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL's server (package postgresql) is not installed")
    with postgres(programs) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "deep" / "history.db")
    base: str = request.getfixturevalue("server")
    name = f"t{abs(hash(request.node.name)) % 10**9}"
    with sa.create_engine(url_of(base), isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    return base.rpartition("/")[0] + f"/{name}"


@pytest.fixture
def history(url: str) -> Iterator[History]:
    opened = open_history(url)
    yield opened
    opened.close()


def test_a_session_is_read_back_as_it_was_written(history: History) -> None:
    written = replace(session("a"), verdict="regressed", told={"effect": 0.04}, settings={"margin": 0.03}, tool_version="0.1.0")
    history.add(written)
    (read,) = history.sessions()
    assert replace(read, launches=()) == replace(written, launches=())
    assert [replace(launch, samples=None) for launch in written.launches] == list(read.launches)
    assert read.started.tzinfo is not None
    assert read.started.astimezone(UTC) == NOON
    assert [samples.tolist() for samples in history.samples("a") if samples is not None] == [
        [1000000, 2000000, 3000000],
        [2000000, 4000000, 6000000],
        [4000000, 8000000, 12000000],
    ]


def test_a_session_that_is_written_twice_counts_once(history: History) -> None:
    history.add(session("a"))
    history.add(session("a"))
    assert [len(found.launches) for found in history.sessions()] == [3]


def test_a_session_that_cannot_be_written_whole_leaves_nothing(history: History) -> None:
    good = session("a")
    bad = replace(good, launches=(*good.launches, replace(good.launches[0], median_ms=None)))  # type: ignore[arg-type]
    with pytest.raises(WorkspaceError, match="the history "):
        history.add(bad)
    assert history.sessions() == ()
    assert history.samples("a") == ()


def test_a_series_is_the_medians_over_valid_launches_in_the_order_of_time(history: History) -> None:
    later, earlier = session("later", 60, (3.0, 5.0)), session("earlier", 0, (1.0, 2.0, 9.0))
    spoilt = replace(later.launches[0], median_ms=1000.0, invalid="throttled")
    history.add(replace(later, launches=(*later.launches, spoilt)))
    history.add(earlier)
    history.add(session("elsewhere", 30, (7.0,), {"cpu": "another"}))
    history.add(replace(session("lost", 90), launches=(spoilt,)))
    assert [(point.session, point.value, point.launches) for point in history.series(KEY)] == [("earlier", 2.0, 3), ("later", 4.0, 2)]
    assert {key.environment for key in history.series_keys()} == {environment_key(FINGERPRINT), environment_key({"cpu": "another"})}


def test_the_newest_sessions_come_first(history: History) -> None:
    for number in range(4):
        history.add(session(str(number), number))
    assert [found.id for found in history.sessions(limit=2)] == ["3", "2"]
    assert history.sessions(kind="check") == ()
    assert history.sessions(device="nowhere") == ()


PROGRAM = """
import sys
from history_world import session
from kdedge.latency.history.store import open_history
writer = int(sys.argv[2])
sys.stdin.read(1)
history = open_history(sys.argv[1])
for number in range(int(sys.argv[3])):
    history.add(session(f"{writer}-{number}", number))
"""


def test_eight_processes_that_write_at_the_same_time_lose_nothing(url: str) -> None:
    """They also make the tables at the same time."""
    start = [sys.executable, "-c", PROGRAM, url]
    here = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin", "HOME": str(Path.home())}
    writers = [
        subprocess.Popen([*start, str(number), str(SESSIONS_EACH)], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=here)
        for number in range(WRITERS)
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("g")
        writer.stdin.flush()
    errors = [writer.communicate()[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * WRITERS, errors
    history = open_history(url)
    expected = {f"{writer}-{number}" for writer in range(WRITERS) for number in range(SESSIONS_EACH)}
    assert {found.id for found in history.sessions()} == expected
    assert all(len(found.launches) == 3 for found in history.sessions())
    assert all(samples is not None and len(samples) == 3 for samples in history.samples("7-4"))
    history.close()


def test_the_migrations_make_the_tables_that_the_code_reads(url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    open_history(url).close()
    engine = sa.create_engine(url_of(url))
    with engine.connect() as connection:
        found = MigrationContext.configure(connection, opts={"version_table": "kdedge_history_version", "compare_type": True})
        assert compare_metadata(found, metadata) == []
    engine.dispose()


def test_a_history_of_a_newer_kdedge_is_refused(url: str) -> None:
    open_history(url).close()
    engine = sa.create_engine(url_of(url))
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE kdedge_history_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(WorkspaceError, match="written by a newer kdedge"):
        open_history(url)


def test_what_is_no_database_is_named_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is a letter to my aunt, and no database at all")
    with pytest.raises(WorkspaceError, match=r"the history sqlite:///.*text cannot be opened: .*not a database"):
        open_history(str(tmp_path / "text"))
    with pytest.raises(WorkspaceError, match="cannot be made: File exists"):
        open_history(str(tmp_path / "text" / "below"))
    with pytest.raises(WorkspaceError, match=r"cannot lie in `mysql` \(allowed: sqlite, postgresql\)"):
        open_history("mysql://somebody@host/name")


def test_a_file_that_another_process_holds_says_so_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PATIENCE", 0.2)
    history = open_history(str(tmp_path / "history.sqlite"))
    with contextlib.closing(sqlite3.connect(tmp_path / "history.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        told = r"another process has kept it locked for 0.2 s: try again when that has ended; `kdedge check --history none` does without"
        for ask in (history.sessions, lambda: open_history(str(tmp_path / "history.sqlite"))):
            with pytest.raises(WorkspaceError, match=told):
                ask()
    assert history.sessions() == ()
    history.close()


def test_a_password_is_never_shown() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(WorkspaceError) as error:
        open_history("postgresql://me:secret@127.0.0.1:1/name?connect_timeout=1")
    assert "secret" not in str(error.value)
    with pytest.raises(WorkspaceError) as error:
        open_history("postgresql://me:secret@[half/name")
    assert "secret" not in str(error.value)


def test_samples_of_a_launch_that_kept_none_are_none(history: History) -> None:
    one = session("a", medians=(1.0, 2.0))
    history.add(replace(one, launches=(replace(one.launches[0], samples=None), one.launches[1])))
    first, second = history.samples("a")
    assert first is None
    assert isinstance(second, np.ndarray)
