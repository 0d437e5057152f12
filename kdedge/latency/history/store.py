"""The history in a database: a SQLite file, or PostgreSQL by URL for several runners. A session is written whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from kdedge.errors import MissingExtra, WorkspaceError
from kdedge.latency.history import migrations, tables
from kdedge.latency.history.records import Kind, LaunchRecord, Point, SeriesKey, Session
from kdedge.latency.history.samples import pack, unpack

PATIENCE = 60.0
"""Seconds to wait for another writer of a SQLite file."""
NEWEST = "0001"
_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}


class History:
    """An opened history.

    Raises, all methods:
        WorkspaceError: the database cannot be reached, read or written.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def add(self, session: Session) -> None:
        """Write a session with its launches and samples, in one transaction. One that is there already, by its id, is left as it is: a runner that
        did not hear the answer may write again."""
        with self._transaction() as connection:
            if connection.execute(sa.select(tables.sessions.c.id).where(tables.sessions.c.id == session.id)).first() is not None:
                return
            connection.execute(sa.insert(tables.sessions).values(**_session_row(session)))
            for launch in session.launches:
                wanted = sa.insert(tables.launches).values(session=session.id, **_launch_row(launch)).returning(tables.launches.c.id)
                number = connection.execute(wanted).scalar_one()
                if launch.samples is not None:
                    packed = pack(np.asarray(launch.samples, np.int64))
                    connection.execute(sa.insert(tables.samples).values(launch=number, packed=packed))

    def sessions(self, *, kind: Kind | None = None, device: str = "", limit: int | None = None) -> tuple[Session, ...]:
        """The newest sessions, newest first, without their samples."""
        asked = sa.select(tables.sessions).order_by(tables.sessions.c.started.desc(), tables.sessions.c.id)
        if kind is not None:
            asked = asked.where(tables.sessions.c.kind == kind)
        if device:
            asked = asked.where(tables.sessions.c.device == device)
        with self._transaction() as connection:
            rows = connection.execute(asked.limit(limit)).mappings().all()
            launches = _launches_of(connection, [row["id"] for row in rows])
        return tuple(_session(row, launches.get(row["id"], ())) for row in rows)

    def series_keys(self) -> tuple[SeriesKey, ...]:
        """What there is a series of, sorted."""
        joined = tables.launches.join(tables.sessions)
        asked = sa.select(tables.launches.c.line, tables.sessions.c.device, tables.sessions.c.environment).select_from(joined).distinct()
        with self._transaction() as connection:
            return tuple(sorted((SeriesKey(*row) for row in connection.execute(asked)), key=lambda key: (key.line, key.device, key.environment)))

    def series(self, key: SeriesKey, *, arm: str | None = None) -> tuple[Point, ...]:
        """One point a session and artifact, oldest first. A session without a valid launch has none. `arm`: of checks, that arm alone."""
        of, by = tables.launches.c, tables.sessions.c
        asked = (
            sa.select(by.id, by.started, by.verdict, of.sha256, of.median_ms)
            .select_from(tables.launches.join(tables.sessions))
            .where(of.line == key.line, by.device == key.device, by.environment == key.environment, of.invalid == "")
            .order_by(by.started, by.id, of.sha256)
        )
        if arm is not None:
            asked = asked.where(of.arm == arm)
        groups: dict[tuple[str, datetime, str, str], list[float]] = {}
        with self._transaction() as connection:
            for found, started, verdict, sha256, milliseconds in connection.execute(asked):
                groups.setdefault((found, _utc(started), verdict, sha256), []).append(milliseconds)
        return tuple(
            Point(found, started, sha256, median(values), len(values), verdict) for (found, started, verdict, sha256), values in groups.items()
        )

    def samples(self, session: str) -> tuple[npt.NDArray[np.int64] | None, ...]:
        """Of each launch of a session, in the order in which they were written: int64 ns, None where none were kept."""
        joined = tables.launches.outerjoin(tables.samples, tables.samples.c.launch == tables.launches.c.id)
        asked = sa.select(tables.samples.c.packed).select_from(joined).where(tables.launches.c.session == session).order_by(tables.launches.c.id)
        with self._transaction() as connection:
            return tuple(None if packed is None else unpack(packed) for (packed,) in connection.execute(asked))

    def close(self) -> None:
        """Let go of the connections."""
        self._engine.dispose()

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise WorkspaceError(f"the history {shown(self._engine.url)}: {_first_line(error)}") from error


def open_history(url: str) -> History:
    """Open a history, make it where there is none, and bring its tables up to date. `url`: a SQLAlchemy URL, or the path of a SQLite file.

    Raises:
        WorkspaceError: it cannot be reached, is no history, or was written by a newer kdedge.
        MissingExtra: the driver of the database is not installed.
    """
    full = url_of(url)
    try:
        if full.get_backend_name() == "sqlite" and full.database:
            Path(full.database).parent.mkdir(parents=True, exist_ok=True)
        engine = _locking(sa.create_engine(full, connect_args={"timeout": PATIENCE})) if full.get_backend_name() == "sqlite" else _shared(full)
        with engine.begin() as connection:
            _bring_up_to_date(connection, full)
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "psycopg", "postgres", f"the history {shown(full)}") from error
    except OSError as error:
        raise WorkspaceError(f"the history {shown(full)} cannot be made: {error.strerror or error}") from error
    except SQLAlchemyError as error:
        raise WorkspaceError(f"the history {shown(full)} cannot be opened: {_first_line(error)}") from error
    return History(engine)


def url_of(text: str) -> sa.URL:
    """A database URL; text without `://` is the path of a SQLite file.

    Raises:
        WorkspaceError: the text is no URL, or names a database that kdedge has no driver for.
    """
    if "://" not in text:
        return sa.URL.create("sqlite", database=str(Path(text).expanduser()))
    try:
        url = sa.make_url(text)
    except (SQLAlchemyError, ValueError) as error:
        raise WorkspaceError(f"`{hidden(text)}` is no database URL (allowed: a path, sqlite:///FILE, postgresql://USER@HOST/NAME)") from error
    kind = url.drivername.partition("+")[0]
    if kind not in _DRIVERS:
        raise WorkspaceError(f"the history cannot lie in `{kind}` (allowed: sqlite, postgresql)")
    return url if "+" in url.drivername else url.set(drivername=_DRIVERS[kind])


def shown(url: sa.URL) -> str:
    """A URL as people may see it: without its password."""
    return url.render_as_string(hide_password=True)


def hidden(text: str) -> str:
    """A text that should have been a URL, without what may be a password."""
    return re.sub(r"://([^:/@\s]*):[^@\s]*@", r"://\1:***@", text)


# ---- tables ----------------------------------------------------------------------------------------------------------------


def _bring_up_to_date(connection: sa.Connection, url: sa.URL) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    if connection.dialect.name == "postgresql":  # one of several runners that start at the same moment makes the tables
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(7241065)"))
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, NEWEST)
    except CommandError as error:
        raise WorkspaceError(f"the history {shown(url)} was written by a newer kdedge, or is none: {error}") from error


def _shared(url: sa.URL) -> sa.Engine:
    return sa.create_engine(url, pool_pre_ping=True)


def _locking(engine: sa.Engine) -> sa.Engine:
    """Begin each transaction with the write lock, and wait for it: a transaction that reads first and then wants to write would fail at once where
    another has written in between."""

    def hand_over(connection: Any, _: object) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")

    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    sa.event.listen(engine, "connect", hand_over)
    sa.event.listen(engine, "begin", begin)
    return engine


# ---- rows ------------------------------------------------------------------------------------------------------------------


def _session_row(session: Session) -> dict[str, Any]:
    return {
        "id": session.id,
        "kind": session.kind,
        "started": session.started.astimezone(UTC),
        "device": session.device,
        "environment": session.environment,
        "fingerprint": dict(session.fingerprint),
        "settings": dict(session.settings),
        "verdict": session.verdict,
        "told": dict(session.told),
        "tool_version": session.tool_version,
    }


def _launch_row(launch: LaunchRecord) -> dict[str, Any]:
    names = ("line", "sha256", "arm", "pair", "median_ms", "p90_ms", "iterations", "invalid")
    return {**{name: getattr(launch, name) for name in names}, "evidence": dict(launch.evidence)}


def _launches_of(connection: sa.Connection, sessions: list[str]) -> dict[str, tuple[LaunchRecord, ...]]:
    asked = sa.select(tables.launches).where(tables.launches.c.session.in_(sessions)).order_by(tables.launches.c.id)
    found: dict[str, list[LaunchRecord]] = {}
    for row in connection.execute(asked).mappings():
        values = {name: row[name] for name in row if name not in ("id", "session")}
        found.setdefault(row["session"], []).append(LaunchRecord(**values))
    return {session: tuple(launches) for session, launches in found.items()}


def _session(row: Mapping[Any, Any], launches: tuple[LaunchRecord, ...]) -> Session:
    values = {name: row[name] for name in row if name not in ("environment", "started")}
    return Session(started=_utc(row["started"]), launches=launches, **values)


def _utc(moment: datetime) -> datetime:
    # SQLite keeps no time zone; what was written was UTC.
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _first_line(error: BaseException) -> str:
    text = str(error)
    if "database is locked" in text:
        return f"another process has kept it locked for {PATIENCE:g} s: try again when that has ended; `kdedge check --history none` does without"
    return hidden(next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__))
