from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from search_spaces.scale import Scale

GENES = st.floats(0, 1)


@st.composite
def scales(draw: st.DrawFn) -> Scale:
    log = draw(st.booleans())
    low = draw(st.floats(1e-6, 1e3) if log else st.floats(-1e3, 1e3))
    width = draw(st.floats(1e-3, 1e3))
    return Scale(low, low * (1 + width) if log else low + width, log=log)


@given(scales(), GENES)
def test_a_value_survives_the_way_to_its_gene_and_back(scale: Scale, gene: float) -> None:
    value = scale.value(gene)

    assert scale.value(scale.gene(value)) == value
    assert scale.low <= value <= scale.high
    assert scale.holds(value)


@given(scales(), GENES)
def test_a_gene_survives_up_to_the_grid(scale: Scale, gene: float) -> None:
    value = scale.value(gene)
    width = math.log(scale.high / scale.low) * value if scale.log else scale.high - scale.low

    assert abs(scale.gene(value) - gene) * width <= scale.step(value) * 1.01


@given(scales(), GENES, GENES)
def test_values_rise_with_genes(scale: Scale, one: float, other: float) -> None:
    assume(one <= other)

    assert scale.value(one) <= scale.value(other)


@given(scales())
def test_the_ends_are_the_ends(scale: Scale) -> None:
    assert scale.value(-1.0) == scale.value(0.0) == pytest.approx(scale.low, abs=scale.step(scale.low))
    assert scale.value(2.0) == scale.value(1.0) == pytest.approx(scale.high, abs=scale.step(scale.high))


def test_values_are_short() -> None:
    assert Scale(-0.5, 1.5).value(5 / 12) == 0.333333
    assert str(Scale(-0.5, 1.5).value(0.25)) == "0.0"  # not -0.0
    assert Scale(0.001, 1.0, log=True).value(0.5) == 0.0316228


def test_numbers_of_numpy_become_plain_floats() -> None:
    assert type(Scale(0.0, 1.0).value(np.float64(0.5))) is float


@pytest.mark.parametrize("bounds", [(1.0, 1.0), (2.0, 1.0), (0.0, math.inf), (math.nan, 1.0)])
def test_a_range_needs_two_ends_in_order(bounds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="low < high"):
        Scale(*bounds)


def test_a_logarithmic_range_is_positive() -> None:
    with pytest.raises(ValueError, match="low > 0"):
        Scale(0.0, 1.0, log=True)
