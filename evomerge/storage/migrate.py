"""Bring a database to this version's schema, or refuse one that is newer."""

from __future__ import annotations

from pathlib import Path

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from evomerge.errors import StoreError

_SCRIPTS = Path(__file__).parent / "migrations"
_LOCK = 0x65766F6D65726765  # "evomerge": PostgreSQL's advisory lock, so that processes that start together take turns


def upgrade(connection: Connection) -> None:
    """Apply the missing revisions in the caller's transaction: all of them or none.

    The transaction must be a writer's, so that two processes that open an empty database make its tables once.

    Raises:
        StoreError: the database was written by a newer evomerge.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    scripts = ScriptDirectory(str(_SCRIPTS))
    context = MigrationContext.configure(connection)
    current = context.get_current_revision()
    known = [revision.revision for revision in scripts.walk_revisions()]
    if current is not None and current not in known:
        raise StoreError(
            f"the database has schema version {current!r}, which a newer evomerge wrote; this one knows versions up to "
            f"{known[0]!r}: upgrade evomerge, or use another database"
        )
    with Operations.context(context):
        for revision in reversed(list(scripts.iterate_revisions("head", current or "base"))):
            revision.module.upgrade()
            context.stamp(scripts, revision.revision)
