from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.recipe.parameters import at_depth, interpolate, stated
from evomerge.recipe.schema import Merge, Rule

KNOTS = st.lists(st.floats(-2, 2), min_size=1, max_size=8).map(tuple)


def test_sources_win_over_all_and_later_rules_over_earlier() -> None:
    merge = Merge(
        method="linear",
        parameters={"weight": 1.0, "density": 0.5},
        sources={"a": {"weight": 2.0}},
        rules=(
            Rule(roles=("mlp",), parameters={"weight": 3.0}),
            Rule(layers=(1, 2), source="a", parameters={"weight": 4.0}),
            Rule(layers=(2, 9), roles=("mlp.up",), parameters={"weight": 5.0}),
        ),
    )

    def weight(role: str, layer: int | None, source: str | None) -> object:
        return stated(merge, role, layer, source)["weight"]

    assert weight("norm", 0, None) == weight("norm", 0, "b") == 1.0
    assert weight("norm", 0, "a") == 2.0
    assert weight("mlp.up", 0, "a") == weight("mlp.up", 1, "b") == 3.0
    assert weight("mlp.up", 1, "a") == weight("mlp.down", 2, "a") == 4.0
    assert weight("mlp.up", 2, "a") == weight("mlp.up", 2, "b") == 5.0
    assert weight("embedding", None, "a") == 2.0


@given(KNOTS, st.integers(2, 12))
def test_knots_begin_and_end_at_the_ends_of_the_model(knots: tuple[float, ...], num_layers: int) -> None:
    read = [at_depth(knots, "mlp.up", layer, num_layers) for layer in range(num_layers)]

    assert (read[0], read[-1]) == (knots[0], knots[-1])
    assert at_depth(knots, "embedding", None, num_layers) == knots[0]
    assert at_depth(knots, "head", None, num_layers) == at_depth(knots, "norm.final", None, num_layers) == knots[-1]
    assert all(min(knots) - 1e-12 <= float(value) <= max(knots) + 1e-12 for value in read)


@given(st.lists(st.floats(-2, 2), min_size=2, max_size=8))
def test_as_many_knots_as_layers_are_the_layers_values(knots: list[float]) -> None:
    read = [at_depth(tuple(knots), "mlp.up", layer, len(knots)) for layer in range(len(knots))]

    assert read == pytest.approx(knots, abs=1e-12)


def test_a_single_layer_reads_the_first_knot() -> None:
    assert at_depth((0.2, 0.8), "mlp.up", 0, 1) == 0.2


def test_between_knots_values_are_linear() -> None:
    assert interpolate([0.0, 1.0, 0.0], 0.25) == 0.5
