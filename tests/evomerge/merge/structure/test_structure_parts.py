"""Groups, merged experts, saliencies and similarities against the authors' own code and against their formulas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge.align.groups import Axis
from evomerge.merge.align.matching import assign, measure
from evomerge.merge.structure.combining import aligned, average, joint_svd
from evomerge.merge.structure.compress import Settings, grouped
from evomerge.merge.structure.grouping import Group, around_cores, cores_per_layer, groups_of, hierarchical, kmeans
from evomerge.merge.structure.layers import fused_shares
from evomerge.merge.structure.similarity import diffusion_map, embed, mutual_information, similarities
from evomerge.merge.structure.usage import Usage, _Watch

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[3] / "golden" / "structure" / "numbers.json").read_text())


def golden(name: str) -> Tensor:
    return torch.tensor(GOLDEN[name])


def usage(routed: list[float], **known: Tensor) -> Usage:
    count = len(routed)
    empty = torch.zeros(count, count, dtype=torch.float64)
    fields = {"outputs": empty, "cosines": empty, "logits": empty, "saliency": torch.zeros(count)} | known
    return Usage(torch.tensor(routed, dtype=torch.float64), **fields)


def stack(seed: int, experts: int = 4, hidden: int = 5, units: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"gate": (units, hidden), "up": (units, hidden), "down": (hidden, units)}
    return {name: torch.randn(experts, *shape, generator=generator) for name, shape in shapes.items()}


def output(matrices: dict[str, Tensor], x: Tensor) -> Tensor:
    return (torch.nn.functional.silu(x @ matrices["gate"].T) * (x @ matrices["up"].T)) @ matrices["down"].T


@pytest.mark.proves("hc_smoe", by="golden")
@pytest.mark.parametrize("number", [3, 5])
def test_hierarchical_groups_are_the_authors(number: int) -> None:
    labels = hierarchical(golden("features"), number, "average")

    assert [g.members for g in groups_of(labels, torch.ones(10))] == [
        g.members for g in groups_of(golden(f"hierarchical/average/{number}"), torch.ones(10))
    ]


@pytest.mark.parametrize("linkage", ["average", "complete", "single"])
@pytest.mark.parametrize("number", [1, 2, 7])
def test_any_linkage_gives_the_wanted_number_of_groups(linkage: str, number: int) -> None:
    features = torch.randn(7, 3, generator=torch.Generator().manual_seed(1))
    features[3] = features[5]

    assert len(set(hierarchical(features, number, linkage).tolist())) == number


@pytest.mark.proves("hc_smoe", by="property")
def test_a_group_is_averaged_by_how_often_its_members_are_used() -> None:
    experts = stack(0)
    (group,) = groups_of(torch.zeros(4), torch.tensor([1.0, 0.0, 2.0, 5.0]))

    assert group.core == 3
    for name, matrix in experts.items():
        expected = (matrix[0] + 2 * matrix[2] + 5 * matrix[3]) / 8
        torch.testing.assert_close(average(experts, group)[name], expected)
    unused = groups_of(torch.zeros(4), torch.zeros(4))[0]
    assert unused.shares == (0.25,) * 4


@pytest.mark.proves("sub_moe", by="golden")
def test_the_joint_svd_is_the_authors() -> None:
    experts = dict.fromkeys(("gate", "up", "down"), golden("experts"))
    merged = joint_svd(experts, Group((0, 1, 2), 0, tuple(GOLDEN["shares"])), 1.0)

    torch.testing.assert_close(merged["up"], golden("joint_svd"), rtol=1e-4, atol=1e-5)


@pytest.mark.proves("sub_moe", by="property")
def test_untruncated_joint_svd_is_the_mean_by_use() -> None:
    experts, group = stack(1), Group((0, 2, 3), 2, (0.2, 0.7, 0.1))

    for name, matrix in joint_svd(experts, group, 1.0).items():
        torch.testing.assert_close(matrix, average(experts, group)[name], rtol=1e-5, atol=1e-5)
        truncated = joint_svd(experts, group, 0.3)[name]
        assert int(torch.linalg.matrix_rank(truncated)) == 2
        assert not truncated.allclose(matrix, atol=1e-2)


def test_kmeans_finds_planted_groups_and_leaves_none_empty() -> None:
    centres = 5 * torch.eye(3)[[0, 1, 2, 0, 1, 2, 2]]
    rows = centres + 0.1 * torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    labels = kmeans(rows, 3, seed=0)

    assert [g.members for g in groups_of(labels, torch.ones(7))] == [(0, 3), (1, 4), (2, 5, 6)]
    assert kmeans(rows, 3, seed=0).equal(labels)
    assert len(set(kmeans(torch.ones(5, 5), 3, seed=1).tolist())) == 3


@pytest.mark.proves("m_smoe", by="golden")
def test_hidden_units_are_matched_as_the_authors_do() -> None:
    units = torch.arange(6).view(6, 1, 1)
    pairs = [
        (torch.tensor(other), torch.tensor(core), Axis(name, axis, units, produces=axis == 0))
        for name, axis, core, other in zip("io", (0, 1), GOLDEN["core"], GOLDEN["other"], strict=True)
    ]

    assert assign(measure("product", 6, 1, pairs), maximize=True).units.tolist() == GOLDEN["permutation"]


@pytest.mark.proves("m_smoe", by="property")
def test_experts_that_differ_by_the_order_of_units_merge_without_a_change() -> None:
    experts = stack(2)
    for expert in (1, 2, 3):
        order = torch.randperm(6, generator=torch.Generator().manual_seed(expert))
        experts["gate"][expert], experts["up"][expert] = experts["gate"][0][order], experts["up"][0][order]
        experts["down"][expert] = experts["down"][0][:, order]
    group = Group((0, 1, 2, 3), 1, (0.4, 0.3, 0.2, 0.1))
    x = torch.randn(9, 5, generator=torch.Generator().manual_seed(9))
    wanted = output({name: matrix[0] for name, matrix in experts.items()}, x)

    torch.testing.assert_close(output(aligned(experts, group), x), wanted)
    assert not output(average(experts, group), x).allclose(wanted, atol=1e-2)


@pytest.mark.proves("m_smoe", by="property")
def test_each_expert_goes_to_the_core_that_it_is_most_similar_to_by_its_own_number() -> None:
    """Not by its rank among the experts sorted by use, as the public code's layer-wise grouping does."""
    similarity = torch.eye(5, dtype=torch.float64)
    for i, j, value in ((0, 3, 0.9), (0, 1, 0.2), (2, 3, 0.1), (2, 1, 0.8), (4, 3, 0.7), (4, 1, 0.3)):
        similarity[i, j] = similarity[j, i] = value
    groups = around_cores(similarity, torch.tensor([1.0, 9.0, 2.0, 8.0, 0.0]), 2)

    assert [(g.members, g.core) for g in groups] == [((0, 3, 4), 3), ((1, 2), 1)]
    assert groups[0].shares == pytest.approx((1 / 9, 8 / 9, 0.0))


@pytest.mark.proves("m_smoe", by="property")
def test_a_core_stays_with_itself_even_where_another_is_as_similar() -> None:
    groups = around_cores(torch.ones(3, 3, dtype=torch.float64), torch.tensor([3.0, 2.0, 1.0]), 2)

    assert [(g.members, g.core) for g in groups] == [((0, 2), 0), ((1,), 1)]


def test_one_threshold_for_the_model_leaves_every_layer_a_core() -> None:
    busy, lazy = torch.tensor([50.0, 50.0, 0.0, 0.0]), torch.tensor([97.0, 1.0, 1.0, 1.0])

    assert cores_per_layer({0: busy, 1: lazy}, 2) == {0: 2, 1: 2}
    assert cores_per_layer({0: busy, 1: lazy}, 1) == {0: 1, 1: 1}
    even = torch.full((4,), 25.0)
    assert cores_per_layer({0: even, 1: lazy}, 2) == {0: 3, 1: 1}


@pytest.mark.proves("reap", by="golden")
@pytest.mark.parametrize("renormalise", [True, False])
def test_saliency_and_use_are_the_authors(renormalise: bool) -> None:
    outputs, logits = golden("outputs"), golden("logits")
    watch = _Watch(lambda x, index, weights: outputs[index[0, 0], : len(x)], 5, renormalise=renormalise)
    watch(None, [torch.zeros(40, 6)], (logits, None, logits.topk(2, dim=1).indices))
    found = watch.usage()

    torch.testing.assert_close(found.saliency.float(), golden(f"saliency/{renormalise}"))
    assert found.routed.tolist() == GOLDEN["frequency"]
    torch.testing.assert_close(found.outputs, outputs.double().mean(1))
    unit = torch.nn.functional.normalize(outputs.double(), dim=2)
    torch.testing.assert_close(found.cosines[1, 3], (unit[1] * unit[3]).sum(1).mean())
    torch.testing.assert_close(found.logits[1, 3], torch.cosine_similarity(logits[:, 1], logits[:, 3], dim=0).double())


@pytest.mark.proves("reap", by="property")
def test_the_least_salient_experts_are_dropped() -> None:
    salient = torch.tensor([0.5, 0.0, 3.0, 0.4], dtype=torch.float64)
    groups = grouped({7: usage([9, 0, 1, 90], saliency=salient)}, 2, Settings("reap"))

    assert [g.members for g in groups[7]] == [(0,), (2,)]


@pytest.mark.proves("mka", by="golden")
def test_layer_similarities_are_those_of_the_authors_code() -> None:
    states = [np.array(s) for s in GOLDEN["states"]]
    for found, wanted in zip(map(diffusion_map, states), GOLDEN["maps"], strict=True):
        signs = np.sign((found * np.array(wanted)).sum(0))  # a singular vector's sign is free
        np.testing.assert_allclose(found * signs, wanted, atol=2e-4)
    ranks = [np.argsort(np.argsort(np.array(m), axis=0), axis=0) / 60 for m in GOLDEN["maps"]]

    maps = [np.array(m) for m in GOLDEN["maps"]]
    np.testing.assert_allclose(similarities(maps), GOLDEN["similarity/maps"], rtol=1e-5)
    np.testing.assert_allclose(similarities(ranks), GOLDEN["similarity"], rtol=0.05)  # random noise breaks their ties
    assert embed(states[0]).shape == (60, 2)


@pytest.mark.proves("mka", by="golden")
def test_layers_are_fused_in_the_authors_ratio() -> None:
    first, second = GOLDEN["ratios"]

    assert fused_shares(np.array(GOLDEN["similarity"]), 1, 1.0) == pytest.approx([first, 1 - first])
    both = [second, (1 - second) * first, (1 - second) * (1 - first)]
    assert fused_shares(np.array(GOLDEN["similarity"]), 2, 1.0) == pytest.approx(both)
    assert fused_shares(np.array(GOLDEN["similarity"]), 1, 0.0) == [0.5, 0.5]


def test_mutual_information_is_that_of_a_bivariate_normal() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=4000)
    y = 0.8 * x + 0.6 * random.normal(size=4000)

    assert mutual_information(x, y) == pytest.approx(-0.5 * np.log(1 - 0.64), abs=0.04)
    assert mutual_information(x, random.normal(size=4000)) < 0.03


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("method", "dern"), ("keep", 0.0), ("keep", 1.5), ("router", "none"), ("linkage", "ward"), ("rank", 0.0),
        ("scope", "all"), ("shares", "equal"), ("layers", 0), ("number", 0),
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(field: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=field):
        Settings(**{"method": "hc_smoe", field: value})


def test_feature_merging_is_refused_where_it_does_not_keep_the_function() -> None:
    with pytest.raises(InvalidInputError, match="SwiGLU or GELU"):
        Settings("ifm")


def test_pruning_leaves_no_row_for_a_dropped_expert() -> None:
    with pytest.raises(InvalidInputError, match="core for reap"):
        Settings("reap", router="shared")
