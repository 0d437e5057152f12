"""What alembic runs: the steps over the connection that `kdedge.latency.history.store` hands over."""

from __future__ import annotations

from alembic import context

from kdedge.latency.history.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table="kdedge_history_version",
)
context.run_migrations()
