"""Pipelines whose stages change the basis: what follows counts and measures there, and all of them lead back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge.methods import METHODS, pipeline
from evomerge.models.factors import Factors
from evomerge.testing.merging import merge_tensor, merge_tensors

ALL = {"tolerance": 1e-7}
"""Every direction that the task vectors have is kept."""


def zoo(*shape: int) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(shape, generator=generator)
    return base, {s: base + 0.1 * torch.randn(shape, generator=generator) for s in "abc"}


def adapters(out: int, into: int, rank: int = 2) -> dict[str, Factors]:
    generator = torch.Generator().manual_seed(1)
    return {
        s: Factors(torch.randn(rank, into, generator=generator), torch.randn(out, rank, generator=generator))
        for s in "abc"
    }


def of_adapters(chain: tuple[str, ...], factors: dict[str, Factors], **parameters: Any) -> Tensor:
    base = torch.zeros(next(iter(factors.values())).shape)
    return merge_tensors(pipeline(chain), {"w": base}, {}, factors={"w": factors}, **parameters)["w"]


def of_products(chain: tuple[str, ...], factors: dict[str, Factors], **parameters: Any) -> Tensor:
    base = torch.zeros(next(iter(factors.values())).shape)
    return merge_tensor(pipeline(chain), base, {s: f.product() for s, f in factors.items()}, **parameters)


@pytest.mark.parametrize("direction", ["horizontal", "vertical"])
@pytest.mark.parametrize("order", [("centre", "joint_svd"), ("joint_svd", "centre")])
def test_a_basis_within_a_basis_leads_back_through_both(order: tuple[str, str], direction: str) -> None:
    """Square matrices: shapes say nothing of a basis that was forgotten."""
    base, models = zoo(9, 9)
    found = merge_tensor(pipeline((*order, "weigh", "sum")), base, models, direction=direction, weight=0.5, **ALL)

    expected = merge_tensor(pipeline(("centre", "weigh", "sum")), base, models, weight=0.5)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(12, 12), (14, 9)])
@pytest.mark.parametrize("second", ["centre", "joint_svd"])
def test_core_space_may_be_turned_once_more(second: str, shape: tuple[int, int]) -> None:
    factors = adapters(*shape)
    asked: dict[str, Any] = ALL if second == "joint_svd" else {"anchor": "sum"}
    found = of_adapters(("core", second, "weigh", "sum"), factors, weight=0.5, **asked)

    expected = of_products((second, "weigh", "sum"), factors, weight=0.5, **asked)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "chain", [("weigh", "sum", "match_norm"), ("weigh", "sum", "layers"), ("weigh", "sum", "consensus")]
)
def test_what_follows_the_sum_compares_it_with_whole_task_vectors(chain: tuple[str, ...]) -> None:
    factors = adapters(10, 13)
    asked = {"match": "l1"} if "match_norm" in chain else {"mask_lambda": 0.2} if "consensus" in chain else {}
    found = of_adapters(("core", *chain), factors, **asked)

    torch.testing.assert_close(found, of_products(chain, factors, **asked), rtol=1e-4, atol=1e-4)


def test_one_bit_in_core_space_has_the_mean_magnitude_of_the_core() -> None:
    factors = adapters(20, 30, rank=1)
    one = {"a": factors["a"]}
    found = of_adapters(("core", "binary", "sum"), one)

    torch.testing.assert_close(found, one["a"].product(), rtol=1e-4, atol=1e-4)  # a core of one entry


@pytest.mark.parametrize("stage", ["exclusive_sum", "compete", "pool_components", "common_and_own"])
def test_shares_in_core_space_are_shares_of_the_core(stage: str) -> None:
    """The same stage on the cores by themselves, brought back."""
    from evomerge.merge.primitives.lora import core_space

    factors = adapters(16, 18)
    found = of_adapters(("core", stage), factors)

    core = core_space(factors)
    alone = merge_tensor(pipeline((stage,)), torch.zeros(6, 6), dict(core.cores))
    torch.testing.assert_close(found, core.back(alone), rtol=1e-4, atol=1e-4)


def test_relative_thresholds_in_core_space_know_the_cores_size() -> None:
    factors = {"a": adapters(40, 50, rank=1)["a"]}

    assert torch.any(of_adapters(("core", "changed", "sum"), factors, epsilon_unit="rms", epsilon=0.9) != 0)
    assert not torch.any(of_adapters(("core", "changed", "sum"), factors, epsilon_unit="rms", epsilon=1.1) != 0)


@pytest.mark.parametrize("first", ["centre", "joint_svd"])
def test_columns_are_compared_with_the_base_in_its_own_basis_alone(first: str) -> None:
    base, models = zoo(8, 8)

    with pytest.raises(InvalidInputError, match="before any stage that changes the basis"):
        merge_tensor(pipeline((first, "column_sum")), base, models)


def test_shares_of_task_vectors_of_zeros_are_not_divided_by_nothing() -> None:
    base, _ = zoo(4, 5)
    chain = pipeline(("inverse_norm", "sum"))

    assert torch.equal(merge_tensor(chain, base, {s: base.clone() for s in "ab"}, normalize=True), base)


def test_shares_that_cancel_are_refused() -> None:
    base, models = zoo(4, 5)
    asked = {"domain_scale": 1.0, "instruct_scale": -1.0, "purpose": {"b": "instruct"}, "normalize": True}

    with pytest.raises(InvalidInputError, match="add up to nothing"):
        merge_tensor(pipeline(("purposes", "sum")), base, {s: models[s] for s in "ab"}, **asked)


def test_knots_of_sources_that_agree_leads_back() -> None:
    """The basis must not show."""
    base, models = zoo(7, 11)
    same = dict.fromkeys("abc", models["a"])
    found = merge_tensor(METHODS["knots"], base, same, density=1.0, **{"lambda": 1.0})

    torch.testing.assert_close(found, models["a"], rtol=1e-4, atol=1e-5)


def test_zeros_have_as_many_entries_as_a_tensor_that_no_source_has() -> None:
    """One threshold over a model whose second matrix nobody changes."""
    base, models = zoo(6, 6)
    two = {"w": base, "still": torch.ones(6, 6)}
    found = [
        merge_tensors(METHODS["knots"], two, {s: {"w": m, **more} for s, m in models.items()}, density=0.3)["w"]
        for more in ({}, {"still": two["still"].clone()})
    ]

    assert torch.equal(*found)


def test_weights_too_small_to_divide_by_are_refused() -> None:
    base, models = zoo(3, 4)

    with pytest.raises(InvalidInputError, match="add up to nothing"):
        merge_tensor(METHODS["lines"], base, {"a": models["a"]}, weight=1e-170, normalize=True)
