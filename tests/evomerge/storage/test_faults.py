"""What the SQLite store does when its writer dies, the disk is full, or the database is away."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, event

from evomerge.candidate import CandidateState
from evomerge.errors import InvalidInputError, StoreError
from evomerge.storage import engine
from evomerge.storage.blocks import AnswerBlock, together
from evomerge.storage.sql import SqlStore, open_store
from evomerge.storage.store import CandidateQuery, CandidateRow, Commit, Event, Lease

WRITER = """
import os, signal, sys
from sqlalchemy import event
from evomerge.storage.sql import SqlStore
from tests.evomerge.storage.test_faults import step

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def write(url, fatal):
    "Commit for ever; `fatal`: the statement of the third commit at which to die, -1 its COMMIT, None never."
    store = SqlStore(url)
    lease = store.acquire("writer", 30)
    statements = iter(range(10**9))
    for n in range(10**9):
        if n == 2 and fatal == -1:
            event.listen(store._engine, "commit", die)
        elif n == 2 and fatal is not None:
            event.listen(store._engine, "before_cursor_execute", lambda *_: next(statements) == fatal and die())
        store.commit(lease, step(n))
        os.write(1, b"%d " % n)
"""
KILLED_INSIDE = (
    WRITER
    + """
for url, fatal in zip(sys.argv[1::2], map(int, sys.argv[2::2])):
    child = os.fork()
    if child == 0:
        write(url, fatal)
    os.write(1, b"died %d " % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
)
OPENED_TOGETHER = """
import os, sys
from evomerge.storage.sql import open_store

wait, go = os.pipe()
children = []
for _ in range(6):
    children.append(os.fork())
    if children[-1] == 0:
        os.close(go)
        os.read(wait, 1)  # ends when the parent closes the other side: all at once
        store = open_store(sys.argv[1])
        store.create_run({}, "a")
        store.close()
        os._exit(0)
os.close(go)
print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
"""


def step(n: int) -> Commit:
    """The commit of candidate `n`; every part of it says so."""
    said = AnswerBlock("f", "math", f"m{n}", ("x", f"y{n}"), (), {"accuracy": (1.0, n / 7)})
    row = CandidateRow(n, "search", "", CandidateState.SCORED, 0, (0.5,), "d", {}, {"a": {"mean": n, "se": 0, "n": 1}})
    row = replace(row, answers={"subset": {"math": [said.key]}}, responses={"subset": {"math": together([said])}})
    return Commit(
        answers=(said,),
        events=(Event("scored", {"n": n}), Event("front", {"n": n})),
        candidates=(row,),
        summary={"scored": n + 1},
        optimizer=n.to_bytes(4, "big") + bytes(300_000),  # large: the process is often killed inside the write
    )


def assert_whole(store: SqlStore, run_id: str) -> int:
    """All parts of the store tell of the same commits; how many."""
    run = store.run(run_id)
    assert run is not None
    events = store.events(run_id, limit=10**6)
    num = run.summary["scored"]
    assert [e.seq for e in events] == list(range(1, 2 * num + 1))
    assert [e.data["n"] for e in events] == [n for n in range(num) for _ in range(2)]
    assert run.last_seq == 2 * num
    state = store.optimizer_state(run_id)
    assert state is not None
    assert int.from_bytes(state[:4], "big") == num - 1
    assert [block.values["accuracy"][1] for block in store.answers("f")] == [n / 7 for n in range(num)]
    for sort in ("number", "score:a"):
        rows, _ = store.candidates(run_id, CandidateQuery(limit=10**6, sort=sort))
        assert [row.number for row in rows] == list(range(num))
        assert [row.responses["subset"]["math"]["item_ids"][1] for row in rows] == [f"y{n}" for n in range(num)]
    return int(num)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.sqlite3"


@pytest.fixture
def store(url: str) -> Iterator[SqlStore]:
    store = SqlStore(url)
    yield store
    store.close()


@pytest.fixture
def lease(store: SqlStore) -> Lease:
    store.create_run({}, "a")
    lease = store.acquire("a", 30)
    assert lease is not None
    return lease


def test_a_writer_killed_inside_a_commit_leaves_nothing_of_it(tmp_path: Path) -> None:
    stores = {at: SqlStore(f"sqlite:///{tmp_path}/{at}.sqlite3") for at in (-1, 0, 1, 2, 3, 4, 5, 7)}
    runs = {at: store.create_run({}, "a")[0].id for at, store in stores.items()}
    arguments = [text for at in stores for text in (f"sqlite:///{tmp_path}/{at}.sqlite3", str(at))]
    ended = subprocess.run([sys.executable, "-c", KILLED_INSIDE, *arguments], capture_output=True, text=True)

    assert ended.stdout.split() == ["0", "1", "died", str(-signal.SIGKILL)] * len(stores), ended.stderr
    for at, store in stores.items():
        assert assert_whole(store, runs[at]) == 2
        assert store.command(runs[at], "stop") == 1  # nobody holds the write lock
        store.close()


def test_a_writer_killed_at_any_moment_loses_at_most_the_commit_at_hand(store: SqlStore, url: str) -> None:
    run, _ = store.create_run({}, "a")
    code = WRITER + "write(sys.argv[1], None)"
    with subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        told = writer.stdout.read(20)
        writer.kill()
        told += writer.stdout.read()
    committed = assert_whole(store, run.id)

    assert committed - told.count(b" ") in (0, 1)


def test_a_full_disk_is_an_error_and_the_store_works_after(store: SqlStore, lease: Lease) -> None:
    pages = [500]

    @event.listens_for(store._engine, "begin")
    def _limit(connection: Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages[0]}")

    store.commit(lease, step(0))
    with pytest.raises(StoreError, match="full"):
        store.commit(lease, replace(step(1), optimizer=bytes(10_000_000)))
    whole = assert_whole(store, lease.run)
    pages[0] = 1_000_000
    for n in range(1, 4):
        store.commit(lease, step(n))

    assert whole == 1
    assert assert_whole(store, lease.run) == 4


def test_a_disk_that_is_full_of_answers_keeps_all_or_none_of_an_import(store: SqlStore) -> None:
    @event.listens_for(store._engine, "begin")
    def _limit(connection: Connection) -> None:
        connection.exec_driver_sql("PRAGMA max_page_count=300")

    values = {"log_likelihood": tuple(n / 7 for n in range(1000))}
    items = tuple(map(str, range(1000)))
    blocks = [AnswerBlock("f", "math", f"m{n}", items, (), values) for n in range(200)]
    store.add_answers(blocks[:2])
    with pytest.raises(StoreError, match="full"):
        store.add_answers(blocks)

    assert store.subjects("f") == ["m0", "m1"]
    assert store.add_answers(blocks[2:4]) == 2


def test_two_controllers_say_the_same_at_the_same_time(url: str) -> None:
    stores = [SqlStore(url) for _ in range(2)]
    leases = []
    for one in stores:
        one.create_run({}, "a")
        leases.append(one.acquire("c", 30))
    same = AnswerBlock("f", "math", "m", ("x", "y"), (), {"accuracy": (1.0, 0.0)})
    together_at = threading.Barrier(2)
    failed = []

    def write(store: SqlStore, lease: Lease, n: int) -> None:
        together_at.wait()
        for k in range(20):
            own = AnswerBlock("f", "math", f"m{n}-{k}", ("x", "y"), (), {"accuracy": (1.0, 0.0)})
            try:
                store.commit(lease, Commit(answers=(replace(same, run=lease.run, number=k), own)))
            except StoreError as error:
                failed.append(error)

    threads = [
        threading.Thread(target=write, args=(store, lease, n))
        for n, (store, lease) in enumerate(zip(stores, leases, strict=True))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [store.answers("f") for store in stores]
    for one in stores:
        one.close()

    assert failed == []
    assert found[0] == found[1]
    assert sorted(block.subject for block in found[0]) == sorted(
        ["m", *(f"m{n}-{k}" for n in range(2) for k in range(20))]
    )


def test_a_write_lock_that_another_process_keeps_is_an_error_and_passes(url: str, tmp_path: Path) -> None:
    store = SqlStore(url, busy_timeout_s=0.1)
    store.create_run({}, "a")
    other = sqlite3.connect(tmp_path / "store.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"):
        store.create_run({}, "b")
    readable = len(store.runs()[0])
    other.execute("ROLLBACK")
    other.close()
    store.create_run({}, "b")
    readable_after = len(store.runs()[0])
    store.close()

    assert (readable, readable_after) == (1, 2)


def test_a_folder_that_is_missing_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="gone/store"):
        open_store(f"sqlite:///{tmp_path}/gone/store.sqlite3")


def test_a_file_that_is_no_database_is_an_error_and_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("not a database\n" * 100)

    with pytest.raises(StoreError, match=r"notes\.txt"):
        open_store(f"sqlite:///{file}")
    assert file.read_text() == "not a database\n" * 100


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://x@y/z", "store.sqlite3", ""])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(InvalidInputError, match="store"):
        open_store(url)


def test_a_network_file_system_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    share = tmp_path / "a share"
    share.mkdir()
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nhost:/x {str(share).replace(' ', chr(92) + '040')} nfs4 rw 0 0\n")
    monkeypatch.setattr(engine, "MOUNTS", mounts)

    with pytest.raises(StoreError, match="nfs4"):
        open_store(f"sqlite:///{share}/store.sqlite3")
    open_store(f"sqlite:///{tmp_path}/store.sqlite3").close()


def test_processes_that_open_an_empty_file_together_all_can(url: str) -> None:
    ended = subprocess.run([sys.executable, "-c", OPENED_TOGETHER, url], capture_output=True, text=True)

    assert ended.stdout.strip() == str([0] * 6), ended.stderr
    store = open_store(url)
    assert len(store.runs()[0]) == 6
    store.close()


def test_the_pragmas_that_the_promises_rest_on_are_set(store: SqlStore) -> None:
    with store._engine.connect() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }

    assert found == {"journal_mode": "wal", "synchronous": 1, "foreign_keys": 1, "busy_timeout": 5000}


def test_closing_leaves_one_file(url: str, tmp_path: Path) -> None:
    store = open_store(url)
    store.create_run({}, "a")
    store.close()

    assert [path.name for path in tmp_path.iterdir()] == ["store.sqlite3"]
