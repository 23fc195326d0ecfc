"""Merges in the space of LoRA factors: the authors' numbers, formulas restated in NumPy, and laws."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge.method import Method
from evomerge.merge.methods import METHODS, pipeline
from evomerge.merge.primitives import joint
from evomerge.merge.primitives.lora import clustered, core_space, k_means, keep_largest
from evomerge.models.factors import Factors, concatenated
from evomerge.testing.merging import MethodContract, Tensors, merge_tensor, merge_tensors

GOLDEN = Path(__file__).parents[2] / "golden" / "lora"
Array = NDArray[np.float64]


def random_factors(seed: int, rank: int = 4, into: int = 24, out: int = 17) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    return Factors(torch.randn(rank, into, generator=generator), torch.randn(out, rank, generator=generator))


def three(**sizes: int) -> dict[str, Factors]:
    return {name: random_factors(seed, **sizes) for seed, name in enumerate("abc")}


def merge(method: Method, factors: Mapping[str, Factors], seed: int = 0, **parameters: Any) -> Tensor:
    """The merged task vector, from a base of zeros."""
    base = torch.zeros(next(iter(factors.values())).shape)
    return merge_tensors(method, {"w": base}, {}, factors={"w": factors}, seed=seed, **parameters)["w"]


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN / "merges.safetensors")


@pytest.fixture(scope="module")
def published(golden: dict[str, Tensor]) -> dict[str, Factors]:
    return {s: Factors(golden[f"{s}/A"], golden[f"{s}/B"]) for s in "abc"}


class FactorContract(MethodContract):
    """The general laws, with task vectors as factors of full rank: balanced, so that δ = 0 is zero factors."""

    def merge(self, base: Tensors, models: Mapping[str, Tensors], seed: int = 3) -> dict[str, Tensor]:
        factors = {s: self.factors(base["matrix"], m["matrix"]) for s, m in models.items() if "matrix" in m}
        roles = {"matrix": "mlp.up", "embedding": "embedding", "norm": "norm.mlp"}
        return merge_tensors(
            self.method, base, models, roles=roles, seed=seed, factors={"matrix": factors}, **self.parameters
        )

    @staticmethod
    def factors(base: Tensor, model: Tensor) -> Factors:
        U, S, V = torch.linalg.svd((model - base).double(), full_matrices=False)
        root = S.sqrt()
        return Factors((root[:, None] * V).float(), (U * root).float())


class TestLoraMean(FactorContract):
    method = METHODS["lora_mean"]


class TestCopa(FactorContract):
    method = METHODS["copa"]


class TestBlackBoxLora(FactorContract):
    method = METHODS["black_box_lora"]
    parameters: ClassVar = {"keep": 0.6}


class TestMos(FactorContract):
    method = METHODS["mos"]


class TestLego(FactorContract):
    method = METHODS["lego"]


class TestJointDiagonal(FactorContract):
    method = METHODS["joint_diagonal"]
    parameters: ClassVar = {"rank": 5, "iterations": 200}


class TestJointDiagonalOfDiagonals(FactorContract):
    method = METHODS["joint_diagonal"]
    parameters: ClassVar = {"rank": 3, "form": "diagonal"}


class TestCoreTies(FactorContract):
    method = METHODS["core_ties"]


class TestCoreTsv(FactorContract):
    method = METHODS["core_tsv"]


class TestCoreDare(FactorContract):
    method = METHODS["core_dare"]


class TestTtmm(MethodContract):
    method = METHODS["ttmm"]
    parameters: ClassVar = {"similarity": {"a": 0.9, "b": 0.88, "c": 0.3}}
    orderless = False  # the similarities go with the names


# Means of factors


@pytest.mark.proves("lora_mean", by="property")
def test_the_mean_of_factors_is_not_the_mean_of_task_vectors() -> None:
    factors = three()
    merged = merge(METHODS["lora_mean"], factors)
    of_deltas = torch.stack([f.product() for f in factors.values()]).mean(0)
    A, B = (torch.stack([getattr(f, n) for f in factors.values()]).mean(0) for n in "AB")

    torch.testing.assert_close(merged, B @ A)
    assert float((merged - of_deltas).norm() / of_deltas.norm()) > 0.5


@pytest.mark.proves("lora_mean", by="property")
def test_a_weighted_mean_of_factors_weighs_both() -> None:
    factors = three()
    w = {"a": 1.0, "b": 3.0, "c": -0.5}
    merged = merge(METHODS["lora_mean"], factors, weight=w, **{"lambda": 0.5})
    A, B = (sum(np.float64(w[s]) / 3.5 * getattr(f, n).numpy() for s, f in factors.items()) for n in "AB")

    np.testing.assert_allclose(merged, 0.5 * (B @ A), rtol=1e-4, atol=1e-5)


def test_adapters_of_one_factor_a_have_one_mean() -> None:
    """Where A is shared, factors and task vectors have the same mean."""
    shared = torch.randn(4, 24, generator=torch.Generator().manual_seed(9))
    factors = {s: Factors(shared, f.B) for s, f in three().items()}
    expected = torch.stack([f.product() for f in factors.values()]).mean(0)

    torch.testing.assert_close(merge(METHODS["lora_mean"], factors), expected)


def test_ranks_that_differ_are_named_where_rows_belong_together() -> None:
    factors = {"a": random_factors(0), "b": random_factors(1, rank=2)}

    with pytest.raises(InvalidInputError, match=r"'a': 4, 'b': 2.*one rank at 'w' for lora_mean"):
        merge(METHODS["lora_mean"], factors)
    assert merge(METHODS["lego"], factors).isfinite().all()
    assert merge(METHODS["core_ties"], factors).isfinite().all()


@pytest.mark.proves("black_box_lora", by="golden")
def test_black_box_merge_is_the_authors(golden: dict[str, Tensor], published: dict[str, Factors]) -> None:
    merged = merge(
        METHODS["black_box_lora"],
        published,
        keep={"a": 0.5, "b": 1.0, "c": 0.13},
        weight={"a": 0.7, "b": -0.4, "c": 1.1},
        normalize=False,
    )

    torch.testing.assert_close(merged, golden["black_box/B"] @ golden["black_box/A"], rtol=1e-5, atol=1e-5)


@pytest.mark.proves("copa", by="golden")
def test_complementary_adaptation_is_the_authors(golden: dict[str, Tensor], published: dict[str, Factors]) -> None:
    expected = golden["copa/B"] @ golden["copa/A"]

    torch.testing.assert_close(merge(METHODS["copa"], published), expected, rtol=1e-5, atol=1e-5)


def test_a_row_of_which_nothing_is_left_does_no_harm() -> None:
    factors = three()
    factors["a"].A[1] = 1e-9  # pruned whole: its ratio would be infinite
    merged = merge(METHODS["copa"], factors)

    assert merged.isfinite().all()
    assert merge(METHODS["copa"], {s: Factors(f.A * 0, f.B * 0) for s, f in factors.items()}).abs().max() == 0


def test_the_largest_entries_are_kept_and_ties_with_them() -> None:
    matrix = torch.tensor([[3.0, -1.0], [1.0, -2.0]])

    assert keep_largest(matrix, 3).tolist() == [[3.0, -1.0], [1.0, -2.0]]
    assert keep_largest(matrix, 2).tolist() == [[3.0, 0.0], [0.0, -2.0]]
    assert keep_largest(matrix, 0).abs().max() == 0


@pytest.mark.proves("mos", by="property")
def test_every_adapter_moves_to_the_mean_of_the_moved_before_it() -> None:
    factors = three()
    order, m = {"a": 0.5, "b": 0.0, "c": 1.0}, 0.3
    merged = merge(METHODS["mos"], factors, momentum=m, order=order)
    moved: dict[str, list[Array]] = {"A": [], "B": []}
    for source in "bac":
        for n, before in moved.items():
            own = getattr(factors[source], n).double().numpy()
            before.append((1 - m) * own + m * np.mean(before, axis=0) if before else own)

    np.testing.assert_allclose(merged, moved["B"][-1] @ moved["A"][-1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(merged, merge(METHODS["mos"], factors, momentum=m))
    torch.testing.assert_close(merge(METHODS["mos"], factors, momentum=0.0), factors["c"].product())


# Core space


@pytest.mark.proves("core_ties", by="golden")
def test_core_space_is_the_authors(golden: dict[str, Tensor], published: dict[str, Factors]) -> None:
    core = core_space(published)

    for source, factors in published.items():
        torch.testing.assert_close(core.back(core.cores[source]), factors.product(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            core.back(core.cores[source]), golden[f"core/{source}"].float(), rtol=1e-4, atol=1e-5
        )
        singular = torch.linalg.svdvals(core.cores[source].double())
        torch.testing.assert_close(singular, golden[f"core_singular/{source}"], rtol=1e-5, atol=1e-5)


@pytest.mark.proves("core_ties", by="golden")
def test_ties_in_core_space_is_the_authors(golden: dict[str, Tensor], published: dict[str, Factors]) -> None:
    """Their trim of 10 % keeps 15 of 144 entries, one more than the share says: as many are asked for here."""
    merged = merge(METHODS["core_ties"], published, density=15 / 144)

    assert golden["core_ties_kept"].tolist() == [15, 15, 15]
    torch.testing.assert_close(merged, golden["core_ties"].float(), rtol=1e-4, atol=1e-4)


@pytest.mark.proves("core_tsv", by="golden")
def test_task_singular_vectors_in_core_space_are_the_authors(
    golden: dict[str, Tensor], published: dict[str, Factors]
) -> None:
    merged = merge(METHODS["core_tsv"], published)

    torch.testing.assert_close(merged, golden["core_tsv"].float(), rtol=1e-4, atol=1e-4)


@pytest.mark.proves("core_ties", "core_dare", by="property")
@pytest.mark.parametrize("weight", [1.0, {"a": 0.3, "b": -1.0, "c": 2.0}])
def test_a_linear_merge_is_the_same_in_core_space(weight: Any, published: dict[str, Factors]) -> None:
    linear = pipeline(("weigh", "sum"))
    base = torch.zeros(17, 24)
    full = merge_tensor(linear, base, {s: f.product() for s, f in published.items()}, weight=weight)
    core = merge(pipeline(("core", "weigh", "sum")), published, weight=weight)
    everything = merge(METHODS["core_dare"], published, weight=weight, density=1.0)

    torch.testing.assert_close(core, full, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(everything, full, rtol=1e-4, atol=1e-5)


@pytest.mark.proves("core_dare", by="property")
def test_dare_in_core_space_drops_entries_of_the_core_and_makes_up_for_them(published: dict[str, Factors]) -> None:
    factors = {"a": published["a"]}
    merged = merge(METHODS["core_dare"], factors, density=0.5)
    core = core_space(factors)

    entries = core.U.t() @ merged.double() @ core.V
    kept = entries.abs() > 1e-4
    assert 0 < int(kept.sum()) < kept.numel()
    torch.testing.assert_close(entries[kept], 2 * core.cores["a"].double()[kept], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(core.back(entries.float()), merged, rtol=1e-4, atol=1e-4)


def test_the_threshold_of_a_trim_counts_entries_of_the_core(published: dict[str, Factors]) -> None:
    """At half the density half of the 12 × 12 core is left, not of the 17 × 24 tensor."""
    core = core_space(published)
    merged = merge(pipeline(("core", "trim", "sum")), {"a": published["a"]} | {"b": published["b"]}, density=0.5)
    both = core_space({s: published[s] for s in "ab"})
    entries = both.U.T @ merged.double() @ both.V

    assert core.cores["a"].shape == (12, 12)
    assert 32 <= int((entries.abs() > 1e-5).sum()) <= 64


def test_a_stage_that_needs_factors_comes_first() -> None:
    with pytest.raises(InvalidInputError, match=r"merge\.pipeline\[1\].*'core'.*first"):
        pipeline(("weigh", "core", "sum"))


def test_a_basis_does_not_depend_on_the_signs_of_factors(published: dict[str, Factors]) -> None:
    """(−B)(−A) is the same task vector."""
    mirrored = {s: Factors(-f.A, -f.B) for s, f in published.items()}

    for name in ("core_ties", "core_dare", "joint_diagonal"):
        torch.testing.assert_close(
            merge(METHODS[name], mirrored), merge(METHODS[name], published), rtol=1e-4, atol=1e-4
        )


# LoRA-LEGO


def numpy_lego(groups: list[list[tuple[Array, Array]]], rank: float, reweight: bool) -> Array:
    """Centroids of given groups, restated: the mean of [a b], its ∞-norm that of the members on average, √(r/k)."""
    total = np.zeros((len(groups[0][0][1]), len(groups[0][0][0])))
    for members in groups:
        rows = np.stack([np.concatenate(unit) for unit in members])
        mean = rows.mean(axis=0)
        if reweight:
            mean = mean * np.abs(rows).max(axis=1).mean() / np.abs(mean).max()
        into = total.shape[1]
        total += np.outer(mean[into:], mean[:into])
    return total * math.sqrt(rank / len(groups)) if reweight else total


def planted(noise: float = 0.02) -> tuple[dict[str, Factors], list[list[tuple[Array, Array]]]]:
    """Two adapters of rank 3 whose units are pairwise alike, and the pairs."""
    random = np.random.default_rng(4)
    centres = [(random.normal(size=24), random.normal(size=17)) for _ in range(3)]
    groups: list[list[tuple[Array, Array]]] = [[], [], []]
    factors = {}
    for name in "ab":
        units = []
        for k in range(3):
            a, b = (part + noise * random.normal(size=len(part)) for part in centres[k])
            unit = (a / a[np.abs(a).argmax()] * np.abs(a).max(), b * np.sign(a[np.abs(a).argmax()]))
            groups[k].append(unit)
            units.append(unit)
        order = random.permutation(3)
        A, B = (np.stack([units[k][part] for k in order]) for part in (0, 1))
        factors[name] = Factors(torch.from_numpy(A).float(), torch.from_numpy(B.T.copy()).float())
    return factors, groups


@pytest.mark.proves("lego", by="property")
@pytest.mark.parametrize("reweight", [True, False])
def test_lego_finds_units_that_are_alike_and_averages_them(reweight: bool) -> None:
    factors, groups = planted()
    merged = merge(METHODS["lego"], factors, rank=3, reweight=reweight)

    np.testing.assert_allclose(merged, numpy_lego(groups, 3, reweight), rtol=1e-3, atol=1e-4)


@pytest.mark.proves("lego", by="property")
def test_lego_does_not_see_the_sign_of_a_unit_unless_it_is_told_to() -> None:
    factors, _ = planted()
    flip = torch.tensor([1.0, -1.0, -1.0])
    mirrored = {"a": factors["a"], "b": Factors(factors["b"].A * flip[:, None], factors["b"].B * flip)}

    same = merge(METHODS["lego"], factors, rank=3)
    torch.testing.assert_close(merge(METHODS["lego"], mirrored, rank=3), same)
    plain = merge(METHODS["lego"], factors, rank=3, canonical_signs=False)
    assert not torch.allclose(merge(METHODS["lego"], mirrored, rank=3, canonical_signs=False), plain, atol=1e-2)


def test_lego_with_a_cluster_for_every_unit_is_the_sum() -> None:
    factors = three()
    merged = merge(METHODS["lego"], factors, rank=12, reweight=False)

    torch.testing.assert_close(merged, concatenated(list(factors.values())).product(), rtol=1e-4, atol=1e-4)


def test_lego_depends_on_the_seed_and_on_nothing_else() -> None:
    factors = three(rank=6)
    first = merge(METHODS["lego"], factors, seed=1)
    torch.manual_seed(5)

    assert torch.equal(merge(METHODS["lego"], factors, seed=1), first)
    assert any(not torch.equal(merge(METHODS["lego"], factors, seed=s), first) for s in range(2, 6))


def test_k_means_of_separate_points_and_of_equal_ones() -> None:
    draws = torch.tensor([0.3, 0.5, 0.9], dtype=torch.float64)
    points = torch.tensor([[0.0], [0.1], [5.0], [5.1], [9.0]], dtype=torch.float64)
    labels = k_means(points, 3, draws, 10)

    assert labels[0] == labels[1]
    assert labels[2] == labels[3]
    assert len(labels.unique()) == 3
    assert len(k_means(torch.zeros(5, 2, dtype=torch.float64), 3, draws, 10)) == 5
    empty = clustered(
        [Factors(torch.zeros(2, 3), torch.zeros(4, 2))], 2, draws, iterations=3, canonical=True, reweight=True
    )
    assert empty.product().shape == (4, 3)


# Joint diagonalisation


@pytest.mark.proves("joint_diagonal", by="property")
@pytest.mark.parametrize("solve", [joint.full, joint.diagonal])
def test_the_error_of_a_joint_diagonalisation_never_grows(solve: Any) -> None:
    M = torch.randn(5, 9, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = solve(M, 3, 30)
    errors = np.array(found.errors)

    assert (np.diff(errors) <= 1e-9 * errors[0]).all()
    assert errors[-1] < 0.95 * errors[0] or solve is joint.full
    expected = (M - found.U @ found.cores @ found.V.T).square().sum()
    assert errors[-1] == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.proves("joint_diagonal", by="property")
def test_full_cores_of_all_components_are_task_arithmetic() -> None:
    factors = three()
    w = {"a": 0.5, "b": -1.0, "c": 2.0}
    merged = merge(METHODS["joint_diagonal"], factors, weight=w, rank=12)
    expected = concatenated([f.scaled(w[s]) for s, f in factors.items()]).product()

    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.proves("joint_diagonal", by="property")
def test_adapters_that_share_their_factors_are_found_with_few_components() -> None:
    random = np.random.default_rng(1)
    A, B = random.normal(size=(4, 24)), random.normal(size=(17, 4))
    diagonals = random.normal(size=(3, 4))
    full = {s: random.normal(size=(4, 4)) for s in "abc"}
    of_diagonals = {
        s: Factors(torch.tensor(A).float(), torch.tensor(B * diagonals[k]).float()) for k, s in enumerate("abc")
    }
    of_cores = {s: Factors(torch.tensor(full[s] @ A).float(), torch.tensor(B).float()) for s in "abc"}

    for factors, form, iterations in (
        (of_diagonals, "diagonal", 500),
        (of_cores, "full", 10),
        (of_diagonals, "full", 10),
    ):
        merged = merge(METHODS["joint_diagonal"], factors, rank=4, form=form, iterations=iterations)
        expected = torch.stack([f.product() for f in factors.values()]).sum(0)
        assert float((merged - expected).norm() / expected.norm()) < 1e-3


def test_one_adapter_alone_is_its_best_approximation_of_that_rank() -> None:
    factors = {"a": random_factors(0, rank=6)}
    merged = merge(METHODS["joint_diagonal"], factors, rank=3)
    U, S, V = torch.linalg.svd(factors["a"].product().double(), full_matrices=False)

    torch.testing.assert_close(merged, ((U[:, :3] * S[:3]) @ V[:3]).float(), rtol=1e-4, atol=1e-4)


# Weights from similarities


@pytest.mark.proves("ttmm", by="golden")
@pytest.mark.parametrize(("tau", "most"), [(0.01, 50), (0.2, 50), (0.01, 2)])
def test_kernel_shares_are_the_authors(tau: float, most: int) -> None:
    expected = json.loads((GOLDEN / "ttmm.json").read_text())[f"tau={tau} most={most}"]
    similarities = dict(zip("abcd", (0.97, 0.95, 0.90, 0.6), strict=True))
    models = {s: torch.eye(4)[k] for k, s in enumerate("abcd")}
    merged = merge_tensor(METHODS["ttmm"], torch.zeros(4), models, similarity=similarities, tau=tau, most=most)

    np.testing.assert_allclose(merged, expected, rtol=1e-5)


def test_a_threshold_above_every_share_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"tau.*no source is left"):
        merge_tensor(METHODS["ttmm"], torch.zeros(4), {s: torch.ones(4) for s in "abc"}, tau=0.5)


# What has no factors


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.factored])
def test_tensors_without_factors_are_merged_by_their_task_vectors(name: str) -> None:
    torch.manual_seed(0)
    base = torch.randn(30)
    models = {s: base + torch.randn(30) for s in "abc"}
    merged = merge_tensor(METHODS[name], base, models, role="norm.mlp")

    assert merged.isfinite().all()
    assert not torch.equal(merged, base)
