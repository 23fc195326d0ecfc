"""Laws of methods as families: what one source, equal sources, permuted and scaled ones must give, and who is exempt.

Every exemption says why. A method that is added is held to all laws.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from evomerge.merge.method import Method
from evomerge.merge.methods import METHODS
from evomerge.testing.merging import merge_tensors

DATA_FREE = sorted(name for name, m in METHODS.items() if not m.requires and not m.factored)
SHAPES = {"matrix": (12, 9), "table": (15, 8), "vector": (11,)}
ROLES = {"matrix": "mlp.up", "table": "embedding", "vector": "norm.mlp"}
Model = dict[str, Tensor]

ALL_OF_IT: dict[str, Any] = {
    "weight": 1.0, "lambda": 1.0, "density": 1.0, "gamma": 0.0, "select_topk": 1.0, "clip": 0.0, "epsilon": 0.0,
    "spectrum_share": 1.0, "rank_share": 1.0, "pool_share": 1.0, "unit_density": 1.0, "tolerance": 1e-7, "boost": 1.0,
    "outliers": 1e6, "min_count": 1.0, "t": 1.0, "filter": "none", "directions": "all", "domain_scale": 1.0,
}  # fmt: skip
"""Nothing is dropped, damped or weighed."""

NOT_ITSELF = {
    "arcee_fusion": "leaves the entries that matter little at the base",
    "onebit": "magnitudes are gone",
    "iso_c": "flattens the spectrum",
    "iso_cts": "flattens the spectrum",
    "r_tsvm": "keeps the effective rank",
    "pcb": "the entry that matters least has no weight",
    "doge": "all but matrices stay the base's",
    "doge_protected": "all but matrices stay the base's",
}
SUMS = {
    "task_arithmetic", "dare_linear", "breadcrumbs", "della_linear", "instruct_vector", "re_adapt", "compeft", "sft",
    "shira", "hi_merging", "lore_adapt", "boost", "tall_consensus", "tall_consensus_ties",
}  # fmt: skip
"""N equal sources give N times their task vector."""
NOT_THE_MEAN = NOT_ITSELF | {
    "cabs": "gives every entry to one source, or to several",
    "widen": "weighs columns by their ranks",
    "axis": "the largest components of all: here those of every source",
    "opcm": "adds what is not there yet, then restores the norm",
    "swudi": "solves a share of the directions: along the others it is the sum",
}
NOT_FREE_OF_SCALE = {
    "nearswap": "t is a distance",
    "arcee_fusion": "compares softmaxes of weights",
    "ram": "epsilon is a magnitude",
    "ram_plus": "epsilon is a magnitude",
    "ramplus_tl": "epsilon is a magnitude",
    "pcb": "tanh of products",
    "widen": "softmax of magnitudes, and columns of the base",
    "doge": "scales every source to the length eta",
    "doge_protected": "scales every source to the length eta",
}


def zoo(number: int, scale: float = 0.1) -> tuple[Model, dict[str, Model]]:
    generator = torch.Generator().manual_seed(number)
    base = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    models = {
        s: {n: t + scale * torch.randn(t.shape, generator=generator) for n, t in base.items()} for s in "abc"[:number]
    }
    return base, models


def number_of(method: Method) -> int:
    return max(method.num_sources[0], min(method.num_sources[1] or 3, 3))


def merged(name: str, base: Model, models: dict[str, Model], **parameters: Any) -> Model:
    known = {p.name for p in METHODS[name].parameters}
    given = {key: value for key, value in parameters.items() if key in known}
    return merge_tensors(METHODS[name], base, models, roles=ROLES, seed=1, **given)


def close(found: Model, base: Model, model: Model, times: float = 1.0) -> None:
    for name in base:
        torch.testing.assert_close(found[name] - base[name], times * (model[name] - base[name]), rtol=1e-3, atol=2e-5)


def test_every_exemption_names_a_method() -> None:
    assert {*NOT_ITSELF, *SUMS, *NOT_THE_MEAN, *NOT_FREE_OF_SCALE} <= set(METHODS)
    assert not SUMS & set(NOT_THE_MEAN)


@pytest.mark.parametrize("name", DATA_FREE)
def test_sources_that_change_nothing_give_the_base_to_the_byte(name: str) -> None:
    base, models = zoo(number_of(METHODS[name]))
    found = merged(name, base, {s: {n: t.clone() for n, t in base.items()} for s in models})

    assert all(torch.equal(found[n], base[n]) for n in base)


@pytest.mark.parametrize("name", [n for n in DATA_FREE if METHODS[n].num_sources[0] == 1 and n not in NOT_ITSELF])
def test_one_source_of_which_nothing_is_dropped_is_itself(name: str) -> None:
    base, models = zoo(1)

    close(merged(name, base, models, **ALL_OF_IT), base, models["a"])


@pytest.mark.parametrize("name", [n for n in DATA_FREE if n not in NOT_THE_MEAN])
def test_equal_sources_are_each_of_them_or_their_number_times_what_each_adds(name: str) -> None:
    base, models = zoo(number_of(METHODS[name]))
    found = merged(name, base, dict.fromkeys(models, models["a"]), **ALL_OF_IT)

    close(found, base, models["a"], times=len(models) if name in SUMS else 1.0)


@pytest.mark.parametrize("name", [n for n in DATA_FREE if not METHODS[n].stochastic and not METHODS[n].ordered])
def test_no_name_comes_first(name: str) -> None:
    base, models = zoo(number_of(METHODS[name]))
    turned = dict(zip(models, [models[s] for s in reversed(models)], strict=True))

    close(merged(name, base, turned), base, merged(name, base, models))


@pytest.mark.parametrize("by", [8.0, 2.0**-10])
@pytest.mark.parametrize("name", [n for n in DATA_FREE if n not in NOT_FREE_OF_SCALE])
def test_scaled_task_vectors_give_the_scaled_merge(name: str, by: float) -> None:
    """From a base of zeros, where models scale with their task vectors; powers of two scale exactly."""
    base, models = zoo(number_of(METHODS[name]))
    zeros = {n: torch.zeros_like(t) for n, t in base.items()}
    deltas = {s: {n: m[n] - base[n] for n in base} for s, m in models.items()}
    whole = merged(name, zeros, deltas)
    scaled = merged(name, zeros, {s: {n: by * d for n, d in m.items()} for s, m in deltas.items()})

    for n in base:
        torch.testing.assert_close(scaled[n], by * whole[n], rtol=1e-4, atol=1e-5 * by * float(whole[n].abs().max()))


@pytest.mark.parametrize("name", sorted(METHODS))
def test_ranges_that_are_searched_by_orders_of_magnitude_begin_above_zero(name: str) -> None:
    for p in METHODS[name].parameters:
        assert p.scale == "linear" or (p.low is not None and p.low > 0), p.name
