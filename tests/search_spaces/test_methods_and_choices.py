"""Genes that are no weights: which method, choice or order; and genes that several sources or groups share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evomerge.candidate import Evaluation, Genome
from evomerge.errors import InvalidInputError
from evomerge.merge.methods import METHODS
from evomerge.merge.parameters import check
from evomerge.optimizers import make as make_optimizer
from evomerge.optimizers.domain import GeneKind, Problem
from evomerge.recipe.written import read, written
from search_spaces import SearchSpace

METHODS_SPEC = {
    "methods": ["ties", "dare_ties", "linear"],
    "density": [0.1, 1],
    "search": {"election": ["mass", "count"], "lambda": None},
}
MIXED = {
    "methods": ["ties", "cabs", "linear"],
    "order": True,
    "tie": [["a", "b"]],
    "search": {"density": None, "group": [32, 64, 128], "election": None, "normalize": [True, False]},
}


def changed(space: SearchSpace, **values: float) -> Genome:
    """The start with other genes, `/` and blanks in names as `_`."""
    names = [name.replace("/", "_").replace(" ", "_") for name in space.names]
    assert set(values) <= set(names)
    return tuple(values.get(name, gene) for name, gene in zip(names, space.domain.start, strict=True))


def kinds(space: SearchSpace) -> dict[str, GeneKind]:
    return dict(zip(space.names, space.domain.kinds, strict=True))


def test_one_gene_picks_the_method_and_methods_share_what_has_one_name(make: Any) -> None:
    space = make(METHODS_SPEC, "ab")
    recipes = [space.recipe(changed(space, method=place)) for place in (1 / 6, 0.5, 5 / 6)]

    assert space.names[0] == "method"
    assert sorted(space.names[1:]) == ["density/a", "density/b", "election", "lambda", "weight/a", "weight/b"]
    assert kinds(space)["method"] == GeneKind(choices=3, group="method")
    assert kinds(space)["election"] == GeneKind(choices=2, group="election")
    assert kinds(space)["density/a"] == GeneKind(group="density", source="a", span=(0.1, 1.0))
    assert [recipe.merge.method for recipe in recipes] == ["ties", "dare_ties", "linear"]
    assert [recipe.merge.sources["a"] for recipe in recipes] == [
        {"weight": 0.5, "density": 0.2},
        {"weight": 0.5, "density": 0.2},
        {"weight": 0.5},
    ]
    assert [set(recipe.merge.parameters) for recipe in recipes] == [{"election", "lambda"}] * 2 + [set()]
    for recipe in recipes:
        check(METHODS[recipe.merge.method], recipe.merge)


def test_a_gene_that_the_method_does_not_read_changes_nothing(make: Any) -> None:
    space = make(METHODS_SPEC, "ab")
    plain = changed(space, method=5 / 6)
    other = changed(space, method=5 / 6, density_a=0.9, election=0.75, **{"lambda": 0.1})

    assert space.recipe(other).digest == space.recipe(plain).digest
    assert space.repair(other) == space.repair(plain) == plain
    heavier = changed(space, method=5 / 6, weight_a=0.9)
    assert space.recipe(heavier).digest != space.recipe(plain).digest


def test_ranges_of_a_shared_gene_are_those_that_all_its_methods_declare(make: Any) -> None:
    genes = {g["name"]: g for g in make({"methods": ["nuslerp", "linear"]}, "ab").describe()["genes"]}

    assert (genes["weight/a"]["low"], genes["weight/a"]["high"]) == (0.0, 1.0)
    assert genes["method"]["choices"] == ["nuslerp", "linear"]
    assert make({"methods": ["nuslerp", "linear"]}, "ab").describe()["methods"] == ["nuslerp", "linear"]


def test_the_nearest_genome_of_a_foreign_recipe_has_its_method_and_choices(make: Any) -> None:
    space = make(METHODS_SPEC, "ab")
    recipe = make({"method": "dare_ties", "layers": 2, "fixed": {"election": "count"}}, "ab")
    genome = space.nearest(recipe.recipe((0.2, 0.9, 0.2, 0.9)))
    values = dict(zip(space.names, space.values(genome), strict=True))

    assert (values["method"], values["election"]) == ("dare_ties", "count")
    assert (values["weight/a"], values["weight/b"]) == (pytest.approx(-0.1), pytest.approx(1.3))
    with pytest.raises(InvalidInputError, match="'ties' or 'dare_ties' or 'linear' in this search space"):
        space.nearest(make({"method": "della"}, "ab").recipe((0.5, 0.5)))


def test_equal_orders_are_equal_recipes(make: Any) -> None:
    space = make({"method": "wma", "order": True}, "abc")
    keys: list[Genome] = [(0.9, 0.1, 0.5), (0.8, 0.0, 0.3), (1.0, 0.2, 0.2001)]

    assert len({space.recipe(genome).digest for genome in keys}) == 1
    assert space.recipe(keys[0]).merge.sources == {"a": {"order": 2.0}, "b": {"order": 0.0}, "c": {"order": 1.0}}
    assert space.repair(keys[0]) == (5 / 6, 1 / 6, 0.5)
    assert space.domain.real
    assert space.values(space.domain.start) == (0.0, 1.0, 2.0)
    orders = {tuple(space.values((a, b, c))) for a in (0.1, 0.5) for b in (0.2, 0.6) for c in (0.3, 0.05)}
    assert len(orders) >= 5


def test_the_nearest_order_is_that_of_a_recipe_whatever_its_numbers(make: Any) -> None:
    space = make({"method": "wma", "order": True}, "abc")
    fixed = {"a": {"order": 7}, "b": {"order": -3}, "c": {"order": 0.5}}
    foreign = make({"method": "ema", "fixed_sources": fixed, "search": {"alpha": None}}, "abc").recipe((0.5,))
    renamed = foreign.model_copy(update={"merge": foreign.merge.model_copy(update={"method": "wma", "parameters": {}})})

    assert space.values(space.nearest(renamed)) == (2.0, 0.0, 1.0)


def test_ranks_that_are_no_order_are_refused(make: Any) -> None:
    space = make({"method": "wma", "order": True}, "ab")
    recipe = space.recipe(space.domain.start)
    twice = recipe.merge.model_copy(update={"sources": {"a": {"order": 1.0}, "b": {"order": 1.0}}})

    with pytest.raises(InvalidInputError, match=r"recipe\.merge\.sources\.a\.order"):
        space.encode(recipe.model_copy(update={"merge": twice}))


def test_tied_sources_and_groups_share_a_gene(make: Any) -> None:
    spec = {"layers": 2, "weight": [0, 1], "tie": [["a", "c"], ["layers 0-4", "layers 5-9"]]}
    space = make(spec, "abc")
    sources = space.recipe((0.25, 0.75)).merge.rules

    assert space.names == ("weight/a+c/layers 0-4 and layers 5-9", "weight/b/layers 0-4 and layers 5-9")
    assert {(rule.source, rule.parameters["weight"]) for rule in sources} == {("a", 0.25), ("c", 0.25), ("b", 0.75)}
    assert make({"tie": "sources"}, "abc").names == ("weight/a+b+c",)
    gene = make({"tie": "sources"}, "abc").describe()["genes"][0]
    assert (gene["source"], gene["sources"]) == (None, ["a", "b", "c"])


def test_weights_may_be_a_few_values_instead_of_a_range(make: Any) -> None:
    spec = {"search": {"weight": [0, 0.5, 1]}, "tie": [["b", "c"]]}
    space = make(spec, "abc")

    assert space.values(space.domain.start) == (0.5, 0.5)
    assert space.values((0.9, 0.1)) == (1.0, 0.0)
    assert kinds(space)["weight/b+c"] == GeneKind(choices=3, ordered=True, group="weight")
    with pytest.raises(InvalidInputError, match=r"'weight' once"):
        make(spec | {"weight": [0, 1]}, "abc")


def test_whole_numbers_are_choices_while_they_are_few(make: Any) -> None:
    few = make({"method": "karcher", "search": {"max_iter": None}}, "ab")
    many = make({"method": "cabs", "search": {"group": None}}, "ab")
    group = many.names.index("group")

    assert kinds(few)["max_iter"] == GeneKind(choices=20, ordered=True, group="max_iter")
    assert kinds(many)["group"].choices is None
    for share in (0.0, 0.123, 0.5, 0.77, 1.0):
        genome = tuple(share if i == group else g for i, g in enumerate(many.domain.start))
        assert float(str(many.values(genome)[group])).is_integer()


@pytest.mark.parametrize("name", ["random", "catcma", "nsga2", "nsga3", "m2n2", "auto"])
def test_optimizers_of_mixed_genes_search_all_of_it(make: Any, name: str) -> None:
    space = make(MIXED, "abc")
    number = 3 if name == "nsga3" else 1
    optimizer = make_optimizer(name, Problem(space.domain, number, 60), seed=1)
    methods = set()
    for _ in range(6):
        proposals = optimizer.ask(8)
        for proposal in proposals:
            recipe = space.recipe(proposal.genome)
            check(METHODS[recipe.merge.method], recipe.merge)
            methods.add(recipe.merge.method)
            assert space.recipe(space.encode(recipe)).digest == recipe.digest
        optimizer.tell([Evaluation(p.trial, (sum(p.genome),) * number) for p in proposals])

    assert methods == {"ties", "cabs", "linear"}


@pytest.mark.parametrize("spec", [METHODS_SPEC, MIXED])
def test_what_is_made_of_choices_and_orders_is_the_recipe(make: Any, spec: Any) -> None:
    space = make(spec, "abc" if "order" in spec else "ab")
    rng = np.random.default_rng(0)
    for genome in rng.random((30, space.dim)).tolist():
        document, digest = space.made(tuple(genome))
        recipe = space.recipe(tuple(genome))

        assert (document, digest) == (written(recipe), recipe.digest)
        assert read(document) == recipe
