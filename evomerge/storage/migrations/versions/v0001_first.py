"""The first schema: runs, optimizers, candidates, scores, events, commands, idempotency keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create all tables."""
    op.create_table(
        "runs",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("created", _MOMENT, nullable=False),
        sa.Column("updated", _MOMENT, nullable=False),
        sa.Column("version", _NUMBER, nullable=False),
        sa.Column("last_seq", _NUMBER, nullable=False),
        sa.Column("lease_owner", sa.Text()),
        sa.Column("lease_epoch", _NUMBER, nullable=False),
        sa.Column("lease_expires", _MOMENT),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
    )
    op.create_index("ix_runs_state_id", "runs", ["state", "id"])
    op.create_table(
        "optimizers",
        _run(),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("run", name="pk_optimizers"),
        _belongs_to_run("optimizers"),
    )
    op.create_table(
        "candidates",
        _run(),
        sa.Column("number", _NUMBER, autoincrement=False, nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("kind", "label", "state")),
        sa.Column("generation", _NUMBER, nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("violation", sa.Double(), nullable=False),
        sa.Column("on_front", sa.Boolean(), nullable=False),
        sa.Column("cached", sa.Boolean(), nullable=False),
        sa.Column("attempts", _NUMBER, nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("worker", "scores", "verified", "seconds")),
        sa.Column("failure", sa.Text()),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("genome", "recipe", "responses")),
        sa.PrimaryKeyConstraint("run", "number", name="pk_candidates"),
        _belongs_to_run("candidates"),
    )
    op.create_table(
        "scores",
        _run(),
        sa.Column("number", _NUMBER, autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("mean", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("run", "number", "name", name="pk_scores"),
        _belongs_to_run("scores"),
    )
    op.create_index("ix_scores_run_name_mean_number", "scores", ["run", "name", "mean", "number"])
    op.create_table(
        "events",
        _run(),
        sa.Column("seq", _NUMBER, autoincrement=False, nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("run", "seq", name="pk_events"),
        _belongs_to_run("events"),
    )
    op.create_table(
        "commands",
        sa.Column("id", _NUMBER, nullable=False),
        _run(),
        sa.Column("verb", sa.Text(), nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.Column("done", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_commands"),
        _belongs_to_run("commands"),
    )
    op.create_index("ix_commands_run_id", "commands", ["run", "id"])
    op.create_table(
        "idempotency_keys",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        _run(),
        sa.Column("at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_idempotency_keys"),
        sa.ForeignKeyConstraint(
            ["run"], ["runs.id"], name="fk_idempotency_keys_run", deferrable=True, initially="DEFERRED"
        ),
    )


def _run() -> sa.Column[str]:
    return sa.Column("run", sa.Text(), nullable=False)


def _belongs_to_run(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["run"], ["runs.id"], name=f"fk_{table}_run")
