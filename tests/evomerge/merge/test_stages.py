"""Chains of stages."""

from __future__ import annotations

import pytest
import torch

from evomerge.errors import InvalidInputError
from evomerge.merge.methods import METHODS, pipeline
from evomerge.testing.merging import MethodContract, merge_tensor


class TestPipeline(MethodContract):
    method = pipeline(("trim", "weigh", "sum", "scale"))


@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_trim_keeps_the_largest_entries_and_the_rest_is_task_arithmetic(scope: str) -> None:
    torch.manual_seed(0)
    base = torch.randn(40, 30)
    models = {s: base + torch.randn(40, 30) for s in "ab"}
    merged = merge_tensor(
        pipeline(("trim", "weigh", "sum", "scale")),
        base,
        models,
        scope=scope,
        density=0.3,
        weight=0.7,
        **{"lambda": 0.5},
    )

    expected = base.clone()
    for model in models.values():
        delta = model - base
        threshold = delta.abs().flatten().sort(descending=True).values[359]
        expected += 0.35 * torch.where(delta.abs() >= threshold, delta, 0.0)
    torch.testing.assert_close(merged, expected)


def test_without_other_stages_it_is_task_arithmetic_to_the_byte() -> None:
    torch.manual_seed(1)
    base = torch.randn(7, 5)
    models = {s: base + torch.randn(7, 5) for s in "abc"}

    chained = merge_tensor(pipeline(("weigh", "sum")), base, models, weight=0.5)

    assert torch.equal(chained, merge_tensor(METHODS["task_arithmetic"], base, models, weight=0.5))


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (("trim", "scale"), "exactly one stage that adds up"),
        (("scale", "sum"), "after the stage that adds up"),
        (("sum", "trim"), "before the stage that adds up"),
        (("trim", "trimm"), "one of"),
    ],
)
def test_chains_that_make_no_sense_are_refused(stages: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        pipeline(stages)
