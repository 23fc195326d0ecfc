"""Database connections: what SQLite and PostgreSQL each need to hold the store's promises."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from evomerge.errors import InvalidInputError, StoreError

# WAL needs memory shared by all processes that have the database open: one machine, so no network file system.
_NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "glusterfs", "fuse.glusterfs"})
_WAL_ATTEMPTS = 50
MOUNTS = Path("/proc/self/mounts")
"""Where Linux lists its file systems."""


def open_engine(url: str, busy_timeout_s: float) -> Engine:
    """An engine for `sqlite:///FILE` or `postgresql://…`; nothing is connected yet.

    Raises:
        InvalidInputError: another kind of database, a URL that cannot be read, or SQLite without a file.
        StoreError: the SQLite file lies on a network file system.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise InvalidInputError("store", url, "a URL, sqlite:///FILE or postgresql://USER@HOST/DATABASE") from error
    match parsed.get_backend_name():
        case "sqlite":
            return _sqlite(parsed, busy_timeout_s)
        case "postgresql":
            return _postgresql(parsed)
        case other:
            raise InvalidInputError("store", other, "sqlite or postgresql")


def begins_writing(connection: Connection) -> Connection:
    """Mark a connection's next transactions as writers (SQLite takes its write lock at their begin)."""
    return connection.execution_options(evomerge_writer=True)


def _postgresql(url: URL) -> Engine:
    try:
        return create_engine(url.set(drivername="postgresql+psycopg"), pool_pre_ping=True, max_overflow=15)
    except ModuleNotFoundError as error:
        raise StoreError("PostgreSQL needs its driver: pip install 'psycopg[binary]'") from error


def _sqlite(url: URL, busy_timeout_s: float) -> Engine:
    if not url.database or url.database == ":memory:":
        raise InvalidInputError("store", str(url), "sqlite:///FILE: the API and the controller meet in a file")
    refuse_network_file_system(Path(url.database))
    engine = create_engine(url, connect_args={"timeout": busy_timeout_s}, max_overflow=15)
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # the driver must not begin transactions by itself: `_begin_sqlite` does
    mode = _write_ahead_log(connection)
    if mode != "wal":
        raise StoreError(f"SQLite cannot keep a write-ahead log here (journal mode {mode!r}): is the disk local?")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")
    # A page that grows in many commits is copied into the database once: 16 MB, in place of SQLite's 4.
    connection.execute("PRAGMA wal_autocheckpoint=4000")


def _write_ahead_log(connection: sqlite3.Connection) -> str:
    """Switch to WAL. SQLite does not wait for the lock of this one switch, so processes that open a new file at the
    same moment try again."""
    for attempt in range(_WAL_ATTEMPTS):
        try:
            return str(connection.execute("PRAGMA journal_mode=WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or attempt == _WAL_ATTEMPTS - 1:
                raise
            time.sleep(0.02)
    raise AssertionError("the last attempt returns or raises")


def _begin_sqlite(connection: Connection) -> None:
    writer = connection.get_execution_options().get("evomerge_writer", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writer else "BEGIN")


def refuse_network_file_system(database: Path) -> None:
    """Raises StoreError when the file lies on a file system of which Linux says that it is a network's."""
    if not MOUNTS.is_file():
        return
    folder = os.path.realpath(database.parent)
    kinds = {}
    for line in MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines():
        _, point, kind, *_ = line.split(" ")
        kinds[point.replace("\\040", " ")] = kind
    for point in (folder, *map(str, Path(folder).parents)):
        if point in kinds:
            if kinds[point] in _NETWORK_FILE_SYSTEMS:
                raise StoreError(
                    f"{database} lies on a network file system ({kinds[point]}), where SQLite loses data: "
                    "use a local disk, or PostgreSQL"
                )
            return
