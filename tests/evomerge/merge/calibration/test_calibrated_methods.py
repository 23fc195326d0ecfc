"""Methods that read statistics: against public code (tests/golden/README.md), and by what they are defined by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge.method import Method
from evomerge.merge.methods import METHODS
from evomerge.merge.methods.layerwise import typical
from evomerge.testing.merging import MethodContract, Tensors, merge_tensor, merge_tensors

GOLDEN = Path(__file__).parents[3] / "golden" / "calibration" / "merges.safetensors"
SOURCES = ("a", "b", "c")
SHARES = {"a": 0.5, "b": 0.3, "c": 0.2}
ROLES = {"matrix": "mlp.up", "norm": "norm.mlp"}
LAYERS = {"matrix": 0, "norm": 1}


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN)


def merged(golden: Mapping[str, Tensor], method: str, **parameters: Any) -> dict[str, Tensor]:
    """The golden inputs through a method."""
    kinds = METHODS[method].requires
    statistics: dict[str, dict[str, dict[str, Tensor]]] = {}
    for name in ROLES:
        for s in SOURCES:
            found = {k: golden[f"{s}/{name}/{k}"] for k in kinds if f"{s}/{name}/{k}" in golden}
            found |= {k: golden[f"{s}/{k}"] for k in kinds if f"{s}/{k}" in golden}
            statistics.setdefault(name, {})[s] = found
    base = {name: golden[f"base/{name}"] for name in ROLES}
    models = {s: {name: golden[f"{s}/{name}"] for name in ROLES} for s in SOURCES}
    return merge_tensors(
        METHODS[method], base, models, roles=ROLES, layers=LAYERS, num_layers=2, statistics=statistics, **parameters
    )


def same(golden: Mapping[str, Tensor], run: str, found: Mapping[str, Tensor], *names: str) -> None:
    """The merged task vectors agree; beside them the base is large."""
    for name in names or ROLES:
        expected = golden[f"result/{run}/{name}"] - golden[f"base/{name}"]
        error = float((found[name] - golden[f"base/{name}"] - expected).norm() / expected.norm())
        assert error < 2e-5, f"{name} differs by {error:.2g} of its norm"


@pytest.mark.proves("fisher", by="golden")
@pytest.mark.parametrize(("run", "normalize"), [("None", "none"), ("param", "tensor"), ("model", "model")])
def test_fisher_is_the_public_codes(golden: dict[str, Tensor], run: str, normalize: str) -> None:
    same(golden, f"fisher_{run}", merged(golden, "fisher", weight=SHARES, floor=1e-6, normalize=normalize))


@pytest.mark.proves("fisher", by="property")
def test_fisher_with_equal_information_is_the_mean() -> None:
    torch.manual_seed(0)
    base, fisher = torch.randn(6, 5), torch.rand(6, 5)
    models = {s: base + torch.randn(6, 5) for s in SOURCES}
    statistics = {"w": {s: {"fisher": fisher} for s in SOURCES}}

    expected = torch.stack(list(models.values())).mean(0)
    torch.testing.assert_close(merge_tensor(METHODS["fisher"], base, models, statistics=statistics), expected)


def test_an_entry_that_no_source_informs_is_the_weighted_mean_even_without_a_floor() -> None:
    base = torch.zeros(2)
    models = {"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([3.0, 3.0])}
    statistics = {"w": {"a": {"fisher": torch.tensor([0.0, 1e-30])}, "b": {"fisher": torch.tensor([0.0, 3e-30])}}}
    found = merge_tensor(METHODS["fisher"], base, models, statistics=statistics, floor=0.0, normalize="none",
                         weight={"a": 1.0, "b": 1.0})  # fmt: skip

    torch.testing.assert_close(found, torch.tensor([2.0, 2.5]))


def test_a_relative_floor_does_not_see_the_scale_of_the_loss(golden: dict[str, Tensor]) -> None:
    louder = {k: t * 1e-6 if k.endswith("fisher") else t for k, t in golden.items()}
    options: dict[str, Any] = {"relative_floor": True, "floor": 0.1, "normalize": "none"}
    quiet, loud = merged(golden, "fisher", **options), merged(louder, "fisher", **options)

    torch.testing.assert_close(quiet["matrix"], loud["matrix"], rtol=1e-5, atol=1e-6)


@pytest.mark.proves("regmean", by="golden")
@pytest.mark.parametrize("factor", [0.1, 0.9, 1.0])
def test_regmean_is_the_public_codes(golden: dict[str, Tensor], factor: float) -> None:
    same(golden, f"regmean_{factor}", merged(golden, "regmean", weight=SHARES, off_diagonal=factor, ridge=0.0))


@pytest.mark.proves("regmean", by="property")
def test_regmean_minimises_the_error_of_the_outputs() -> None:
    torch.manual_seed(1)
    base = torch.randn(7, 5)
    models = {s: torch.randn(7, 5) for s in "ab"}
    x = {s: torch.randn(30, 5) @ torch.randn(5, 5) for s in "ab"}
    statistics = {"w": {s: {"gram": x[s].T @ x[s] / 30} for s in "ab"}}
    found = merge_tensor(METHODS["regmean"], base, models, statistics=statistics, off_diagonal=1.0, ridge=0.0)

    stacked = torch.cat([x[s] for s in "ab"]).double()
    outputs = torch.cat([x[s] @ models[s].T for s in "ab"]).double()
    expected = torch.linalg.lstsq(stacked, outputs).solution.T
    torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=1e-4)


def test_an_input_that_nobody_uses_gives_the_mean() -> None:
    torch.manual_seed(2)
    base = torch.randn(4, 3)
    models = {s: base + torch.randn(4, 3) for s in "ab"}
    gram = torch.diag(torch.tensor([1.0, 2.0, 0.0]))
    statistics = {"w": {s: {"gram": gram * n} for s, n in (("a", 1.0), ("b", 3.0))}}
    found = merge_tensor(METHODS["regmean"], base, models, statistics=statistics, ridge=1e-4)

    mean = 0.25 * models["a"] + 0.75 * models["b"]
    torch.testing.assert_close(found, mean, rtol=1e-3, atol=1e-4)


@pytest.mark.proves("mats", by="golden")
@pytest.mark.parametrize("steps", [1, 3, 6])
def test_mats_is_the_public_codes_conjugate_gradient(golden: dict[str, Tensor], steps: int) -> None:
    same(golden, f"mats_{steps}", merged(golden, "mats", steps=steps), "matrix")


@pytest.mark.proves("mats", by="property")
def test_mats_on_inputs_alone_reaches_regmean(golden: dict[str, Tensor]) -> None:
    found = merged(golden, "mats", steps=500, objective="inputs")
    expected = merged(golden, "regmean", off_diagonal=1.0, ridge=0.0)

    torch.testing.assert_close(found["matrix"], expected["matrix"], rtol=1e-3, atol=1e-4)


def test_mats_stops_at_task_arithmetic_after_no_step(golden: dict[str, Tensor]) -> None:
    found = merged(golden, "mats", steps=0)["matrix"]
    deltas = [golden[f"{s}/matrix"] - golden["base/matrix"] for s in SOURCES]

    torch.testing.assert_close(found, golden["base/matrix"] + 0.3 * sum(deltas), rtol=1e-5, atol=1e-6)


@pytest.mark.proves("ota", "ota_ffg", by="golden")
@pytest.mark.parametrize(
    ("run", "method", "options"),
    [
        ("ota", "ota", {}),
        ("ota_global", "ota", {"normalize": True}),
        ("ffg", "ota_ffg", {}),
        ("ffg_rescale", "ota_ffg", {"rescale": True}),
        ("ffg_linear", "ota_ffg", {"inner": "linear", "rescale": True}),
        ("ffg_ties", "ota_ffg", {"inner": "ties", "rescale": True}),
    ],
)
def test_ota_is_the_public_codes(golden: dict[str, Tensor], run: str, method: str, options: dict[str, Any]) -> None:
    if method == "ota_ffg":
        options = {"scope": "tensor", "density": 0.4, **options}
    same(golden, run, merged(golden, method, epsilon=1e-12, **options))


@pytest.mark.proves("led", by="golden")
@pytest.mark.parametrize(("run", "pattern"), [("11", "both"), ("x1", "source"), ("01", "source_only")])
def test_led_is_the_public_codes(golden: dict[str, Tensor], run: str, pattern: str) -> None:
    densities = {"a": 0.5, "b": 0.4, "c": 0.6}
    same(golden, f"led_{run}", merged(golden, "led", density=densities, pattern=pattern, **{"lambda": 0.9}))


def test_led_of_a_tiny_tensor_keeps_one_entry_not_all() -> None:
    base = torch.zeros(3)
    statistics = {
        "w": {"a": {"saliency": torch.tensor([1.0, 5.0, 2.0]), "base_saliency": torch.tensor([1.0, 5.0, 2.0])}}
    }
    found = merge_tensor(METHODS["led"], base, {"a": torch.ones(3)}, statistics=statistics, density=0.1)

    assert found.tolist() == [0.0, 1.0, 0.0]


@pytest.mark.proves("sens", by="golden")
def test_sens_is_the_third_partys_code(golden: dict[str, Tensor]) -> None:
    same(golden, "sens", merged(golden, "sens", transfer="distance", temperature=0.05))


@pytest.mark.proves("sens", by="property")
def test_sens_counts_the_source_more_whose_logits_are_nearer(golden: dict[str, Tensor]) -> None:
    """The third party's code has it the other way round."""
    base, delta = torch.zeros(4), torch.eye(4)
    models = {s: base + delta[i] for i, s in enumerate(SOURCES)}
    distances = {"a": [0.0, 1.0, 9.0], "b": [1.0, 0.0, 9.0], "c": [9.0, 9.0, 0.0]}
    statistics = {
        "w": {s: {"saliency": torch.ones(4), "logit_distance": torch.tensor(distances[s])} for s in SOURCES}
    }  # fmt: skip
    near = merge_tensor(METHODS["sens"], base, models, statistics=statistics, temperature=0.1)
    far = merge_tensor(METHODS["sens"], base, models, statistics=statistics, temperature=0.1, transfer="distance")

    assert near[2] < near[0] == near[1]
    assert far[2] > far[0] == far[1]
    torch.testing.assert_close(near.sum(), torch.tensor(3.0))


@pytest.mark.proves("osrm", by="golden")
def test_osrm_projects_as_the_public_codes_null_space(golden: dict[str, Tensor]) -> None:
    same(golden, "osrm", merged(golden, "osrm", weight=0.7, features="source"), "matrix")


@pytest.mark.proves("osrm", by="property")
def test_osrm_leaves_nothing_that_answers_to_the_others_inputs(golden: dict[str, Tensor]) -> None:
    alone = dict(golden)
    for s in "bc":
        alone[f"{s}/matrix"] = golden["base/matrix"]
    added = merged(alone, "osrm", directions=64)["matrix"] - golden["base/matrix"]
    others = torch.cat([golden[f"{s}/matrix/base_features"] for s in "bc"])

    assert float((others @ added.T).abs().max()) < 1e-5 < float(added.abs().max())


@pytest.mark.proves("obim", by="property")
def test_obim_gives_every_entry_to_one_source_in_turn(golden: dict[str, Tensor]) -> None:
    order = {"a": 0.9, "b": 0.1, "c": 0.5}
    found = merged(golden, "obim", density=0.3, order=order)["matrix"] - golden["base/matrix"]

    free = np.ones((12, 9), dtype=bool)
    expected = np.zeros((12, 9))
    for s in ("b", "c", "a"):
        delta = (golden[f"{s}/matrix"] - golden["base/matrix"]).double().numpy()
        saliency = 0.5 * delta**2 * np.diag(golden[f"{s}/matrix/gram"].double().numpy())
        saliency[~free] = -1
        mask = saliency >= np.sort(saliency.ravel())[-int(0.3 * 108)]
        expected[mask] = delta[mask]
        free &= ~mask
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


@pytest.mark.proves("rcp", by="property")
@pytest.mark.parametrize("number", [4, 5])
def test_rcp_counts_votes_as_the_paper_does(number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    base, reasoning, domain = (torch.randn(200, generator=generator) for _ in range(3))
    g = 1e-2 * torch.randn(number, 200, generator=generator)
    of_reasoning = torch.randn(7, 200, generator=generator)
    signed = g * domain
    statistics = {
        "w": {
            "r": {"fisher": of_reasoning.square().mean(0), "votes": torch.zeros(200)},
            "d": {"votes": signed.kthvalue(number // 2 + 1, dim=0).values, "fisher": torch.zeros(200)},
        }
    }
    found = merge_tensor(METHODS["rcp"], base, {"r": reasoning, "d": domain}, statistics=statistics,
                         reasoning={"r": True}, prior=1e-3)  # fmt: skip

    prior = (of_reasoning * reasoning).square().mean(0)
    ballots = torch.where(signed + 1e-3 * prior * (reasoning - domain).square() <= 0, 1, -1).sum(0)
    expected = reasoning + torch.where(ballots > 0, domain - base, 0.0)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert 0.05 < float((ballots > 0).float().mean()) < 0.6


def test_rcp_in_relative_units_does_not_see_the_scale_of_the_loss() -> None:
    generator = torch.Generator().manual_seed(1)
    base, reasoning, domain, votes = (torch.randn(300, generator=generator) for _ in range(4))
    fisher = torch.rand(300, generator=generator)

    def run(scale: float) -> Tensor:
        statistics = {"w": {"r": {"fisher": fisher * scale**2, "votes": votes},
                            "d": {"votes": votes * scale, "fisher": fisher}}}  # fmt: skip
        return merge_tensor(METHODS["rcp"], base, {"r": reasoning, "d": domain}, statistics=statistics,
                            reasoning={"r": True}, prior=1.0, relative=True)  # fmt: skip

    assert torch.equal(run(1.0), run(1e-4))


def test_rcp_wants_exactly_one_reasoning_model() -> None:
    with pytest.raises(InvalidInputError, match="reasoning"):
        merge_tensor(METHODS["rcp"], torch.zeros(3), {"a": torch.ones(3), "b": torch.ones(3)})


@pytest.mark.proves("recall", by="property")
def test_recall_counts_sources_whose_hidden_states_are_alike() -> None:
    base = torch.zeros(3, 3)
    states = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    hidden = {"a": states, "b": states + 0.01, "c": states + 5.0}
    models = {s: base + torch.eye(3)[i] for i, s in enumerate(SOURCES)}
    statistics = {"w": {s: {"hidden": h} for s, h in hidden.items()}}
    found = merge_tensor(METHODS["recall"], base, models, statistics=statistics, clusters=2, temperature=0.2)[0]

    d = {"ab": 0.01 * 2, "ac": 5.0 * 2, "bc": 4.99 * 2}
    near = {pair: np.exp(-(x**2) / (2 * d["bc"] ** 2)) for pair, x in d.items()}
    scores = np.array([near["ab"] + near["ac"], near["ab"] + near["bc"], near["ac"] + near["bc"]]) / 2 / 0.2
    expected = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3)
    assert found[0] > found[2]


def test_typical_items_are_one_of_each_group() -> None:
    points = torch.tensor([[0.0], [0.1], [5.0], [5.1], [5.2], [9.0]], dtype=torch.float64)

    assert typical(points, 3).tolist() == [0, 3, 5]
    assert typical(points, 50).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.proves("lm_cocktail_measured", by="property")
def test_the_cocktails_shares_are_a_softmax_of_losses() -> None:
    base = torch.zeros(2)
    statistics = {"w": {"a": {"loss": torch.tensor([1.0])}, "b": {"loss": torch.tensor([2.0])}}}
    models = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([0.0, 1.0])}
    found = merge_tensor(METHODS["lm_cocktail_measured"], base, models, statistics=statistics, temperature=0.5)

    expected = np.exp([-2.0, -4.0]) / np.exp([-2.0, -4.0]).sum()
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


def test_negative_second_moments_are_refused() -> None:
    statistics = {"w": {"a": {"second_moment": torch.tensor([1.0, -1.0])}}}
    with pytest.raises(InvalidInputError, match=r"calibration\.moments\.a"):
        merge_tensor(METHODS["ota"], torch.zeros(2), {"a": torch.ones(2)}, statistics=statistics)


def test_weights_that_are_all_zero_are_refused() -> None:
    for name in ("fisher", "ota", "regmean", "mats"):
        with pytest.raises(InvalidInputError, match="weight"):
            merge_tensor(METHODS[name], torch.zeros(2), {"a": torch.ones(2)}, weight=0.0)


class CalibratedContract(MethodContract):
    """The laws, with statistics that a tensor of each sort would have."""

    def merge(self, base: Tensors, models: Mapping[str, Tensors], seed: int = 3) -> dict[str, Tensor]:
        roles = {"matrix": "mlp.up", "embedding": "embedding", "norm": "norm.mlp"}
        generator = torch.Generator().manual_seed(11)
        statistics = {name: self.statistics(name, tensor, list(models), generator) for name, tensor in base.items()}
        return merge_tensors(
            self.method, base, models, roles=roles, statistics=statistics, seed=seed, **self.parameters
        )

    def statistics(self, name: str, like: Tensor, sources: list[str], generator: torch.Generator) -> Any:
        """The same for all sources, so that their names cannot matter."""
        entries = torch.rand(like.shape, generator=generator)
        found = dict.fromkeys(
            ("fisher", "second_moment", "saliency", "base_saliency", "votes"), entries
        )  # fmt: skip
        if name == "matrix":
            x, g = (torch.randn(30, n, generator=generator) for n in (like.shape[1], like.shape[0]))
            found |= {"gram": x.T @ x, "output_gram": g.T @ g, "base_features": x[:4], "merged_gram": x.T @ x}
        found |= {"hidden": torch.rand(5, 3, generator=generator), "loss": torch.ones(1)}
        wanted = self.method.requires
        every = {s: {k: t for k, t in found.items() if k in wanted} for s in sources}
        if "logit_distance" in wanted:
            for i, s in enumerate(sources):
                every[s]["logit_distance"] = torch.ones(len(sources)) - torch.eye(len(sources))[i]
        return every


class TestFisher(CalibratedContract):
    method: Method = METHODS["fisher"]


class TestOta(CalibratedContract):
    method: Method = METHODS["ota"]


class TestOtaFfg(CalibratedContract):
    method: Method = METHODS["ota_ffg"]
    parameters: Mapping[str, Any] = {"rescale": True}


class TestRegmean(CalibratedContract):
    method: Method = METHODS["regmean"]


class TestRegmeanPlusPlus(CalibratedContract):
    method: Method = METHODS["regmean_plus_plus"]


class TestMats(CalibratedContract):
    method: Method = METHODS["mats"]


class TestLed(CalibratedContract):
    method: Method = METHODS["led"]


class TestObim(CalibratedContract):
    method: Method = METHODS["obim"]


class TestOsrm(CalibratedContract):
    method: Method = METHODS["osrm"]


class TestRcp(CalibratedContract):
    method: Method = METHODS["rcp"]
    parameters: Mapping[str, Any] = {"reasoning": {"a": True}, "prior": 0.0}
    orderless = False

    def test_sources_equal_to_the_base_give_the_base(self) -> None:
        base, models = self.models()
        found = self.merge(base, {source: dict(base) for source in models})

        assert all(torch.equal(found[name], base[name]) for name in base)


class TestSens(CalibratedContract):
    method: Method = METHODS["sens"]


class TestRecall(CalibratedContract):
    method: Method = METHODS["recall"]


class TestCocktail(CalibratedContract):
    method: Method = METHODS["lm_cocktail_measured"]
