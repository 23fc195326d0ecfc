"""Merges by singular values: laws, formulas restated in NumPy, and inputs at the edge."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge.method import Method
from evomerge.merge.methods import pipeline, spectral
from evomerge.testing.merging import MethodContract, merge_tensor, merge_tensors

METHODS = {method.name: method for method in spectral.METHODS}
NAMES = sorted(METHODS)
Array = np.ndarray[Any, np.dtype[np.float64]]


class TestStar(MethodContract):
    method = METHODS["star"]


class TestLoreAdapt(MethodContract):
    method = METHODS["lore_adapt"]


class TestTwinStatic(MethodContract):
    method = METHODS["twin_static"]


class TestCart(MethodContract):
    method = METHODS["cart"]


class TestCartRandomized(MethodContract):
    method = METHODS["cart"]
    parameters: ClassVar[dict[str, Any]] = {"svd": "randomized"}


class TestTsvM(MethodContract):
    method = METHODS["tsv_m"]


class TestRTsvm(MethodContract):
    method = METHODS["r_tsvm"]


class TestAxis(MethodContract):
    method = METHODS["axis"]


class TestDrm(MethodContract):
    method = METHODS["drm"]


class TestKnots(MethodContract):
    method = METHODS["knots"]


class TestIsoC(MethodContract):
    method = METHODS["iso_c"]


class TestIsoCts(MethodContract):
    method = METHODS["iso_cts"]


class TestBoost(MethodContract):
    method = METHODS["boost"]
    parameters: ClassVar[dict[str, Any]] = {"boost": 0.3, "keep_norm": True}


class TestBoostTies(MethodContract):
    method = METHODS["boost_ties"]


class TestOpcm(MethodContract):
    method = METHODS["opcm"]


def deltas_of(shape: tuple[int, ...], num: int = 3, seed: int = 0, rank: int | None = None) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    if rank is None:
        return {s: torch.randn(shape, generator=generator) for s in "abcdefgh"[:num]}
    return {
        s: torch.randn(shape[0], rank, generator=generator) @ torch.randn(rank, shape[1], generator=generator)
        for s in "abcdefgh"[:num]
    }


def merged(name: str, deltas: dict[str, Tensor], **parameters: Any) -> Tensor:
    """Δ alone: over a base of zeros."""
    base = torch.zeros_like(next(iter(deltas.values())))
    return merge_tensor(METHODS[name], base, deltas, **parameters)


def decomposed(x: Tensor | Array) -> tuple[Array, Array, Array]:
    u, s, v = np.linalg.svd(np.asarray(x, dtype=np.float64), full_matrices=False)
    return u, s, v


def best(x: Tensor | Array, rank: int) -> Array:
    u, s, v = decomposed(x)
    return np.asarray((u[:, :rank] * s[:rank]) @ v[:rank])


def assert_close(found: Tensor, expected: Array | Tensor, tolerance: float = 1e-4) -> None:
    want = torch.as_tensor(expected).float()
    torch.testing.assert_close(found, want, rtol=tolerance, atol=tolerance * float(want.abs().max() + 1e-30))


SHAPES = [(12, 30), (30, 12), (20, 20)]
shapes = pytest.mark.parametrize("shape", SHAPES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (2, 40), (40, 2), (1, 1), (6,)])
def test_thin_matrices_with_more_sources_than_rows_stay_finite(name: str, shape: tuple[int, ...]) -> None:
    found = merged(name, deltas_of(shape, num=4))

    assert found.shape == shape
    assert bool(found.isfinite().all())
    assert bool(found.any())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("role", ["mlp.up", "embedding", "norm"])
def test_task_vectors_of_zeros_give_the_base(name: str, role: str) -> None:
    base = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))

    assert torch.equal(merge_tensor(METHODS[name], base, {s: base.clone() for s in "ab"}, role=role), base)


@pytest.mark.parametrize("name", NAMES)
def test_one_source_of_zeros_beside_others_stays_finite(name: str) -> None:
    deltas = deltas_of((8, 11))
    found = merged(name, {**deltas, "b": torch.zeros(8, 11)})

    assert bool(found.isfinite().all())
    assert bool(found.any())


@pytest.mark.parametrize("name", NAMES)
@shapes
def test_scaling_all_task_vectors_scales_the_merge(name: str, shape: tuple[int, int]) -> None:
    deltas = deltas_of(shape)
    small = merged(name, {s: d * 2.0**-12 for s, d in deltas.items()})

    torch.testing.assert_close(small * 2.0**12, merged(name, deltas), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "role", "expected"),
    [
        *(
            (name, role, "mean")
            for name in ("star", "tsv_m", "axis", "iso_c", "iso_cts")
            for role in ("embedding", "norm")
        ),
        ("opcm", "norm", "sum, of the mean norm"),
        ("lore_adapt", "norm", "half the sum"),
        ("cart", "norm", "mean"),
        ("twin_static", "norm", "mean"),
        ("boost", "norm", "sum"),
    ],
)
def test_what_is_no_matrix_is_treated_as_the_papers_code_does(name: str, role: str, expected: str) -> None:
    shape = (30, 8) if role == "embedding" else (30,)
    deltas = deltas_of(shape)
    total = sum(deltas.values(), torch.zeros(shape))
    norms = sum(float(d.norm()) for d in deltas.values()) / 3
    wanted = {
        "mean": total / 3,
        "sum": total,
        "half the sum": total / 2,
        "sum, of the mean norm": total * norms / total.norm(),
    }

    assert_close(merged(name, deltas, role=role), wanted[expected], 1e-5)


@pytest.mark.parametrize("name", ["tsv_m", "axis", "iso_c", "iso_cts", "r_tsvm"])
def test_what_is_no_matrix_can_be_added_up_or_left_alone(name: str) -> None:
    deltas = deltas_of((9,))

    assert_close(merged(name, deltas, role="norm", others="sum"), sum(deltas.values(), torch.zeros(9)))
    assert not merged(name, deltas, role="norm", others="base").any()


@pytest.mark.proves("star", by="property")
@shapes
def test_star_truncates_by_nuclear_norm_and_restores_it(shape: tuple[int, int]) -> None:
    deltas = deltas_of(shape)
    expected = np.zeros(shape)
    for delta in deltas.values():
        u, s, v = decomposed(delta)
        rank = int((np.cumsum(s) < 0.4 * s.sum()).sum()) + 1
        expected += (u[:, :rank] * (s[:rank] * s.sum() / s[:rank].sum())) @ v[:rank] / 3

    assert_close(merged("star", deltas), expected)
    alone = merged("star", {"a": deltas["a"]}, spectrum_share=1.0)
    assert_close(alone, deltas["a"], 1e-5)


@pytest.mark.proves("lore_adapt", by="property")
@shapes
def test_lore_adapt_keeps_the_explained_variance(shape: tuple[int, int]) -> None:
    deltas = deltas_of(shape, num=2)
    expected = np.zeros(shape)
    for source, weight in (("a", 0.5), ("b", 0.8)):
        s = decomposed(deltas[source])[1]
        rank = int((np.cumsum(s**2) < 0.7 * (s**2).sum()).sum()) + 1
        expected += weight * best(deltas[source], rank)

    assert_close(merged("lore_adapt", deltas, weight={"a": 0.5, "b": 0.8}, spectrum_share=0.7), expected)


@pytest.mark.proves("cart", by="property")
@shapes
def test_cart_adds_truncated_differences_to_the_mean(shape: tuple[int, int]) -> None:
    deltas = deltas_of(shape)
    mean = np.mean([d.double().numpy() for d in deltas.values()], axis=0)
    rank = int(0.3 * min(shape))
    expected = mean + 0.6 * sum(best(d.double().numpy() - mean, rank) for d in deltas.values())

    assert_close(merged("cart", deltas, spectrum_share=0.3, weight=0.6), expected)
    assert_close(merged("cart", dict.fromkeys("abc", deltas["a"])), deltas["a"], 1e-5)


@pytest.mark.proves("twin_static", by="property")
@shapes
def test_twin_merging_adds_weighted_truncated_residuals_to_task_arithmetic(shape: tuple[int, int]) -> None:
    deltas = deltas_of(shape)
    anchor = 0.29 * sum(d.double().numpy() for d in deltas.values())
    weights = {"a": 3.0, "b": 1.0, "c": 1.0}
    residuals = {s: best(d.double().numpy() - anchor, max(1, int(0.1 * min(shape)))) for s, d in deltas.items()}
    expected = anchor + sum(weights[s] / 5 * residual for s, residual in residuals.items())

    assert_close(merged("twin_static", deltas, weight=weights), expected)
    alone = {"a": 1.0, "b": 0.0, "c": 0.0}
    assert_close(merged("twin_static", deltas, weight=alone, spectrum_share=1.0), deltas["a"], 1e-5)


def test_a_source_at_rest_has_a_residual_too() -> None:
    deltas = deltas_of((10, 14))
    silent = {**deltas, "b": torch.zeros(10, 14)}
    base, models = {"w": torch.zeros(10, 14)}, {s: {"w": d} for s, d in silent.items()}
    found = merge_tensors(METHODS["cart"], base, {**models, "b": {}})["w"]

    assert_close(found, merged("cart", silent))
    mean = (deltas["a"] + deltas["c"]).double().numpy() / 3
    expected = mean + 0.5 * sum(best(d.double().numpy() - mean, 1) for d in silent.values())
    assert_close(found, expected)


@pytest.mark.proves("tsv_m", by="property")
@shapes
def test_tsv_m_with_orthogonal_sources_adds_their_leading_parts(shape: tuple[int, int]) -> None:
    size = min(shape)
    left = torch.linalg.qr(deltas_of((shape[0], size), 1)["a"])[0]
    right = torch.linalg.qr(deltas_of((shape[1], size), 1, seed=1)["a"])[0]
    values = torch.linspace(2, 1, size)
    deltas = {s: (left[:, k::2] * values[k::2]) @ right[:, k::2].t() for k, s in enumerate("ab")}

    assert_close(merged("tsv_m", deltas), sum(deltas.values(), torch.zeros(shape)))


@pytest.mark.proves("tsv_m", by="property")
@pytest.mark.parametrize("num", [1, 2, 3])
@shapes
def test_tsv_m_of_equal_sources_is_their_leading_part(shape: tuple[int, int], num: int) -> None:
    delta = deltas_of(shape)["a"]
    expected = best(delta, min(shape) // num)

    assert_close(merged("tsv_m", dict.fromkeys("abc"[:num], delta)), expected)


def test_tsv_m_can_take_randomized_vectors() -> None:
    deltas = deltas_of((40, 60), rank=4)
    exact = merged("tsv_m", deltas, rank_share=0.1)

    assert_close(merged("tsv_m", deltas, rank_share=0.1, svd="randomized"), exact, 1e-3)


@pytest.mark.proves("r_tsvm", by="property")
def test_r_tsvm_clips_outliers_and_deals_ranks_by_entropy() -> None:
    deltas = deltas_of((20, 30))
    deltas["a"] = deltas_of((20, 30), rank=2)["a"]
    deltas["b"][3, 4] = 100.0

    lefts, values, rights, ranks = [], [], [], []
    parts = []
    for delta in deltas.values():
        x = delta.double().numpy()
        bound = 3 * math.sqrt((x**2).mean())
        parts.append(decomposed(np.clip(x, -bound, bound)))
    for _, s, _ in parts:
        share = s / s.sum()
        ranks.append(math.exp(-sum(p * math.log(p) for p in share if p > 1e-12)))
    for (u, s, v), rank in zip(parts, ranks, strict=True):
        count = max(1, int(rank * min(1.0, 20 / sum(ranks))))
        lefts.append(u[:, :count])
        values.append(s[:count])
        rights.append(v[:count])
    (p, _, q), (m, _, n) = decomposed(np.concatenate(lefts, axis=1)), decomposed(np.concatenate(rights))
    expected = (p @ q * np.concatenate(values)) @ (m @ n)

    assert_close(merged("r_tsvm", deltas), expected, 1e-3)
    assert ranks[0] < ranks[1]


@pytest.mark.proves("axis", by="property")
@shapes
def test_axis_keeps_the_largest_components_of_all_sources(shape: tuple[int, int]) -> None:
    deltas = {s: d * (k + 1) for k, (s, d) in enumerate(deltas_of(shape).items())}
    pool = [(s[k], np.outer(u[:, k], v[k])) for u, s, v in map(decomposed, deltas.values()) for k in range(len(s))]
    pool.sort(key=lambda entry: -entry[0])

    assert_close(merged("axis", deltas), sum(s * outer for s, outer in pool[: min(shape)]))
    assert_close(merged("axis", deltas, pool_share=1.0), sum(deltas.values(), torch.zeros(shape)))
    assert_close(merged("axis", {"a": deltas["a"]}), deltas["a"])


@pytest.mark.proves("drm", by="property")
@shapes
def test_vertical_drm_is_horizontal_drm_on_transposes(shape: tuple[int, int]) -> None:
    deltas = deltas_of(shape)
    turned = {s: d.t().contiguous() for s, d in deltas.items()}
    vertical = merged("drm", deltas, direction="vertical")

    torch.testing.assert_close(vertical, merged("drm", turned, direction="horizontal").t(), rtol=1e-4, atol=1e-5)


def test_drm_stacks_in_the_way_that_has_the_lower_rank() -> None:
    generator = torch.Generator().manual_seed(3)
    shared = torch.randn(20, 4, generator=generator)
    deltas = {s: shared @ torch.randn(4, 20, generator=generator) for s in "abc"}
    turned = {s: d.t().contiguous() for s, d in deltas.items()}

    assert torch.equal(merged("drm", deltas), merged("drm", deltas, direction="horizontal"))
    assert torch.equal(merged("drm", turned), merged("drm", turned, direction="vertical"))
    assert not torch.equal(merged("drm", deltas), merged("drm", deltas, direction="vertical"))


@pytest.mark.proves("knots", by="property")
@shapes
def test_a_joint_basis_leads_back(shape: tuple[int, int]) -> None:
    deltas = deltas_of(shape)
    chain = pipeline(("joint_svd", "sum"))
    base = torch.zeros(shape)

    for direction in ("horizontal", "vertical", "auto"):
        found = merge_tensor(chain, base, deltas, direction=direction, tolerance=1e-7)
        assert_close(found, sum(deltas.values(), torch.zeros(shape)), 1e-5)
        assert_close(
            merged("knots", {"a": deltas["a"]}, direction=direction, density=1.0, **{"lambda": 1.0}), deltas["a"]
        )


@pytest.mark.proves("iso_c", by="property")
@shapes
def test_iso_c_has_equal_singular_values_of_the_same_sum(shape: tuple[int, int]) -> None:
    deltas = deltas_of(shape)
    u, s, v = decomposed(sum(deltas.values(), torch.zeros(shape)))

    for polar in ("svd", "newton_schulz"):
        assert_close(merged("iso_c", deltas, polar=polar), s.mean() * u @ v, 2e-4)
    assert_close(merged("iso_c", deltas, strength=0.0), sum(deltas.values(), torch.zeros(shape)))
    half = decomposed(merged("iso_c", deltas, strength=0.5))[1]
    np.testing.assert_allclose(half, np.sqrt(s) * s.sum() / np.sqrt(s).sum(), rtol=1e-4)


@pytest.mark.proves("iso_c", by="property")
@pytest.mark.parametrize("name", ["iso_c", "boost"])
def test_a_rank_deficient_sum_gains_nothing_outside_its_span(name: str) -> None:
    deltas = deltas_of((48, 48), rank=4)
    total = sum(deltas.values(), torch.zeros(48, 48))
    outside = torch.eye(48) - torch.from_numpy(decomposed(total)[0][:, :12] @ decomposed(total)[0][:, :12].T).float()
    guarded, naive = merged(name, deltas), merged(name, deltas, rank_guard=False)

    assert float((outside @ guarded).norm()) < 1e-3 * float(guarded.norm())
    assert float((outside @ naive).norm() / naive.norm()) ** 2 == pytest.approx(0.75, abs=0.02)


@pytest.mark.proves("iso_cts", by="property")
@shapes
def test_iso_cts_of_common_directions_alone_is_iso_c(shape: tuple[int, int]) -> None:
    deltas = deltas_of(shape)

    assert_close(merged("iso_cts", deltas, common_share=1.0), merged("iso_c", deltas))


@pytest.mark.proves("iso_cts", by="property")
@shapes
def test_iso_cts_has_equal_singular_values(shape: tuple[int, int]) -> None:
    values = decomposed(merged("iso_cts", deltas_of(shape)))[1]

    np.testing.assert_allclose(values, values.mean(), rtol=1e-4)


def test_iso_cts_gives_sources_no_more_directions_than_there_are() -> None:
    """Two sources' halves of three, both rounded up, would be four."""
    deltas = dict(list(deltas_of((3, 4)).items())[:2])
    values = decomposed(merged("iso_cts", deltas, common_share=0.0))[1]

    np.testing.assert_allclose(values, values.mean(), rtol=1e-4)


@pytest.mark.proves("boost", "boost_ties", by="property")
@pytest.mark.parametrize("name", ["boost", "boost_ties"])
@shapes
def test_boost_lifts_small_singular_values(name: str, shape: tuple[int, int]) -> None:
    deltas = deltas_of(shape)
    plain = merged(name, deltas, boost=1.0)
    u, s, v = decomposed(plain)
    k = int((np.cumsum(s) / s.sum() < 0.4).sum())

    assert_close(merged(name, deltas, boost=0.4), (u * np.maximum(s, s[k])) @ v)
    kept = merged(name, deltas, boost=0.4, keep_norm=True)
    assert float(kept.norm()) == pytest.approx(float(plain.norm()), rel=1e-5)
    assert_close(merged(name, deltas, boost=0.0), s[0] * u @ v)


@pytest.mark.proves("boost", "boost_ties", by="property")
def test_boost_at_one_is_the_merge_itself() -> None:
    from evomerge.merge.methods import METHODS as ALL

    deltas, base = deltas_of((15, 21)), torch.zeros(15, 21)
    for name, plain in (("boost", "task_arithmetic"), ("boost_ties", "ties")):
        assert_close(merged(name, deltas, boost=1.0), merge_tensor(ALL[plain], base, deltas), 1e-5)


def small_model(seed: int = 0) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]], dict[str, str]]:
    roles = {"q": "attention.q", "up": "mlp.up", "norm": "norm.mlp", "embedding": "embedding"}
    generator = torch.Generator().manual_seed(seed)
    shapes = {"q": (10, 10), "up": (16, 10), "norm": (10,), "embedding": (20, 10)}
    base = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    models = {
        s: {n: t + k * torch.randn(t.shape, generator=generator) for n, t in base.items()}
        for k, s in enumerate("abc", start=1)
    }
    return base, models, roles


@pytest.mark.proves("opcm", by="property")
def test_opcm_has_the_mean_norm_over_the_model() -> None:
    base, models, roles = small_model()
    found = merge_tensors(METHODS["opcm"], base, models, roles=roles)

    def norm(model: dict[str, Tensor]) -> float:
        return math.sqrt(sum(float((model[name] - base[name]).square().sum()) for name in base))

    assert norm(found) == pytest.approx(sum(map(norm, models.values())) / 3, rel=1e-5)


@pytest.mark.proves("opcm", by="property")
@pytest.mark.parametrize("order", ["abc", "cab"])
@shapes
def test_opcm_is_its_recursion_with_the_norm_taken_at_every_step(shape: tuple[int, int], order: str) -> None:
    deltas = deltas_of(shape)
    rows = [deltas[s].double().numpy() for s in order]
    current, scale, norms = rows[0], 1.0, [np.linalg.norm(rows[0])]
    for task in rows[1:]:
        u, s, v = np.linalg.svd(current, full_matrices=True)
        k = int((np.cumsum(s) / s.sum() > 0.5).argmax())
        p = u.T @ task @ v.T
        np.fill_diagonal(p, 0)
        p[:k, :k] = 0
        raw = scale * current + u @ p @ v
        norms.append(np.linalg.norm(task))
        scale = np.linalg.norm(raw) / np.mean(norms)
        current = raw / scale

    turns = {source: float(place) for place, source in enumerate(order)}
    assert_close(merged("opcm", deltas, order=turns), current)


def test_damping_shrinks_shared_directions_most() -> None:
    deltas = deltas_of((12, 18))
    u, s, _ = decomposed(np.concatenate([d.numpy() for d in deltas.values()], axis=1))
    shrink = 1 / (1 + 2 * s**2 / (s**2).sum())
    total = sum(deltas.values(), torch.zeros(12, 18)).double().numpy()
    chain = pipeline(("damp_shared", "sum"))

    found = merge_tensor(chain, torch.zeros(12, 18), deltas)
    assert_close(found, (u * shrink) @ u.T @ total)
    alone = merge_tensor(chain, torch.zeros(12, 18), {"a": deltas["a"]})
    assert_close(alone, deltas["a"], 1e-5)


@pytest.mark.parametrize(
    ("chain", "parameters"),
    [
        (("truncate_spectrum", "sum"), {"svd": "randomized"}),
        (("truncate_spectrum", "sum"), {"svd": "randomized", "share_of": "rank"}),
        (("sum", "flatten_spectrum"), {"polar": "newton_schulz", "strength": 0.5}),
        (("sum", "flatten_spectrum"), {"polar": "newton_schulz", "rank_guard": False}),
    ],
)
def test_approximations_are_refused_where_they_cannot_serve(chain: tuple[str, ...], parameters: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match="expected"):
        merge_tensor(pipeline(chain), torch.zeros(4, 5), deltas_of((4, 5)), **parameters)


def test_randomized_truncation_is_near_the_exact_one() -> None:
    deltas = deltas_of((40, 60), rank=5)
    chain: Method = pipeline(("truncate_spectrum", "sum"))
    given = {"share_of": "rank", "keep_nuclear": False, "spectrum_share": 0.1}
    exact = merge_tensor(chain, torch.zeros(40, 60), deltas, **given)

    assert_close(merge_tensor(chain, torch.zeros(40, 60), deltas, svd="randomized", **given), exact, 2e-2)
