"""Methods with learned coefficients against public code (tests/golden/README.md), and the laws of all methods."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from evomerge.merge.calibration.learn import gates, losses
from evomerge.merge.calibration.learn.adam import Adam, Steps
from evomerge.merge.calibration.learn.atoms import Atoms
from evomerge.merge.calibration.learn.frank_wolfe import chosen, scores_of
from evomerge.merge.calibration.learn.gates import Chunks, Columns
from evomerge.merge.calibration.learn.learners import LEARNERS
from evomerge.merge.method import Method
from evomerge.merge.methods import METHODS
from evomerge.merge.methods.learned import METHODS as LEARNED
from evomerge.merge.plan import TensorJob
from evomerge.merge.stages.learned import STAGES
from evomerge.models.architecture import Part
from evomerge.testing.merging import MethodContract, Tensors, merge_tensor, merge_tensors

GOLDEN = Path(__file__).parents[3] / "golden" / "learned" / "numbers.safetensors"
LABELS = torch.zeros(7, dtype=torch.long)


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN)


def merged(golden: Mapping[str, Tensor], method: str, coefficients: Mapping[str, Tensor], **parameters: Any) -> Tensor:
    (kind,) = METHODS[method].requires
    statistics = {"w": {s: {kind: c} for s, c in coefficients.items()}}
    models = {s: golden[f"{s}/matrix"] for s in coefficients}
    return merge_tensor(METHODS[method], golden["base/matrix"], models, statistics=statistics, **parameters)


def atoms(golden: Mapping[str, Tensor], sources: str = "abc", shape: str = "matrix", name: str = "w") -> Atoms:
    job = TensorJob(name, torch.float32, False, False, {}, {s: {} for s in sources}, tuple(sources), Part("mlp.up", 0))
    base = golden["base/matrix"] if shape == "matrix" else torch.zeros(9)
    return Atoms(job, base, {s: golden[f"{s}/{shape}"] - base for s in sources}, False)


@pytest.mark.proves("dam", by="golden")
@pytest.mark.parametrize("shape", ["none", "tanh", "sigmoid", "relu"])
def test_dam_weighs_columns_as_the_authors_do(golden: dict[str, Tensor], shape: str) -> None:
    send = {"none": lambda c: c, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "relu": torch.relu}[shape]
    raw = {s: golden[f"{s}/columns"] for s in "abc"}
    found = merged(golden, "dam", {s: send(c) for s, c in raw.items()})
    made = Columns({"w": atoms(golden)}, lambda name, s: 0.0, whole=True, learns=lambda a: True, shape=send,
                   penalties=gates.similarity)  # fmt: skip
    for parameter, s in zip(made.parameters, "abc", strict=True):
        parameter.data.copy_(raw[s])

    torch.testing.assert_close(found, golden[f"dam/{shape}"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(made.weights("w").detach(), golden[f"dam/{shape}"], rtol=1e-5, atol=1e-5)
    assert {s: True for s, _, c in made.learned() if torch.equal(c, send(raw[s]))} == dict.fromkeys("abc", True)


@pytest.mark.proves("dam", by="golden")
def test_dams_losses_and_optimizer_are_the_authors(golden: dict[str, Tensor]) -> None:
    c = [golden[f"{s}/columns"] for s in "abc"]
    own, expert = losses.Output(golden["logits/own"]), losses.Output(golden["logits/expert"])
    similar, common = gates.similarity(c), gates.overlap(c)
    assert similar is not None
    assert common is not None
    moved = c[0].clone()
    steps = Steps(Adam(0.1, decay=0.01, moving=0.4), [moved])
    for step in range(4):
        moved.grad = golden[f"gradient/{step}"].clone()
        steps.step()

    torch.testing.assert_close(0.01 * similar, golden["dam/similarity"])
    torch.testing.assert_close(1e-5 * common, golden["dam/overlap"])
    torch.testing.assert_close(sum(x.norm(1) * 1e-3 + x.norm(2) * 1e-2 for x in c), golden["dam/l1_l2"])
    torch.testing.assert_close(losses.divergence(2.0)(own, expert, LABELS), golden["dam/kl"])
    torch.testing.assert_close(moved, golden["mofo"])


@pytest.mark.proves("adamerging_plus_plus", by="golden")
def test_adamerging_plus_plus_keeps_the_entries_that_the_authors_keep(golden: dict[str, Tensor]) -> None:
    """Trimmed together to a fifth, each source's own, where it has the elected sign."""
    for s in "abc":
        c = {source: torch.tensor([float(source == s)]) for source in "abc"}
        found = merged(golden, "adamerging_plus_plus", c) - golden["base/matrix"]

        ours, theirs = found.abs() > 1e-6, golden[f"adamerging/{s}"] != 0
        # int(.2·108) = 21 entries are kept here; the authors keep the 22 from the 87th smallest on
        assert int((theirs & ~ours).sum()) <= 1
        assert not (ours & ~theirs).any()
        torch.testing.assert_close(found[ours], golden[f"adamerging/{s}"][ours], rtol=1e-4, atol=2e-6)


@pytest.mark.proves("adamerging", by="golden")
@pytest.mark.proves("adamerging_plus_plus", by="golden")
def test_adamergings_entropy_is_the_authors(golden: dict[str, Tensor]) -> None:
    torch.testing.assert_close(losses.entropy(losses.Output(golden["logits/own"]), None, LABELS), golden["entropy"])


@pytest.mark.proves("expert_merging", by="golden")
def test_expert_merging_scales_and_regularises_as_the_authors_do(golden: dict[str, Tensor]) -> None:
    models = {"a": golden["a/matrix"]}
    statistics = {"w": {"a": {"learned_chunks": golden["expert_merging/chunks"]}}}
    found = merge_tensor(METHODS["expert_merging"], torch.zeros(12, 9), models, statistics=statistics)
    v, w = (atoms(golden, "ab", name=n) for n in "vw")
    made = Chunks({"v": v, "w": w}, lambda name, s: 0.1, lambda name: 3 if name == "v" else 1, 5.0)
    for parameter, z in zip(made.parameters, (*golden["z"], *(golden["z"][:, :1] * 2)), strict=True):
        parameter.data.copy_(z)
    hidden = (torch.zeros(2, 3),)
    own, expert = (losses.Output(golden[f"logits/{n}"], hidden) for n in ("own", "expert"))

    torch.testing.assert_close(found, golden["expert_merging/scaled"])
    torch.testing.assert_close(losses.alignment(1.5, 1.0)(own, expert, LABELS), golden["expert_merging/ce"])
    torch.testing.assert_close(made.penalty(), golden["expert_merging/regularisation"])


@pytest.mark.proves("fw_merging", by="golden")
def test_frank_wolfe_picks_the_models_that_the_public_code_picks(golden: dict[str, Tensor]) -> None:
    scores = {
        "matrix": scores_of(atoms(golden), golden["gradient/matrix"], "cosine"),
        "norm": scores_of(atoms(golden, shape="columns"), golden["gradient/0"], "cosine"),
    }
    each, one = chosen(scores, False), chosen(scores, True)

    assert [ord(each["matrix"]), ord(each["norm"]), ord(one["norm"])] == golden["frank_wolfe/choices"].tolist()
    assert sum(found[one["norm"]] for found in scores.values()) == pytest.approx(float(golden["frank_wolfe/total"]))


@pytest.mark.proves("ziplora", by="golden")
def test_ziplora_gates_columns_as_the_public_code_does(golden: dict[str, Tensor]) -> None:
    c = {s: golden[f"{s}/columns"] for s in "ab"}

    found = merged(golden, "ziplora", c) - golden["base/matrix"]
    torch.testing.assert_close(found, golden["ziplora/weight"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gates.products(list(c.values())), golden["ziplora/similarity"])


def test_every_learned_kind_has_a_learner_whose_parameters_exist() -> None:
    kinds = {kind for m in LEARNED for kind in m.requires}

    assert kinds == set(LEARNERS) == {kind for s in (*STAGES, METHODS["dam"]) for kind in s.requires}
    for found in LEARNED:
        (kind,) = found.requires
        declared = {p.name for p in found.parameters}
        assert set(LEARNERS[kind].parameters) <= declared
        per_tensor = {"weight", "chunks", "density", "scope", "election", "sign_ties"}
        assert declared - set(LEARNERS[kind].parameters) - set(LEARNERS[kind].neutral) <= per_tensor


class LearnedContract(MethodContract):
    """The laws, under coefficients that are the same for all sources."""

    coefficient = 0.3

    def merge(self, base: Tensors, models: Mapping[str, Tensors], seed: int = 3) -> dict[str, Tensor]:
        roles = {"matrix": "mlp.up", "embedding": "embedding", "norm": "norm.mlp"}
        (kind,) = self.method.requires
        own = {s: {kind: torch.tensor([self.coefficient])} for s in models}
        statistics = {name: {**own, "": {kind: torch.ones(1)}} for name in base}
        return merge_tensors(
            self.method, base, models, roles=roles, statistics=statistics, seed=seed, **self.parameters
        )


class TestAdaMerging(LearnedContract):
    method: Method = METHODS["adamerging"]


class TestAdaMergingPlusPlus(LearnedContract):
    method: Method = METHODS["adamerging_plus_plus"]


class TestDam(LearnedContract):
    method: Method = METHODS["dam"]
    coefficient = 1 / 3


class TestExpertMerging(LearnedContract):
    method: Method = METHODS["expert_merging"]


class TestConcrete(LearnedContract):
    method: Method = METHODS["concrete"]


class TestConcreteAdaMerging(LearnedContract):
    method: Method = METHODS["concrete_adamerging"]


class TestFwSoft(LearnedContract):
    method: Method = METHODS["fw_soft"]


class TestFwMerging(LearnedContract):
    method: Method = METHODS["fw_merging"]


class TestZipLora(LearnedContract):
    method: Method = METHODS["ziplora"]
