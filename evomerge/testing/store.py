"""What every store must do. Subclass `StoreContract` and give it a fixture `open_store`.

`open_store(clock)` opens the same, at first empty, database each time it is called within one test.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from evomerge.errors import InvalidInputError, LeaseLostError
from evomerge.storage.store import CandidateQuery, Commit, Event, Lease, RunState, Store
from evomerge.testing.store_answers import AnswerContract
from evomerge.testing.store_candidates import CandidateContract, candidate

UNKNOWN = "run_00000000000000000000000000"


class Clock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_s(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)


OpenStore = Callable[[Clock], Store]


class StoreContract(CandidateContract, AnswerContract):
    """Inherit, and add the fixture `open_store`."""

    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def store(self, open_store: OpenStore, clock: Clock) -> Store:
        return open_store(clock)

    @pytest.fixture
    def lease(self, store: Store) -> Lease:
        store.create_run({"seed": 0}, "search")
        lease = store.acquire("controller", 30)
        assert lease is not None
        return lease

    # Runs

    def test_a_new_run_is_queued_and_reads_back_as_written(self, store: Store, clock: Clock) -> None:
        spec = {"seed": 2**31 - 1, "objectives": [{"name": "算数", "b": None}], "x": 0.1, "nul": "\0", "z": 1, "a": 2}
        run, made = store.create_run(spec, "名前")

        assert made
        assert store.run(run.id) == run
        assert (run.name, run.state, run.reason, run.summary, run.last_seq) == ("名前", "queued", None, {}, 0)
        assert run.spec == spec
        assert list(run.spec) == list(spec)
        assert run.created == run.updated == clock.now
        assert run.created.utcoffset() == timedelta(0)

    @pytest.mark.parametrize("run_id", [UNKNOWN, "", "run_", "x\0", "\ud800", "../../etc/passwd", "run_" + "9" * 26])
    def test_an_unknown_run_has_nothing(self, store: Store, run_id: str) -> None:
        assert store.run(run_id) is None
        assert store.optimizer_state(run_id) is None
        assert store.candidate(run_id, 0) is None
        assert store.candidates(run_id) == ([], None)
        assert store.events(run_id) == []
        assert store.pending_commands(run_id) == []
        assert store.acquire("a", 30, run_id) is None
        with pytest.raises(InvalidInputError):
            store.command(run_id, "pause")

    def test_the_same_idempotency_key_and_request_give_the_same_run(self, store: Store) -> None:
        first, made = store.create_run({"seed": 1}, "a", ("key", "digest"))
        again, made_again = store.create_run({"seed": 1}, "a", ("key", "digest"))

        assert (made, made_again) == (True, False)
        assert again == first
        assert len(store.runs()[0]) == 1

    def test_an_idempotency_key_of_another_request_is_refused(self, store: Store) -> None:
        store.create_run({"seed": 1}, "a", ("key", "digest"))

        with pytest.raises(InvalidInputError, match="idempotency key"):
            store.create_run({"seed": 2}, "a", ("key", "another digest"))
        assert len(store.runs()[0]) == 1

    def test_racing_requests_with_one_key_make_one_run(self, open_store: OpenStore, clock: Clock) -> None:
        stores = [open_store(clock) for _ in range(4)]
        results: list[tuple[str, bool]] = []
        together = threading.Barrier(len(stores))

        def create(store: Store) -> None:
            together.wait()
            run, made = store.create_run({"seed": 1}, "a", ("key", "digest"))
            results.append((run.id, made))

        _in_threads([lambda store=store: create(store) for store in stores])  # type: ignore[misc]

        assert len({run_id for run_id, _ in results}) == 1
        assert sorted(made for _, made in results) == [False, False, False, True]

    def test_runs_are_listed_newest_first_page_by_page(self, store: Store, clock: Clock) -> None:
        made = []
        for n in range(7):
            clock.pass_s(n % 2)  # several within one moment
            made.append(store.create_run({"n": n}, str(n))[0].id)

        pages: list[list[str]] = []
        cursor = None
        while not pages or cursor is not None:
            rows, cursor = store.runs(limit=3, cursor=cursor)
            pages.append([row.id for row in rows])
        assert [len(page) for page in pages] == [3, 3, 1]
        assert [run for page in pages for run in page] == made[::-1]

    def test_a_full_last_page_has_no_next(self, store: Store) -> None:
        store.create_run({}, "a")

        assert store.runs(limit=1)[1] is None

    def test_runs_are_filtered_by_state(self, store: Store, lease: Lease) -> None:
        queued, _ = store.create_run({}, "b")
        store.commit(lease, Commit(state="running"))

        assert [row.id for row in store.runs("running")[0]] == [lease.run]
        assert [row.id for row in store.runs("queued")[0]] == [queued.id]

    @pytest.mark.parametrize(
        "cursor", ["", "x", "A", "$$$", "é", "WyJydW5zIiwxXQ", "WyJydW5zIiwiJyBPUiAxPTEiXQ", "W" * 99]
    )
    def test_a_made_up_cursor_is_refused(self, store: Store, lease: Lease, cursor: str) -> None:
        with pytest.raises(InvalidInputError, match="cursor"):
            store.runs(cursor=cursor)
        for sort in ("number", "-number", "score:a", "-score:a"):
            with pytest.raises(InvalidInputError, match="cursor"):
                store.candidates(lease.run, CandidateQuery(sort=sort, cursor=cursor))

    def test_nonsense_in_a_list_request_is_refused(self, store: Store, lease: Lease) -> None:
        for query in (
            CandidateQuery(sort="genome"),
            CandidateQuery(limit=0),
            CandidateQuery(state="SCORED"),
            CandidateQuery(kind="x"),
        ):
            with pytest.raises(InvalidInputError):
                store.candidates(lease.run, query)
        with pytest.raises(InvalidInputError):
            store.runs(limit=0)
        with pytest.raises(InvalidInputError):
            store.runs(state="SCORED")

    # Commits and events

    def test_a_commit_changes_what_it_names_and_nothing_else(self, store: Store, lease: Lease, clock: Clock) -> None:
        clock.pass_s(5)
        store.commit(lease, Commit(state="running", summary={"scored": 1}, optimizer=b"\0\xff state"))
        before = store.run(lease.run)
        store.commit(lease, Commit(events=(Event("a", {}),)))
        after = store.run(lease.run)

        assert before is not None
        assert after is not None
        assert (after.state, after.summary, after.updated) == ("running", {"scored": 1}, clock.now)
        assert store.optimizer_state(lease.run) == b"\0\xff state"
        assert after.version == before.version + 1
        assert (before.last_seq, after.last_seq) == (0, 1)

    def test_a_reason_lasts_as_long_as_its_state(self, store: Store, lease: Lease) -> None:
        store.commit(lease, Commit(state="paused", reason="too many failures"))
        store.commit(lease, Commit(summary={}))
        kept = store.run(lease.run)
        store.commit(lease, Commit(state="running"))
        gone = store.run(lease.run)

        assert kept is not None
        assert gone is not None
        assert (kept.reason, gone.reason) == ("too many failures", None)

    def test_events_are_numbered_from_one_without_gaps_in_each_run(
        self, store: Store, lease: Lease, clock: Clock
    ) -> None:
        other = store.acquire("controller", 30, store.create_run({}, "other")[0].id)
        assert other is not None
        first = store.commit(lease, Commit(events=(Event("a", {"n": 1}), Event("b", {"n": 2}))))
        store.commit(other, Commit(events=(Event("x", {}),)))
        store.commit(lease, Commit(summary={}))
        second = store.commit(lease, Commit(events=(Event("c", {"n": 3}),)))

        assert [(e.seq, e.type) for e in (*first, *second)] == [(1, "a"), (2, "b"), (3, "c")]
        assert store.events(lease.run) == [*first, *second]
        assert all(e.at == clock.now for e in first)
        assert [e.seq for e in store.events(other.run)] == [1]

    def test_events_are_read_from_a_number_on(self, store: Store, lease: Lease) -> None:
        store.commit(lease, Commit(events=tuple(Event("a", {"n": n}) for n in range(10))))

        assert [e.seq for e in store.events(lease.run, after=4, limit=3)] == [5, 6, 7]
        assert [e.seq for e in store.events(lease.run, after=-5, limit=2)] == [1, 2]
        assert store.events(lease.run, after=10) == []
        assert store.events(lease.run, after=2**70) == []

    def test_a_commit_that_fails_leaves_nothing(self, store: Store, lease: Lease) -> None:
        before = store.run(lease.run)
        bad = candidate(1, {"a": float("nan")})
        change = Commit(events=(Event("a", {}),), candidates=(candidate(0), bad), state="running", optimizer=b"x")

        with pytest.raises(ValueError, match="JSON"):
            store.commit(lease, change)
        assert store.run(lease.run) == before
        assert store.events(lease.run) == []
        assert store.candidates(lease.run) == ([], None)
        assert store.optimizer_state(lease.run) is None
        assert [e.seq for e in store.commit(lease, Commit(events=(Event("a", {}),)))] == [1]

    def test_numbers_have_no_gaps_when_many_threads_commit(self, store: Store, lease: Lease) -> None:
        def write() -> None:
            for n in range(10):
                store.commit(lease, Commit(events=(Event("a", {"n": n}), Event("b", {}))))

        _in_threads([write] * 4)

        assert [e.seq for e in store.events(lease.run)] == list(range(1, 81))

    # Leases

    def test_one_run_has_one_holder(self, store: Store, lease: Lease) -> None:
        assert store.acquire("another", 30) is None
        assert store.acquire("another", 30, lease.run) is None

    def test_the_oldest_run_is_taken_first(self, store: Store) -> None:
        runs = [store.create_run({}, "a")[0].id for _ in range(3)]

        leases = [store.acquire("a", 30) for _ in range(4)]

        assert [lease and lease.run for lease in leases] == [*runs, None]

    def test_a_named_run_is_taken(self, store: Store) -> None:
        runs = [store.create_run({}, "a")[0].id for _ in range(3)]

        lease = store.acquire("a", 30, runs[1])

        assert lease == Lease(runs[1], "a", 1)

    def test_racing_controllers_take_a_run_once(self, open_store: OpenStore, clock: Clock) -> None:
        stores = [open_store(clock) for _ in range(4)]
        stores[0].create_run({}, "a")
        stores[0].create_run({}, "b")
        leases: list[Lease | None] = []
        together = threading.Barrier(len(stores))

        def take(store: Store) -> None:
            together.wait()
            leases.append(store.acquire(str(id(store)), 30))

        _in_threads([lambda store=store: take(store) for store in stores])  # type: ignore[misc]

        taken = [lease.run for lease in leases if lease is not None]
        assert len(taken) == len(set(taken)) == 2

    def test_an_expired_lease_is_taken_and_its_holder_fenced_out(
        self, store: Store, lease: Lease, clock: Clock
    ) -> None:
        clock.pass_s(31)
        newer = store.acquire("another", 30)

        assert newer == Lease(lease.run, "another", lease.epoch + 1)
        with pytest.raises(LeaseLostError, match="another"):
            store.commit(lease, Commit(events=(Event("late", {}),)))
        with pytest.raises(LeaseLostError):
            store.renew(lease, 30)
        store.release(lease)
        assert store.acquire("third", 30) is None
        assert store.events(lease.run) == []

    def test_the_same_owner_is_fenced_out_of_its_own_older_lease(
        self, store: Store, lease: Lease, clock: Clock
    ) -> None:
        clock.pass_s(31)
        newer = store.acquire("controller", 30)

        assert newer is not None
        with pytest.raises(LeaseLostError):
            store.commit(lease, Commit(summary={"by": "old"}))
        store.commit(newer, Commit(summary={"by": "new"}))

    def test_a_renewed_lease_lasts(self, store: Store, lease: Lease, clock: Clock) -> None:
        for _ in range(3):
            clock.pass_s(20)
            store.renew(lease, 30)

        assert store.acquire("another", 30) is None
        store.commit(lease, Commit(events=(Event("a", {}),)))

    def test_an_expired_lease_still_writes_until_another_takes_it(
        self, store: Store, lease: Lease, clock: Clock
    ) -> None:
        clock.pass_s(1000)

        assert [e.seq for e in store.commit(lease, Commit(events=(Event("a", {}),)))] == [1]

    def test_a_released_run_is_free_at_once(self, store: Store, lease: Lease) -> None:
        store.release(lease)

        with pytest.raises(LeaseLostError, match="nobody"):
            store.commit(lease, Commit(summary={}))
        assert store.acquire("another", 30) == Lease(lease.run, "another", lease.epoch + 1)

    @pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
    def test_a_finished_run_is_not_taken(self, store: Store, lease: Lease, state: RunState) -> None:
        store.commit(lease, Commit(state=state))
        store.release(lease)

        assert store.acquire("another", 30) is None
        assert store.acquire("another", 30, lease.run) is None

    @pytest.mark.parametrize("state", ["starting", "running", "stopping", "verifying"])
    def test_an_unfinished_run_is_taken(self, store: Store, lease: Lease, state: RunState) -> None:
        store.commit(lease, Commit(state=state))
        store.release(lease)

        assert store.acquire("another", 30) is not None

    def test_a_paused_run_is_taken_only_when_a_command_waits(self, store: Store, lease: Lease) -> None:
        store.commit(lease, Commit(state="paused"))
        store.release(lease)

        assert store.acquire("another", 30) is None
        store.command(lease.run, "resume")
        assert store.acquire("another", 30) is not None

    def test_a_paused_run_is_taken_when_a_command_waits(self, store: Store, lease: Lease) -> None:
        store.commit(lease, Commit(state="paused"))
        store.release(lease)
        idle = [store.acquire("another", 30), store.acquire("another", 30, lease.run)]
        store.command(lease.run, "resume")

        assert idle == [None, None]
        assert store.acquire("another", 30) == Lease(lease.run, "another", lease.epoch + 1)

    # Commands

    def test_commands_wait_in_order_until_done(self, store: Store, lease: Lease) -> None:
        other = store.create_run({}, "other")[0].id
        pause, resume = store.command(lease.run, "pause"), store.command(lease.run, "resume")
        store.command(other, "cancel")

        assert store.pending_commands(lease.run) == [(pause, "pause"), (resume, "resume")]
        store.commit(lease, Commit(commands_done=(pause,)))
        assert store.pending_commands(lease.run) == [(resume, "resume")]

    def test_another_runs_commands_stay(self, store: Store, lease: Lease) -> None:
        other = store.create_run({}, "other")[0].id
        number = store.command(other, "cancel")

        store.commit(lease, Commit(commands_done=(number,)))

        assert store.pending_commands(other) == [(number, "cancel")]

    def test_an_unknown_verb_is_refused(self, store: Store, lease: Lease) -> None:
        with pytest.raises(InvalidInputError, match="pause, resume"):
            store.command(lease.run, "explode")  # type: ignore[arg-type]

    def test_what_one_process_commits_another_sees(
        self, open_store: OpenStore, clock: Clock, store: Store, lease: Lease
    ) -> None:
        reader = open_store(clock)
        store.commit(lease, Commit(events=(Event("a", {}),), candidates=(candidate(0),)))

        assert [e.seq for e in reader.events(lease.run)] == [1]
        assert reader.candidate(lease.run, 0) == candidate(0)
        store.close()
        assert reader.run(lease.run) is not None


def _in_threads(actions: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=action) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
