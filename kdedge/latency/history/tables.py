"""The tables of the history as the newest migration leaves them."""

from __future__ import annotations

from sqlalchemy import JSON, Column, DateTime, Float, ForeignKey, Index, Integer, LargeBinary, MetaData, String, Table, Text

metadata = MetaData()

sessions = Table(
    "sessions",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("started", DateTime(timezone=True), nullable=False),
    Column("device", String(200), nullable=False),
    Column("environment", String(16), nullable=False),
    Column("fingerprint", JSON, nullable=False),
    Column("settings", JSON, nullable=False),
    Column("verdict", String(16), nullable=False),
    Column("told", JSON, nullable=False),
    Column("tool_version", String(64), nullable=False),
)

launches = Table(
    "launches",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("session", String(64), ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    Column("line", String(400), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("arm", String(8), nullable=False),
    Column("pair", Integer, nullable=False),
    Column("median_ms", Float(53), nullable=False),
    Column("p90_ms", Float(53), nullable=True),
    Column("iterations", Integer, nullable=False),
    Column("invalid", Text, nullable=False),
    Column("evidence", JSON, nullable=False),
    Index("launches_by_session", "session"),
    Index("launches_by_line", "line"),
)

# Beside the launches, so that a list of them reads no samples.
samples = Table(
    "samples",
    metadata,
    Column("launch", Integer, ForeignKey("launches.id", ondelete="CASCADE"), primary_key=True),
    Column("packed", LargeBinary, nullable=False),
)
