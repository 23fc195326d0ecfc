"""What every store must do with candidates: write and read them, in pages of any order. Part of `StoreContract`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evomerge.candidate import CandidateState
from evomerge.errors import InvalidInputError
from evomerge.storage.blocks import AnswerBlock
from evomerge.storage.store import CandidateQuery, CandidateRow, Commit, Lease, Store


def candidate(number: int, scores: dict[str, float] | None = None, **fields: object) -> CandidateRow:
    """A search candidate; scored when it has scores."""
    row = CandidateRow(
        number=number,
        kind="search",
        label="",
        state=CandidateState.PROPOSED if scores is None else CandidateState.SCORED,
        generation=number // 4,
        genome=(0.1, 1 / 3, number / 1000),
        digest=f"{number:064x}",
        recipe={"schema": "evomerge.recipe/1", "sources": {"b": 1, "a": 2}},
        scores={name: {"mean": mean, "se": 0.1, "n": 3} for name, mean in (scores or {}).items()},
    )
    return replace(row, **fields)  # type: ignore[arg-type]  # tests name the fields


class CandidateContract:
    """Needs the fixtures `store` and `lease`."""

    def test_a_candidate_reads_back_as_written(self, store: Store, lease: Lease) -> None:
        block = AnswerBlock("f", "math", "m", ("x",), ("c",), {"accuracy": (1.0,)}, lease.run, 3)
        full = candidate(
            3,
            {"b": 0.1 + 0.2, "a": -1e-300},
            kind="baseline",
            label="source:math",
            verified={"holdout": {"a": {"mean": 0.5, "se": 0.0, "n": 7}}},
            answers={"search": {"math": [block.key]}},
            responses={"search": {"math": {"item_ids": ["x"], "values": {"accuracy": [1.0]}}}},
            violation=0.25,
            on_front=True,
            cached=True,
            attempts=2,
            worker="w0",
            seconds={"materialize": 0.5},
            failure={"reason": "timeout", "message": "60 s"},
        )
        store.commit(lease, Commit(candidates=(full,), answers=(block,)))

        read = store.candidate(lease.run, 3)
        assert read == full
        assert read is not None
        assert isinstance(read.recipe, dict)
        assert list(read.recipe["sources"]) == ["b", "a"]
        assert isinstance(read.state, CandidateState)
        assert store.candidate(lease.run, 4) is None
        assert store.candidate(lease.run, -1) is None
        assert store.candidate(lease.run, 2**70) is None

    def test_a_candidate_is_replaced_with_its_scores(self, store: Store, lease: Lease) -> None:
        store.commit(lease, Commit(candidates=(candidate(0, {"a": 0.9, "b": 0.1}), candidate(1, {"a": 0.5}))))
        store.commit(lease, Commit(candidates=(candidate(0, {"a": 0.1}),)))

        assert store.candidate(lease.run, 0) == candidate(0, {"a": 0.1})
        assert _numbers(store, lease, CandidateQuery(sort="-score:a")) == [1, 0]
        assert _numbers(store, lease, CandidateQuery(min_scores={"b": 0.0})) == []

    def test_of_a_changed_candidate_what_became_known_is_written(self, store: Store, lease: Lease) -> None:
        store.commit(lease, Commit(candidates=(candidate(0), candidate(1, {"a": 0.5}))))
        scored = replace(candidate(0, {"a": 0.9}), attempts=2, worker="w0", violation=0.5, on_front=True)
        store.commit(lease, Commit(candidates=(candidate(2),), changed=(scored, candidate(1, {"b": 0.1}))))

        assert [store.candidate(lease.run, n) for n in range(3)] == [scored, candidate(1, {"b": 0.1}), candidate(2)]
        assert _numbers(store, lease, CandidateQuery(min_scores={"a": 0.0})) == [0]

    def test_a_light_list_leaves_out_the_details(self, store: Store, lease: Lease) -> None:
        store.commit(lease, Commit(candidates=(candidate(0, {"a": 0.5}),)))

        (light,), _ = store.candidates(lease.run, CandidateQuery(details=False))

        assert light == replace(candidate(0, {"a": 0.5}), genome=(), recipe={}, responses={})

    @pytest.mark.parametrize("limit", [1, 2, 3, 5, 20])
    @pytest.mark.parametrize("sort", ["number", "-number", "score:a", "-score:a", "score:none"])
    def test_pages_in_any_order_hold_each_candidate_once(
        self, store: Store, lease: Lease, sort: str, limit: int
    ) -> None:
        scores: list[float | None] = [0.5, None, 1 / 3, 0.5, 0.0, None, 1 / 3, -0.0, 0.5, None, -2.0, 0.1 + 0.2]
        rows = [candidate(n, {"b": float(n)} if a is None else {"a": a, "b": float(n)}) for n, a in enumerate(scores)]
        store.commit(lease, Commit(candidates=tuple(rows)))
        sign = -1 if sort.startswith("-") else 1
        values = scores if sort.endswith(":a") else [None] * len(scores)
        by_score = sorted(range(len(rows)), key=lambda n: ((v := values[n]) is None, 0.0 if v is None else sign * v, n))
        expected = {"number": list(range(12)), "-number": list(range(11, -1, -1))}.get(sort, by_score)

        assert _numbers(store, lease, CandidateQuery(sort=sort, limit=limit)) == expected

    def test_pages_do_not_shift_when_candidates_are_added(self, store: Store, lease: Lease) -> None:
        store.commit(lease, Commit(candidates=tuple(candidate(n, {"a": float(n)}) for n in range(6))))
        query = CandidateQuery(sort="-score:a", limit=2)
        first, cursor = store.candidates(lease.run, query)
        store.commit(lease, Commit(candidates=(candidate(6, {"a": 99.0}), candidate(7, {"a": 2.5}))))
        rest = _numbers(store, lease, replace(query, cursor=cursor))

        assert [row.number for row in first] == [5, 4]
        assert rest == [3, 7, 2, 1, 0]

    def test_a_cursor_of_another_order_is_refused(self, store: Store, lease: Lease) -> None:
        store.commit(lease, Commit(candidates=tuple(candidate(n, {"a": 0.5}) for n in range(3))))
        for sort, other in (("number", "-number"), ("score:a", "-score:a"), ("score:a", "score:b")):
            _, cursor = store.candidates(lease.run, CandidateQuery(sort=sort, limit=1))
            assert cursor is not None

            with pytest.raises(InvalidInputError, match="cursor"):
                store.candidates(lease.run, CandidateQuery(sort=other, cursor=cursor))

    def test_candidates_are_filtered(self, store: Store, lease: Lease) -> None:
        rows = (
            candidate(0, {"a": 0.2, "b": 0.9}, kind="baseline", on_front=True),
            candidate(1, {"a": 0.5, "b": 0.5}),
            candidate(2, {"a": 0.9}, on_front=True),
            candidate(3),
        )
        store.commit(lease, Commit(candidates=rows))

        assert _numbers(store, lease, CandidateQuery(state="scored")) == [0, 1, 2]
        assert _numbers(store, lease, CandidateQuery(state="proposed")) == [3]
        assert _numbers(store, lease, CandidateQuery(kind="baseline")) == [0]
        assert _numbers(store, lease, CandidateQuery(front=True)) == [0, 2]
        assert _numbers(store, lease, CandidateQuery(front=False)) == [1, 3]
        assert _numbers(store, lease, CandidateQuery(min_scores={"a": 0.5})) == [1, 2]
        assert _numbers(store, lease, CandidateQuery(min_scores={"a": 0.1, "b": 0.5}, sort="-score:a")) == [1, 0]
        assert _numbers(store, lease, CandidateQuery(min_scores={"a' OR 1=1": 0.0})) == []

    def test_runs_do_not_share_candidates(self, store: Store, lease: Lease) -> None:
        other = store.acquire("controller", 30, store.create_run({}, "other")[0].id)
        assert other is not None
        store.commit(other, Commit(candidates=(candidate(0, {"a": 0.9}), candidate(1, {"a": 0.5}))))
        store.commit(lease, Commit(candidates=(candidate(0, {"a": 0.1}),)))

        assert _numbers(store, lease, CandidateQuery(sort="score:a")) == [0]
        assert _numbers(store, other, CandidateQuery(min_scores={"a": 0.8})) == [0]
        assert _numbers(store, lease, CandidateQuery(min_scores={"a": 0.2})) == []
        assert _numbers(store, other, CandidateQuery(sort="score:a")) == [1, 0]


def _numbers(store: Store, lease: Lease, query: CandidateQuery) -> list[int]:
    numbers: list[int] = []
    while True:
        rows, cursor = store.candidates(lease.run, query)
        numbers += [row.number for row in rows]
        assert len(numbers) == len(set(numbers)), "pages must not overlap"
        if cursor is None:
            return numbers
        assert len(rows) == query.limit, "only the last page may be short"
        query = replace(query, cursor=cursor)
