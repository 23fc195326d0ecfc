from __future__ import annotations

from typing import Any

import pytest

from evomerge.errors import InvalidInputError
from evomerge.models.architecture import Architecture
from evomerge.recipe.schema import role_matches
from search_spaces.groups import Group, covers, make_groups


def holds(group: Group, role: str, layer: int | None) -> bool:
    """Whether the group's rules match a tensor, as a recipe reads them."""
    return any(
        role_matches(role, roles) and (layers is None or (layer is not None and layers[0] <= layer <= layers[1]))
        for layers, roles in group.selectors
    )


ROLES = [None, [["*"]], [["attention"], ["mlp", "norm"], ["*"]], [["attention.q", "*"], ["mlp.down", "norm.final"]]]


@pytest.mark.parametrize("layers", range(1, 11))
@pytest.mark.parametrize("roles", ROLES)
def test_groups_are_a_partition_of_the_model(
    architecture: Architecture, layers: int, roles: list[list[str]] | None
) -> None:
    groups = make_groups(layers, roles, architecture)

    for part in architecture.parts.values():
        assert sum(holds(group, part.role, part.layer) for group in groups) == 1, part
    assert covers(groups, architecture)
    assert len({group.label for group in groups}) == len(groups)


@pytest.mark.parametrize("layers", range(1, 11))
def test_groups_of_layers_are_as_equal_as_can_be(architecture: Architecture, layers: int) -> None:
    spans = [group.layers or (0, 9) for group in make_groups(layers, None, architecture)]
    sizes = [last - first + 1 for first, last in spans]

    assert len(spans) == layers
    assert max(sizes) - min(sizes) <= 1


def test_the_ends_of_the_model_go_with_the_first_and_last_group(architecture: Architecture) -> None:
    first, middle, last = make_groups([(0, 2), (3, 6), (7, 9)], None, architecture)

    assert holds(first, "embedding", None)
    assert holds(last, "head", None)
    assert holds(last, "norm.final", None)
    assert middle.selectors == (((3, 6), ()),)


def test_a_group_outside_the_layers_is_one_group_however_many_layer_groups(architecture: Architecture) -> None:
    groups = make_groups(3, [["embedding"], ["head"]], architecture)

    assert [(group.label, group.inside) for group in groups] == [("embedding", False), ("head", False)]


def test_what_no_group_names_is_not_covered(architecture: Architecture) -> None:
    assert not covers(make_groups([(4, 6)], None, architecture), architecture)
    assert not covers(make_groups(1, [["mlp"]], architecture), architecture)


def test_a_tied_head_is_no_part_of_any_group(tied_architecture: Architecture) -> None:
    with pytest.raises(InvalidInputError, match="expected a role of this model"):
        make_groups(1, [["head"]], tied_architecture)
    assert make_groups(2, None, tied_architecture)[1].selectors == (((5, 9), ()), (None, ("norm.final",)))


def test_the_rest_is_named_by_prefixes_where_these_are_whole(architecture: Architecture) -> None:
    (rest,) = make_groups(1, [["*"]], architecture)
    most = make_groups(1, [["attention.q"], ["*"]], architecture)[1]

    assert rest.roles == ("attention", "embedding", "head", "mlp", "norm")
    assert most.roles == ("attention.k", "attention.o", "attention.v", "embedding", "head", "mlp", "norm")


@pytest.mark.parametrize(
    ("layers", "roles", "field"),
    [
        (0, None, "layers"),
        (11, None, "layers"),
        ([], None, "layers"),
        ([(0, 3), (3, 5)], None, "layers[1]"),
        ([(5, 3)], None, "layers[0]"),
        ([(0, 10)], None, "layers[0]"),
        ([(-1, 2)], None, "layers[0]"),
        (1, [], "roles"),
        (1, [["attention"], []], "roles[1]"),
        (1, [["attn"]], "roles[0]"),
        (1, [["attention"], ["attention.q"]], "roles[1]"),
        (1, [["*"], ["*"]], "roles"),
        (1, [["*"], ["attention", "embedding", "head", "mlp", "norm"]], "roles[0]"),
    ],
)
def test_impossible_groups_are_refused_by_field(
    architecture: Architecture, layers: Any, roles: Any, field: str
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        make_groups(layers, roles, architecture)

    assert caught.value.field == field
