from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.archive.flat_order import chromosomes, flat_order
from evomerge.archive.lineage import Individual, Noise, Strand
from evomerge.archive.segments import chromosomes_of, individual_of, segments_of
from evomerge.errors import InvalidInputError
from evomerge.recipe.segments import Segments
from tests.evomerge.archive.test_flat_order import llama

ORDER = flat_order(*llama())
GROUPS: list[tuple[str, ...]] = [("attention",), ()]
PARTS = chromosomes(ORDER, GROUPS)


@settings(deadline=None, max_examples=40)
@given(st.data(), st.integers(0, 3))
def test_what_a_recipe_says_is_the_individual_again(data: st.DataObject, terms: int) -> None:
    numbers = st.floats(-2, 2, allow_nan=False)
    strands = []
    for part in PARTS:
        starts = sorted({0, *data.draw(st.lists(st.integers(0, part.length - 1), max_size=6))})
        rows = data.draw(st.lists(st.lists(numbers, min_size=2 + terms, max_size=2 + terms),
                                  min_size=len(starts), max_size=len(starts)))  # fmt: skip
        strands.append(Strand(np.array(starts, np.int64), np.array(rows)))
    one = Individual(tuple(strands), tuple(Noise(seed, 0.5 + seed) for seed in range(terms)))

    said = Segments.model_validate_json(segments_of(one, PARTS, GROUPS, ["a", "b"], "side").model_dump_json())
    back = individual_of(said, chromosomes_of(said, ORDER), ["a", "b"])

    assert back.noise == one.noise
    for mine, theirs in zip(one.strands, back.strands, strict=True):
        assert np.array_equal(mine.starts, theirs.starts)
        assert np.array_equal(mine.rows, theirs.rows)


@pytest.mark.parametrize(
    ("starts", "number", "allowed"),
    [
        ([["model.embed_tokens.weight", 1]], 0, "first entry of the first tensor"),
        ([["model.embed_tokens.weight", 0], ["model.embed_tokens.weight", 28]], 1, "an entry from 0 to 27"),
        ([["model.embed_tokens.weight", 0], ["model.embed_token.weight", 0]], 1, "a tensor of this chromosome"),
        ([["model.embed_tokens.weight", 0], ["lm_head.weight", 3], ["model.norm.weight", 0]], 2, "behind"),
        ([["model.embed_tokens.weight", 0], ["lm_head.weight", 3], ["lm_head.weight", 3]], 2, "behind"),
    ],
)
def test_a_start_out_of_place_is_refused_by_field(starts: list[Any], number: int, allowed: str) -> None:
    said = Segments.model_validate({"chromosomes": [{"starts": starts, "weights": {"a": [1.0] * len(starts)}}]})

    with pytest.raises(InvalidInputError, match=allowed) as caught:
        individual_of(said, chromosomes_of(said, ORDER), ["a"])
    assert caught.value.field == f"segments.chromosomes[0].starts[{number}]"
