"""What every store must do with answers: keep them, each once, and find them again. Part of `StoreContract`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evomerge.errors import LeaseLostError
from evomerge.storage.blocks import AnswerBlock, questions_key
from evomerge.storage.store import CandidateQuery, Commit, Event, Lease, Store
from evomerge.testing.store_candidates import candidate

HARD = 0.1 + 0.2, -1e-300, 5e-324, 1.7976931348623157e308, -0.0
"""Floats that a careless way of writing would change."""


def block(subject: str, said: dict[str, float], fingerprint: str = "f", **more: object) -> AnswerBlock:
    """One subject's answers, item → value; of item x the content is `content of x`."""
    found = AnswerBlock(
        fingerprint, "math", subject, tuple(said), tuple(f"content of {item}" for item in said),
        {"accuracy": tuple(said.values())},
    )  # fmt: skip
    return replace(found, **more)  # type: ignore[arg-type]  # tests name the fields


class AnswerContract:
    """Needs the fixtures `store` and `lease`."""

    def test_answers_read_back_as_written(self, store: Store, lease: Lease) -> None:
        values = {"accuracy": (1.0, 0.0, 0.5, 1.0, 0.0), "log_likelihood": HARD, "margin": (HARD[3],) * 5}
        asked = block("a", dict.fromkeys("vwxyz", 0.0), values=values, run=lease.run, number=3)
        store.commit(lease, Commit(answers=(asked,)))
        (read,) = store.answers("f")

        assert read.created is not None
        assert replace(read, created=None) == asked
        assert [str(v) for v in read.values["log_likelihood"]] == [str(v) for v in HARD]
        assert read.key == asked.key
        assert (store.answers("g"), store.answers("f", eval_set="code"), store.subjects("g")) == ([], [], [])

    def test_what_is_said_again_is_kept_once(self, store: Store, lease: Lease) -> None:
        first = block("a", {"x": 1.0}, run=lease.run, number=0)
        store.commit(lease, Commit(answers=(first, first)))
        store.commit(lease, Commit(answers=(replace(first, number=7), block("a", {"x": 0.0}))))
        imported = [store.add_answers([block("a", {"x": v}), block("b", {"x": v})]) for v in (1.0, 1.0)]

        found = [(b.subject, b.number, b.values["accuracy"]) for b in store.answers("f")]
        assert found == [("a", 0, (1.0,)), ("a", None, (0.0,)), ("b", None, (1.0,))]
        assert imported == [1, 0]

    def test_answers_are_found_by_subject_and_oldest_first(self, store: Store, lease: Lease) -> None:
        for n, subject in enumerate("cabca"):
            store.commit(lease, Commit(answers=(block(subject, {f"x{n}": 1.0}),)))

        assert [b.items[0] for b in store.answers("f", subjects=["a", "c", "a", "nobody"])] == ["x0", "x1", "x3", "x4"]
        assert store.subjects("f", eval_set="math") == ["a", "b", "c"]
        assert store.answers("f", subjects=[]) == []

    def test_more_subjects_than_a_statement_takes_are_found(self, store: Store) -> None:
        names = [f"s{n:04}" for n in range(1200)]
        store.add_answers([block(name, {"x": 1.0}) for name in names])

        assert store.subjects("f") == names
        assert [b.subject for b in store.answers("f", subjects=names[::-1])] == names

    def test_a_candidate_names_answers_that_another_gave(self, store: Store, lease: Lease) -> None:
        said = block("a", {"x": 1.0, "y": 0.0})
        more = block("a", {"z": 0.5, "y": 1.0})
        held = {"item_ids": ["x", "y"], "values": {"accuracy": [1.0, 0.0]}}
        twins = [
            candidate(n, answers={"subset": {"math": [said.key]}}, responses={"subset": {"math": held}})
            for n in range(2)
        ]
        store.commit(lease, Commit(answers=(said,), candidates=(twins[0],)))
        store.commit(lease, Commit(candidates=(twins[1],)))
        store.commit(lease, Commit(answers=(more,)))
        grown = replace(twins[0], answers={"subset": {"math": [said.key, more.key]}})
        store.commit(lease, Commit(candidates=(grown,)))
        read = store.candidate(lease.run, 0)
        light = store.candidates(lease.run, CandidateQuery(details=False))[0]

        assert store.candidate(lease.run, 1) == twins[1]
        assert store.candidates(lease.run)[0] == [read, twins[1]]
        assert read is not None
        assert read.responses["subset"]["math"] == {
            "item_ids": ["x", "y", "z"],
            "values": {"accuracy": [1.0, 1.0, 0.5]},
        }
        assert not any(row.answers or row.responses for row in light)

    def test_answers_and_scores_come_together_or_not_at_all(self, store: Store, lease: Lease) -> None:
        good = block("a", {"x": 1.0})
        for wrong in ({"x": float("nan")}, {"x": float("inf"), "y": float("-inf")}, {"x": 1.0, "y": float("-inf")}):
            said = (good, block("b", wrong))
            with pytest.raises(ValueError, match="finite"):
                store.commit(lease, Commit(events=(Event("e", {}),), answers=said, candidates=(candidate(0),)))
        with pytest.raises(ValueError, match="JSON"):
            store.commit(lease, Commit(answers=(good,), candidates=(candidate(0, {"a": float("inf")}),)))

        assert store.answers("f") == []
        assert store.events(lease.run) == []
        store.commit(lease, Commit(answers=(good,), candidates=(candidate(0),)))  # its list of items is written now
        assert [b.items for b in store.answers("f")] == [("x",)]

    def test_a_controller_without_its_lease_keeps_no_answers(self, store: Store, lease: Lease) -> None:
        store.release(lease)
        newer = store.acquire("another", 30)

        with pytest.raises(LeaseLostError):
            store.commit(lease, Commit(answers=(block("late", {"x": 1.0}),)))
        assert newer is not None
        store.commit(newer, Commit(answers=(block("a", {"x": 1.0}),)))
        assert store.subjects("f") == ["a"]

    def test_banks_say_what_there_is(self, store: Store) -> None:
        store.describe_evaluator("f", {"dtype": "float32"})
        store.describe_evaluator("f", {"dtype": "bfloat16"})
        both = {"accuracy": (1.0, 0.0), "margin": (0.1, 0.2)}
        store.add_answers([block("a", {"x": 0.0, "y": 1.0}, values=both), block("b", {"y": 1.0})])
        store.add_answers([block("b", {"x": 1.0}), block("b", {"x": 0.0}), block("c", {"x": 1.0})])
        store.add_answers([block("a", {"x": 1.0}, fingerprint="g")])
        first, second = store.banks()

        assert (first.fingerprint, first.eval_set, first.settings) == ("f", "math", {"dtype": "float32"})
        assert (first.subjects, first.items, first.answers, first.complete, first.blocks) == (3, 2, 5, 2, 5)
        assert first.metrics == ("accuracy", "margin")
        assert first.bytes == 8 * (2 * 2 + 4)
        assert (second.fingerprint, second.settings, second.complete) == ("g", {}, 1)

    def test_pages_hold_their_subjects_answers_under_a_metric_and_everything_that_was_asked(self, store: Store) -> None:
        both = {"accuracy": (1.0, 0.0), "margin": (0.1, 0.2)}
        store.add_answers([block("d", {"x": 0.0, "y": 1.0}, values=both), block("b", {"z": 1.0})])
        store.add_answers(
            [block("a", {"y": 1.0}, values={"margin": (0.5,)}), block("c", {"x": 1.0}), block("b", {"x": 0.5})]
        )
        store.add_answers([block("b", {"w": 1.0}, fingerprint="g")])
        first = store.answer_page("f", "math", "accuracy", limit=2)
        store.add_answers([block("bb", {"v": 1.0}), block("d", {"z": 0.0})])
        second = store.answer_page("f", "math", "accuracy", after="c", limit=2, until=first.until)
        fresh = store.answer_page("f", "math", "accuracy", after="b", limit=9)

        assert (first.subjects, first.more) == (("b", "c"), True)
        assert [(b.subject, b.items) for b in first.blocks] == [("b", ("z",)), ("c", ("x",)), ("b", ("x",))]
        assert [ids for ids, _ in first.lists] == [("x", "y"), ("z",), ("x",)]
        assert first.lists[0][1] == ("content of x", "content of y")
        assert (second.subjects, second.more, second.lists) == (("d",), False, first.lists)
        assert [b.items for b in second.blocks] == [("x", "y")]
        assert fresh.subjects == ("bb", "c", "d")
        assert [ids for ids, _ in fresh.lists_last] == [("x", "y"), ("x",), ("v",), ("z",)]
        assert store.answer_page("f", "math", "f1", limit=2).subjects == ()

    def test_keys_tell_what_was_said(self) -> None:
        said = block("a", {"x": 1.0})
        others = [
            block("b", {"x": 1.0}), block("a", {"y": 1.0}), block("a", {"x": 0.0}), block("a", {"x": 1.0}, "g"),
            replace(said, eval_set="code"), replace(said, contents=("changed",)), replace(said, contents=()),
            replace(said, values={"margin": (1.0,)}),
        ]  # fmt: skip

        assert len({said.key, *(other.key for other in others)}) == 1 + len(others)
        assert replace(said, run="r", number=3).key == said.key
        assert questions_key(("a", "b"), ()) != questions_key(("ab",), ())
