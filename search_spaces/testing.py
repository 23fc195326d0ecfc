"""What every search space must do, as tests to inherit: subclass `SearchSpaceContract`, supply the fixture `space`."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evomerge.candidate import Genome
from evomerge.errors import InvalidInputError
from search_spaces.space import SearchSpace

_inherited = settings(
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.function_scoped_fixture],
    deadline=None,
    max_examples=20,
)


def genomes(dim: int) -> st.SearchStrategy[Genome]:
    """Genomes as optimizers propose them, the bounds and a little beyond included."""
    gene = st.floats(0, 1) | st.sampled_from([0.0, 1.0, 0.5, -0.25, 1.5, 1e-12])
    return st.lists(gene, min_size=dim, max_size=dim).map(tuple)


def _choice(gene: float, number: int) -> int:
    return min(max(int(gene * number), 0), number - 1)


class SearchSpaceContract(ABC):
    """A search space is a pure, lossless and honest map from genomes to recipes."""

    @pytest.fixture
    @abstractmethod
    def space(self) -> SearchSpace:
        """The space under test."""

    @_inherited
    @given(data=st.data())
    def test_encoding_a_recipe_gives_the_repaired_genome(self, space: SearchSpace, data: st.DataObject) -> None:
        genome = data.draw(genomes(space.dim))

        assert space.encode(space.recipe(genome)) == space.repair(genome)

    @_inherited
    @given(data=st.data())
    def test_decoding_what_was_encoded_gives_the_recipe(self, space: SearchSpace, data: st.DataObject) -> None:
        recipe = space.recipe(data.draw(genomes(space.dim)))

        assert space.recipe(space.encode(recipe)) == recipe

    @_inherited
    @given(data=st.data())
    def test_repair_is_idempotent_and_stays_in_the_cube(self, space: SearchSpace, data: st.DataObject) -> None:
        repaired = space.repair(data.draw(genomes(space.dim)))

        assert space.repair(repaired) == repaired
        assert all(0 <= gene <= 1 for gene in repaired)

    @_inherited
    @given(data=st.data())
    def test_a_genome_and_its_repair_are_one_recipe(self, space: SearchSpace, data: st.DataObject) -> None:
        genome = data.draw(genomes(space.dim))

        assert space.recipe(space.repair(genome)).digest == space.recipe(genome).digest

    def test_there_are_as_many_names_and_start_genes_as_dimensions(self, space: SearchSpace) -> None:
        assert len(set(space.names)) == len(space.names) == len(space.domain.start) == space.dim > 0

    @_inherited
    @given(data=st.data())
    def test_a_choice_has_a_share_of_the_range_and_stands_in_its_middle(
        self, space: SearchSpace, data: st.DataObject
    ) -> None:
        kinds = space.domain.kinds
        genome = data.draw(genomes(space.dim))
        middle = tuple(
            gene if k.choices is None else (_choice(gene, k.choices) + 0.5) / k.choices
            for gene, k in zip(genome, kinds, strict=True)
        )
        repaired = space.repair(genome)

        assert space.recipe(middle) == space.recipe(genome)
        assert all(
            k.choices is None or gene == (_choice(gene, k.choices) + 0.5) / k.choices
            for gene, k in zip(repaired, kinds, strict=True)
        )

    @_inherited
    @given(data=st.data())
    def test_a_gene_behind_a_closed_gate_changes_nothing(self, space: SearchSpace, data: st.DataObject) -> None:
        kinds, start = space.domain.kinds, space.domain.start
        genome = data.draw(genomes(space.dim))
        hidden = [k.gate is not None and genome[k.gate] < 0.5 for k in kinds]
        plain = tuple(s if off else gene for off, s, gene in zip(hidden, start, genome, strict=True))

        assert space.recipe(plain).digest == space.recipe(genome).digest

    def test_gates_are_genes_with_two_choices(self, space: SearchSpace) -> None:
        kinds = space.domain.kinds

        assert len(kinds) == space.dim
        assert all(k.gate is None or kinds[k.gate].choices == 2 for k in kinds)

    def test_seeds_are_legal_and_none_is_the_start(self, space: SearchSpace) -> None:
        domain = space.domain

        assert [space.repair(seed) for seed in domain.seeds] == list(domain.seeds)
        assert len({domain.start, *domain.seeds}) == 1 + len(domain.seeds)

    def test_the_start_is_legal(self, space: SearchSpace) -> None:
        assert space.repair(space.domain.start) == space.domain.start

    def test_the_description_is_json_and_covers_every_gene(self, space: SearchSpace) -> None:
        description = json.loads(json.dumps(space.describe(), allow_nan=False))

        assert description["dim"] == space.dim
        assert [gene["name"] for gene in description["genes"]] == list(space.names)

    @pytest.mark.parametrize("gene", [math.nan, math.inf])
    def test_a_genome_that_is_not_finite_is_refused(self, space: SearchSpace, gene: float) -> None:
        with pytest.raises(InvalidInputError, match="finite"):
            space.recipe((gene, *space.domain.start[1:]))

    def test_a_genome_of_another_length_is_refused(self, space: SearchSpace) -> None:
        with pytest.raises(InvalidInputError, match=f"expected {space.dim} genes"):
            space.recipe((*space.domain.start, 0.5))

    def test_the_nearest_genome_of_an_own_recipe_is_its_own(self, space: SearchSpace) -> None:
        assert space.nearest(space.recipe(space.domain.start)) == space.domain.start

    def test_a_recipe_of_another_method_is_refused_by_field(self, space: SearchSpace) -> None:
        recipe = space.recipe(space.domain.start)
        other = recipe.model_copy(update={"merge": recipe.merge.model_copy(update={"method": "another"})})

        with pytest.raises(InvalidInputError) as caught:
            space.encode(other)
        assert caught.value.field == "recipe.merge.method"
