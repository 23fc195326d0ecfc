"""Traps that published code fell into, or that sizes of real models set, and that other tests do not name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from evomerge.merge.methods import METHODS, pipeline
from evomerge.merge.primitives.measure import bin_of, kth_magnitudes
from evomerge.merge.primitives.sparsify import bernoulli
from evomerge.testing.merging import merge_tensor, merge_tensors


def test_a_trim_of_the_whole_model_may_leave_nothing_of_a_small_tensor() -> None:
    """The paper trims one vector, mergekit each tensor: with large embeddings that is not the same."""
    base = {"embedding": torch.zeros(50, 4), "norm": torch.zeros(4)}
    model = {"embedding": torch.full((50, 4), 2.0), "norm": torch.tensor([1.0, 0.5, 0.2, 0.1])}
    roles = {"embedding": "embedding", "norm": "norm.mlp"}
    found = {
        scope: merge_tensors(METHODS["ties"], base, {"a": model}, roles=roles, density=0.3, scope=scope)["norm"]
        for scope in ("global", "tensor")
    }

    assert found["global"].tolist() == [0, 0, 0, 0]
    assert found["tensor"].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("name", ["ties", "breadcrumbs", "breadcrumbs_ties"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_tiny_tensors_keep_their_largest_entry(name: str, size: int) -> None:
    """A share of less than one entry is no share of none."""
    model = torch.arange(1.0, size + 1)
    found = merge_tensor(METHODS[name], torch.zeros(size), {"a": model}, scope="tensor", density=0.2)

    assert found.tolist() == [0.0] * (size - 1) + [float(size)]


def test_the_published_window_of_della_is_twice_epsilon() -> None:
    defaults = {p.name: p.default for p in METHODS["della"].parameters}

    assert (2 * float(str(defaults["epsilon"])), defaults["density"], defaults["lambda"]) == (0.14, 0.7, 1.1)


def test_what_makes_up_for_dropped_entries_differs_on_sparse_changes() -> None:
    """1/p and the l1 norm agree on average, not for ten entries in ten thousand."""
    model = torch.zeros(10_000)
    model[::1000] = 1.0
    asked = {"density": 0.5, "seed": 2}
    found = {
        rule: merge_tensor(METHODS["dare_linear"], torch.zeros(10_000), {"a": model}, rescale=rule, **asked)
        for rule in ("inverse", "l1", "none")
    }
    kept = int(found["none"].count_nonzero())

    assert 0 < kept < 10
    assert kept != 5
    assert found["inverse"].sum() == 2 * kept
    torch.testing.assert_close(found["l1"].sum(), torch.tensor(10.0))


def test_counts_beyond_two_to_the_31_are_exact() -> None:
    counts = torch.tensor([2**31 + 7, 2**33, 2**31, 5])

    assert bin_of(counts, 5) == (3, 5)
    assert bin_of(counts, 5 + 2**31) == (2, 2**31)
    assert bin_of(counts, 5 + 2**31 + 2**33 + 1) == (0, 1)


def test_a_threshold_over_more_entries_than_32_bits_count() -> None:
    """Zeros that no tensor holds stand for most of a model here: five entries of three thousand million."""
    values = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])
    found = kth_magnitudes(lambda: [(5, {"a": values}), (3 * 2**30, {"a": None})], {"a": 4 / (3 * 2**30)})

    assert found == {"a": 2.0}


@pytest.mark.parametrize("offset", [2**31 + 3, 2**32 + 5, 2**35 + 1])
def test_masks_go_on_beyond_two_to_the_32(offset: int) -> None:
    whole = bernoulli(7, 0.5, offset, 64)

    assert torch.equal(whole[11:], bernoulli(7, 0.5, offset + 11, 53))
    assert not torch.equal(whole, bernoulli(7, 0.5, offset - 2**31 + 1, 64))
    assert not torch.equal(whole, bernoulli(7, 0.5, offset + 2**32, 64))


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (3, 0, 2)])
@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if not m.requires and not m.factored])
def test_tensors_without_entries_stay_so(name: str, shape: tuple[int, ...]) -> None:
    method = METHODS[name]
    base = {"w": torch.zeros(shape), "x": torch.ones(2, 3)}
    sources = "abc"[: max(method.num_sources[0], min(method.num_sources[1] or 3, 3))]
    models = {s: {"w": base["w"].clone(), "x": base["x"] + i} for i, s in enumerate(sources)}
    asked: dict[str, Any] = {
        key: value for key, value in (("filter_wise", True), ("nuslerp_flatten", False)) if _has(name, key)
    }

    assert merge_tensors(method, base, models, **asked)["w"].shape == shape


def _has(name: str, parameter: str) -> bool:
    return parameter in {p.name for p in METHODS[name].parameters}


def test_weights_of_entries_stay_finite_however_many_sources_compete() -> None:
    """exp(N) leaves float32's range at 89 sources."""
    generator = torch.Generator().manual_seed(0)
    models = {f"s{i}": torch.randn(6, 7, generator=generator) for i in range(95)}

    assert merge_tensor(METHODS["pcb"], torch.zeros(6, 7), models).abs().max() > 0


def test_a_mask_of_all_entries_has_those_of_a_source_that_left_the_tensor_alone() -> None:
    """Its curvature counts where it says that nothing should change."""
    generator = torch.Generator().manual_seed(0)
    base, model = torch.zeros(4, 5), torch.randn(4, 5, generator=generator)
    statistics = {"w": {s: {"second_moment": torch.rand(4, 5, generator=generator)} for s in "ab"}}
    found = [
        merge_tensors(METHODS["ota_ffg"], {"w": base}, {"a": {"w": model}, "b": b}, statistics=statistics, density=1.0)[
            "w"
        ]
        for b in ({}, {"w": base.clone()})
    ]
    ota = merge_tensors(METHODS["ota"], {"w": base}, {"a": {"w": model}, "b": {}}, statistics=statistics)["w"]

    assert torch.equal(*found)
    torch.testing.assert_close(found[0], ota)


@pytest.mark.parametrize("sparsifier", ["trim", "band", "changed"])
def test_any_sparsifier_goes_before_the_split_of_ram(sparsifier: str) -> None:
    """What RAM+ does is not tied to its own threshold of change."""
    generator = torch.Generator().manual_seed(0)
    models = {s: torch.randn(40, generator=generator) * (torch.rand(40, generator=generator) < 0.5) for s in "ab"}
    asked: dict[str, Any] = {} if sparsifier == "changed" else {"density": 0.4}
    found = merge_tensor(pipeline((sparsifier, "amplify", "disjoint_mean")), torch.zeros(40), models, r=0.5, **asked)
    plain = merge_tensor(pipeline((sparsifier, "disjoint_mean")), torch.zeros(40), models, **asked)

    assert bool((found.abs() >= plain.abs()).all())
    assert not torch.equal(found, plain)
