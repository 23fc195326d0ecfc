"""Spectral and least-interference merges against their authors' code; see tests/golden/README.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from evomerge.merge.methods import interference, spectral
from evomerge.testing.merging import merge_tensors

GOLDEN = load_file(Path(__file__).parents[2] / "golden" / "spectral" / "merges.safetensors")
METHODS = {method.name: method for family in (spectral, interference) for method in family.METHODS}


def theirs(run: str) -> dict[str, Tensor]:
    return {key.split("/")[1]: tensor for key, tensor in GOLDEN.items() if key.split("/")[0] == run}


def assert_agrees(method: str, run: str, *, tolerance: float = 2e-5, **parameters: Any) -> None:
    expected = theirs(run)
    models = {source: theirs(source) for source in "abc"}
    base = {name: torch.zeros_like(tensor) for name, tensor in models["a"].items()}
    roles = {name: "norm.mlp" if name == "norm" else "mlp.up" for name in base}
    found = merge_tensors(METHODS[method], base, models, roles=roles, **parameters)

    assert expected
    for name, tensor in expected.items():
        assert float(tensor.norm()) > 0.01
        error = float((found[name] - tensor).norm() / tensor.norm())
        assert error < tolerance, f"{name} differs by {error:.2g} of its norm"


@pytest.mark.proves("star", by="golden")
@pytest.mark.parametrize("eta", [40, 80])
def test_star_agrees_with_its_code(eta: int) -> None:
    assert_agrees("star", f"star_{eta}", spectrum_share=eta / 100)


@pytest.mark.proves("tsv_m", by="golden")
def test_tsv_m_agrees_with_its_code() -> None:
    assert_agrees("tsv_m", "tsv_m")


@pytest.mark.proves("iso_c", by="golden")
def test_iso_c_agrees_with_its_code() -> None:
    assert_agrees("iso_c", "iso_c")
    assert_agrees("iso_c", "iso_c", rank_guard=False)
    assert_agrees("iso_c", "iso_c", polar="newton_schulz", tolerance=1e-4)


@pytest.mark.proves("iso_cts", by="golden")
def test_iso_cts_agrees_with_its_code() -> None:
    assert_agrees("iso_cts", "iso_cts")


@pytest.mark.proves("drm", by="golden")
@pytest.mark.parametrize("direction", ["horizontal", "vertical"])
def test_drm_agrees_with_its_code(direction: str) -> None:
    # their threshold is the value that should be the largest to go, so one entry more than asked for stays
    for name in ("tall", "wide"):
        models = {source: {name: theirs(source)[name]} for source in "abc"}
        parts = torch.cat([m[name] if direction == "horizontal" else m[name].t() for m in models.values()], dim=1)
        values = torch.linalg.svdvals(parts)
        entries = int((values > 0.01 * values[0]).sum()) * parts.shape[1]
        density = (entries - round(entries * 0.8) + 1.5) / entries
        base = {name: torch.zeros_like(models["a"][name])}
        found = merge_tensors(METHODS["drm"], base, models, direction=direction, unit_density=density)

        torch.testing.assert_close(found[name], theirs(f"drm_{direction}")[name], rtol=1e-4, atol=1e-7)


@pytest.mark.proves("drm", by="golden")
def test_drm_elects_and_averages_vectors_as_its_code() -> None:
    models = {source: {"norm": theirs(source)["norm"]} for source in "abc"}
    found = merge_tensors(METHODS["drm"], {"norm": torch.zeros(20)}, models)

    torch.testing.assert_close(found["norm"], theirs("drm_horizontal")["norm"])


@pytest.mark.proves("opcm", by="golden")
def test_opcm_agrees_with_its_code() -> None:
    assert_agrees("opcm", "opcm")


def test_opcm_reads_the_order() -> None:
    with pytest.raises(AssertionError, match="differs by"):
        assert_agrees("opcm", "opcm", order={"a": 0.9})


@pytest.mark.proves("wudi", "iwudi", "swudi", "aswudi", by="golden")
def test_the_wudi_family_agrees_with_its_closed_forms() -> None:
    assert_agrees("wudi", "wudi", tolerance=1e-3)  # theirs inverts in float32
    assert_agrees("iwudi", "iwudi", time=3.0)
    assert_agrees("swudi", "swudi", initial="mean", tolerance=1e-4)
    assert_agrees("aswudi", "aswudi", tolerance=1e-4)


@pytest.mark.proves("optmerge", by="golden")
def test_optmerge_is_where_its_optimiser_comes_to_rest() -> None:
    for name, count in (("tall", 17 // 3), ("wide", 12 // 3)):
        models = {source: {name: theirs(source)[name]} for source in "abc"}
        base = {name: torch.zeros_like(models["a"][name])}
        found = merge_tensors(METHODS["optmerge"], base, models, filter="none")[name]
        # the objective says nothing beyond the sources' leading directions; there Adam, whose steps are per entry,
        # leaves its starting point, and the closed form does not
        leading = torch.cat([torch.linalg.svd(m[name], full_matrices=False)[2][:count] for m in models.values()])
        span = torch.linalg.svd(leading, full_matrices=False)[2]
        expected = theirs("optmerge")[name] @ span.t()

        assert span.shape[0] < found.shape[1]
        assert float((found @ span.t() - expected).norm() / expected.norm()) < 0.01


@pytest.mark.proves("knots", by="golden")
def test_knots_agrees_with_its_code() -> None:
    models = {source: {name: theirs(source)[name] for name in ("tall", "wide")} for source in "abc"}
    base = {name: torch.zeros_like(tensor) for name, tensor in models["a"].items()}
    entries = 24 * 17 + 12 * 20
    kept = int(entries * 0.2) + 1  # their threshold keeps one entry more than the share says
    found = merge_tensors(METHODS["knots"], base, models, density=(kept + 0.5) / entries)

    for name, tensor in found.items():
        torch.testing.assert_close(tensor, theirs("knots")[name], rtol=1e-4, atol=1e-7)
