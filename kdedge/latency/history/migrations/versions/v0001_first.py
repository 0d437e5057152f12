"""Sessions, their launches, and raw samples beside them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the first tables."""
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("started", sa.DateTime(timezone=True), nullable=False),
        sa.Column("device", sa.String(200), nullable=False),
        sa.Column("environment", sa.String(16), nullable=False),
        sa.Column("fingerprint", sa.JSON, nullable=False),
        sa.Column("settings", sa.JSON, nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("told", sa.JSON, nullable=False),
        sa.Column("tool_version", sa.String(64), nullable=False),
    )
    op.create_table(
        "launches",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("session", sa.String(64), sa.ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
        sa.Column("line", sa.String(400), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("arm", sa.String(8), nullable=False),
        sa.Column("pair", sa.Integer, nullable=False),
        sa.Column("median_ms", sa.Float(53), nullable=False),
        sa.Column("p90_ms", sa.Float(53), nullable=True),
        sa.Column("iterations", sa.Integer, nullable=False),
        sa.Column("invalid", sa.Text, nullable=False),
        sa.Column("evidence", sa.JSON, nullable=False),
    )
    op.create_index("launches_by_session", "launches", ["session"])
    op.create_index("launches_by_line", "launches", ["line"])
    op.create_table(
        "samples",
        sa.Column("launch", sa.Integer, sa.ForeignKey("launches.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("packed", sa.LargeBinary, nullable=False),
    )


def downgrade() -> None:
    """Drop them, samples first."""
    for table in ("samples", "launches", "sessions"):
        op.drop_table(table)
