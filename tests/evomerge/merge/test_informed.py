"""Averages weighed by losses, metrics and purposes."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch

from evomerge.merge.methods import METHODS, pipeline
from evomerge.testing.merging import MethodContract, merge_tensor


class TestLmCocktail(MethodContract):
    method = METHODS["lm_cocktail"]


class TestMwa(MethodContract):
    method = METHODS["mwa"]


class TestInstructVector(MethodContract):
    method = METHODS["instruct_vector"]
    parameters: ClassVar = {"purpose": {"a": "instruct"}, "instruct_scale": 0.5}
    orderless = False


class TestReAdapt(MethodContract):
    method = METHODS["re_adapt"]
    parameters: ClassVar = {"purpose": {"c": "instruct"}}
    orderless = False


BASE = torch.tensor([1.0, -2.0, 0.5])
MODELS = {"a": torch.tensor([2.0, -1.0, 0.5]), "b": torch.tensor([0.0, -2.0, 4.5])}


@pytest.mark.parametrize(("prefer", "sign"), [("low", -1), ("high", 1)])
@pytest.mark.proves("lm_cocktail", by="property")
def test_weights_are_the_softmax_of_losses(prefer: str, sign: int) -> None:
    found = merge_tensor(
        METHODS["lm_cocktail"], BASE, MODELS, loss={"a": 1.0, "b": 2.0}, temperature=0.5, prefer=prefer
    )

    a, b = (math.exp(sign * loss / 0.5) for loss in (1.0, 2.0))
    torch.testing.assert_close(found, (a * MODELS["a"] + b * MODELS["b"]) / (a + b))


def test_losses_of_any_size_have_weights() -> None:
    found = merge_tensor(METHODS["lm_cocktail"], BASE, MODELS, loss={"a": 1e6, "b": 2.0}, temperature=1e-3)

    torch.testing.assert_close(found, MODELS["b"])


@pytest.mark.proves("mwa", by="property")
def test_weights_are_powers_of_metrics() -> None:
    found = merge_tensor(METHODS["mwa"], BASE, MODELS, metric={"a": 3.0, "b": 1.0}, penalty=2.0)

    torch.testing.assert_close(found, 0.9 * MODELS["a"] + 0.1 * MODELS["b"])


def test_no_penalty_weighs_all_alike_and_a_metric_of_zero_has_no_weight() -> None:
    torch.testing.assert_close(
        merge_tensor(METHODS["mwa"], BASE, MODELS, metric={"a": 3.0, "b": 1.0}, penalty=0.0),
        (MODELS["a"] + MODELS["b"]) / 2,
    )
    torch.testing.assert_close(merge_tensor(METHODS["mwa"], BASE, MODELS, metric={"a": 3.0, "b": 0.0}), MODELS["a"])


@pytest.mark.proves("instruct_vector", "re_adapt", by="property")
def test_the_instruction_vector_is_added_to_the_domain_model() -> None:
    purposes = {"a": "domain", "b": "instruct"}
    found = merge_tensor(METHODS["instruct_vector"], BASE, MODELS, purpose=purposes, instruct_scale=0.7)
    both = merge_tensor(METHODS["re_adapt"], BASE, MODELS, purpose=purposes, instruct_scale=0.7, domain_scale=0.5)

    torch.testing.assert_close(found, MODELS["a"] + 0.7 * (MODELS["b"] - BASE))
    torch.testing.assert_close(both, BASE + 0.5 * (MODELS["a"] - BASE) + 0.7 * (MODELS["b"] - BASE))


def test_weights_reach_means_that_divide_by_them() -> None:
    chain = pipeline(("metrics", "elect", "disjoint_mean"))
    found = merge_tensor(chain, torch.zeros(2), {"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([3.0, -3.0])},
                         metric={"a": 3.0, "b": 1.0}, sign_ties="positive")  # fmt: skip

    torch.testing.assert_close(found, torch.tensor([1.5, 1.0]))
