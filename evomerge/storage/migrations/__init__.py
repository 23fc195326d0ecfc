"""The schema's history: Alembic revisions in `versions/`, in a line, applied when a store is opened.

To change the schema, change `evomerge.storage.tables` and add a revision file whose `down_revision` is the newest one;
`tests/evomerge/storage/test_migrations.py` fails until both say the same. Released revisions are never edited.
"""
