"""Answers in a table of their own: blocks, the lists of items that were asked, evaluators. Candidates name blocks.

Answers that candidates held until now move there. Nobody wrote down how they were asked, so each run's are an evaluator
of their own, `unrecorded:RUN`: they can be read and exported, and are never taken for an answer of another run.
"""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_MOMENT = sa.DateTime(timezone=True)
_SOME = 500


def upgrade() -> None:
    """Create the tables, and move every candidate's answers."""
    op.create_table(
        "evaluators",
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("settings", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", name="pk_evaluators"),
    )
    questions = op.create_table(
        "questions",
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("key", "items", "contents")),
        sa.PrimaryKeyConstraint("key", name="pk_questions"),
    )
    answers = op.create_table(
        "answers",
        sa.Column("id", _NUMBER, nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("key", "fingerprint", "eval_set", "subject")),
        sa.Column("run", sa.Text()),
        sa.Column("number", _NUMBER),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("questions", "metrics")),
        sa.Column("created", _MOMENT, nullable=False),
        sa.Column("packed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_answers"),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name="fk_answers_run"),
        sa.ForeignKeyConstraint(["questions"], ["questions.key"], name="fk_answers_questions"),
    )
    op.create_index("ix_answers_key", "answers", ["key"], unique=True)
    op.create_index("ix_answers_fingerprint_subject", "answers", ["fingerprint", "subject"])
    op.execute("ALTER TABLE candidates RENAME COLUMN responses TO answers")
    _move(questions, answers)


def _move(questions: sa.Table, answers: sa.Table) -> None:
    text, number = sa.Text(), _NUMBER
    candidates = sa.table(
        "candidates", sa.column("run", text), sa.column("number", number), sa.column("digest", text),
        sa.column("answers", text),
    )  # fmt: skip
    runs = sa.table("runs", sa.column("id", text), sa.column("updated", _MOMENT))
    connection, lists, blocks = op.get_bind(), set[str](), set[str]()
    for run, updated in connection.execute(sa.select(runs.c.id, runs.c.updated).order_by(runs.c.id)).all():
        last = -1
        while True:
            here = (candidates.c.run == run, candidates.c.number > last)
            rows = connection.execute(sa.select(candidates).where(*here).order_by(candidates.c.number).limit(_SOME))
            page = rows.all()
            if not page:
                break
            last = page[-1].number
            for row in page:
                held = json.loads(row.answers)
                if not held:
                    continue
                made = {t: {n: _block(row, n, r) for n, r in sets.items()} for t, sets in held.items()}
                for block in (block for sets in made.values() for block in sets.values()):
                    _insert_new(connection, questions, lists, block.pop("asked"))
                    _insert_new(connection, answers, blocks, block | {"created": updated})
                names = {t: {n: [block["key"]] for n, block in sets.items()} for t, sets in made.items()}
                changed = sa.update(candidates).where(candidates.c.run == run, candidates.c.number == row.number)
                connection.execute(changed.values(answers=json.dumps(names, separators=(",", ":"))))


def _block(candidate: Any, eval_set: str, held: dict[str, Any]) -> dict[str, Any]:
    items, metrics = json.dumps(held["item_ids"], separators=(",", ":")), list(held["values"])
    asked = {"key": _hash(items), "items": items, "contents": "[]"}
    floats = [value for name in metrics for value in held["values"][name]]
    packed = struct.pack(f"<{len(floats)}d", *floats)
    fingerprint = f"unrecorded:{candidate.run}"
    said = json.dumps([fingerprint, eval_set, candidate.digest, asked["key"], metrics])
    return {
        "key": _hash(said, packed), "fingerprint": fingerprint, "eval_set": eval_set, "subject": candidate.digest,
        "run": candidate.run, "number": candidate.number, "questions": asked["key"],
        "metrics": json.dumps(metrics, separators=(",", ":")), "packed": packed, "asked": asked,
    }  # fmt: skip


def _insert_new(connection: Any, table: sa.Table, known: set[str], row: dict[str, Any]) -> None:
    if row["key"] not in known:
        known.add(row["key"])
        connection.execute(sa.insert(table).values(row))


def _hash(text: str, packed: bytes = b"") -> str:
    return hashlib.sha256(text.encode() + packed).hexdigest()[:32]
