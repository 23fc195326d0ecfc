"""Races: blocks are random samples inside each other, who has no chance stops, and hardly anybody else."""

from __future__ import annotations

import numpy as np
import pytest

from fitness.estimate import design
from fitness.evaluator import Responses
from fitness.items import Item
from fitness.measure import Measure
from fitness.racing import Lap, Race, Rivals, beaten, nested
from fitness.subset import Subset, draw

ITEMS = [Item(f"i{n:03}", f"c{n}", (" a", " b"), 0, group="xyz"[n % 3]) for n in range(120)]


def drawn(policy: str = "stratified") -> Subset:
    return draw(ITEMS, 40, policy=policy, seed=1, generation=2)  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", ["random", "stratified"])
def test_smaller_shares_are_inside_larger_ones_and_share_out_their_strata(policy: str) -> None:
    whole = drawn(policy)
    parts = [nested(whole, share, seed=1, generation=2, eval_set="s") for share in (0.2, 0.5, 0.75)]

    assert [len(part.ids) for part in parts if part] == [8, 20, 30]
    for small, large in zip(parts, [*parts[1:], whole], strict=True):
        assert small is not None
        assert large is not None
        assert set(zip(small.ids, small.strata, strict=True)) <= set(zip(large.ids, large.strata, strict=True))
        counts = [small.strata.count(s) for s in set(whole.strata)]
        assert max(counts) - min(counts) <= 1 or policy == "random"


def test_a_block_that_would_say_nothing_is_left_out() -> None:
    assert nested(drawn(), 0.05, seed=1, generation=2, eval_set="s") is None
    assert nested(drawn(), 0.99, seed=1, generation=2, eval_set="s") is None


def test_every_item_is_as_likely_to_be_in_a_block() -> None:
    whole = drawn("random")
    times = dict.fromkeys(whole.ids, 0)
    for generation in range(400):
        part = nested(whole, 0.25, seed=1, generation=generation, eval_set="s")
        assert part is not None
        for i in part.ids:
            times[i] += 1
    assert sum(times.values()) == 4000
    assert 60 < min(times.values()) <= max(times.values()) < 145  # 100 each, six deviations of 8.7


def race(rivals: Rivals, control: float | None = None) -> Race:
    whole = drawn("random")
    part = nested(whole, 0.25, seed=1, generation=2, eval_set="s")
    assert part is not None
    beside = None if control is None else (tuple(control for _ in part.ids), control)
    measure = Measure("s", "accuracy", (0.0, 1.0), part, design(part, ITEMS), beside)
    rest = tuple(i for i in whole.ids if i not in part.ids)
    return Race((Lap(0.25, {"s": part.ids}, ((1.0, (measure,)),)), Lap(1.0, {"s": rest})), rivals)


def answers(race: Race, value: float) -> dict[str, Responses]:
    ids = race.laps[0].items["s"]
    right = round(value * len(ids))
    values = tuple(float(n < right) for n in range(len(ids)))
    return {"s": Responses(ids, {"accuracy": values}, 0.0, 0)}


GOOD = Rivals(tuple((0.6 + 0.02 * k,) for k in range(12)), ((0.03,),) * 12)


def test_who_is_far_behind_stops_and_who_might_lead_goes_on() -> None:
    run = race(GOOD)

    assert run.is_lost(0, answers(run, 0.0))
    assert not run.is_lost(0, answers(run, 0.6))
    assert not run.is_lost(0, answers(run, 1.0))
    assert not run.is_lost(1, answers(run, 0.0)), "the last block ends by itself"


def test_who_differs_from_the_rivals_by_noise_only_goes_on() -> None:
    noise = Rivals(tuple((0.5 + 0.01 * (k % 3),) for k in range(12)), ((0.08,),) * 12)

    assert not race(noise).is_lost(0, answers(race(noise), 0.3))
    assert race(noise, control=0.9).is_lost(0, answers(race(noise), 0.0))


def test_who_is_better_in_one_objective_goes_on() -> None:
    rivals = Rivals(tuple((0.8, 0.5 + 0.01 * k) for k in range(10)), ((0.02, 0.02),) * 10)

    worse = beaten([0.3, 0.2], [0.05, 0.05], rivals)
    elsewhere = beaten([0.3, 0.9], [0.05, 0.02], rivals)

    assert (worse[:5] > 0.5).all()
    assert (elsewhere < 0.5).all()


def test_a_race_seldom_ends_a_candidate_that_is_among_the_better_half() -> None:
    rng = np.random.default_rng(3)
    lost = 0
    for _ in range(300):
        field = rng.normal(0.6, 0.1, size=16)
        seen = field + rng.normal(0, 0.05, size=16)
        run = race(Rivals(tuple((float(v),) for v in seen), ((0.05,),) * 16))
        truth = float(np.quantile(field, 0.6))
        ids = run.laps[0].items["s"]
        given = tuple(float(v) for v in rng.random(len(ids)) < truth)
        lost += run.is_lost(0, {"s": Responses(ids, {"accuracy": given}, 0.0, 0)})
    assert lost < 0.1 * 300
