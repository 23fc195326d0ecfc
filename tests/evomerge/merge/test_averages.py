"""Averages of checkpoints in an order."""

from __future__ import annotations

import pytest
import torch

from evomerge.merge.methods import METHODS
from evomerge.testing.merging import MethodContract, merge_tensor


class TestSma(MethodContract):
    method = METHODS["sma"]


class TestWma(MethodContract):
    method = METHODS["wma"]


class TestEma(MethodContract):
    method = METHODS["ema"]


class TestMetaAbilities(MethodContract):
    method = METHODS["meta_abilities"]


BASE = torch.zeros(5, 4)
RUN = {name: torch.randn(5, 4, generator=torch.Generator().manual_seed(i)) for i, name in enumerate("pqrs")}
ORDER = {"p": 0.9, "q": 0.1, "r": 0.1, "s": 0.4}
"""By (order, name): q, r, s, p."""


@pytest.mark.proves("sma", by="property")
def test_the_simple_average_is_the_mean() -> None:
    torch.testing.assert_close(merge_tensor(METHODS["sma"], BASE, RUN), torch.stack(list(RUN.values())).mean(dim=0))


@pytest.mark.proves("wma", by="property")
def test_the_weighted_average_weighs_by_position() -> None:
    found = merge_tensor(METHODS["wma"], BASE, RUN, order=ORDER)

    torch.testing.assert_close(found, (RUN["q"] + 2 * RUN["r"] + 3 * RUN["s"] + 4 * RUN["p"]) / 10)


@pytest.mark.parametrize("alpha", [0.0, 0.2, 1.0])
@pytest.mark.proves("ema", by="property")
def test_the_exponential_average_runs_along_the_order(alpha: float) -> None:
    expected = RUN["q"]
    for name in "rsp":
        expected = alpha * RUN[name] + (1 - alpha) * expected

    torch.testing.assert_close(merge_tensor(METHODS["ema"], BASE, RUN, order=ORDER, alpha=alpha), expected)


@pytest.mark.proves("meta_abilities", by="property")
def test_meta_abilities_weigh_the_first_most() -> None:
    three = {name: RUN[name] for name in "pqr"}
    found = merge_tensor(METHODS["meta_abilities"], BASE, three, order=ORDER)

    torch.testing.assert_close(found, (RUN["q"] + 0.2 * RUN["r"] + 0.1 * RUN["p"]) / 1.3)


@pytest.mark.parametrize("method", ["sma", "wma", "ema"])
def test_equal_checkpoints_are_that_checkpoint_exactly(method: str) -> None:
    found = merge_tensor(METHODS[method], BASE, dict.fromkeys("abc", RUN["p"]))

    assert torch.equal(found, RUN["p"])


@pytest.mark.parametrize("method", ["wma", "ema", "meta_abilities"])
def test_the_order_is_a_parameter(method: str) -> None:
    three = {name: RUN[name] for name in "pqr"}
    first = merge_tensor(METHODS[method], BASE, three, order={"p": 0.0, "q": 0.5, "r": 1.0})
    second = merge_tensor(METHODS[method], BASE, three, order={"p": 1.0, "q": 0.5, "r": 0.0})

    assert METHODS[method].ordered
    assert not torch.allclose(first, second)
