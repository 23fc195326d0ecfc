"""Merges with learned coefficients, from recipe to weights: what they read, what they cache, what they come to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge.calibration.learn.student import Student
from evomerge.merge.execute import merge_to_directory
from evomerge.merge.methods import METHODS
from evomerge.merge.resident import Resident
from evomerge.merge.stages import STAGES
from evomerge.recipe.schema import Merge, Recipe, Rule

FEW: dict[str, dict[str, Any]] = {
    "adamerging": {"learning_rate": 0.03},
    "adamerging_plus_plus": {"learning_rate": 0.03, "density": 0.5, "scope": "global"},
    "dam": {"learning_rate": 0.02},
    "expert_merging": {"learning_rate": 0.3, "chunks": 2.0, "regularisation": 0.1},
    "concrete": {"learning_rate": 0.1, "one_for": "column", "loss": "kl"},
    "concrete_adamerging": {
        "learning_rate": 0.1,
        "one_for": "column",
        "loss": "entropy",
        "inner_rate": 0.1,
        "last_steps": 1.0,
        "last_rate": 0.03,
    },
    "fw_merging": {"length": 0.5, "score": "inner"},
    "fw_soft": {
        "score": "inner",
        "learning_rate": 0.05,
        "inner_steps": 1.0,
        "inner_batch": 2.0,
        "inner_loss": "likelihood",
    },
    "ziplora": {"learning_rate": 0.02},
}
LOSSES = {"adamerging": "entropy", "adamerging_plus_plus": "entropy", "dam": "kl", "expert_merging": "kl",
          "concrete": "kl", "fw_merging": "likelihood", "ziplora": "squares",
          "concrete_adamerging": "entropy", "fw_soft": "likelihood"}  # fmt: skip
MATRIX, HEAD, NORM = "model.layers.1.mlp.down_proj.weight", "lm_head.weight", "model.norm.weight"


def asked(herd: Any, method: str, *names: str, steps: float = 4.0, **parameters: Any) -> Recipe:
    recipe: Recipe = herd.recipe(
        method, *(names or ("a", "b", "c")), parameters={"steps": steps, "batch": 2.0, **FEW[method], **parameters}
    )
    return recipe


def merged(recipe: Recipe, out: Path, cache: Path | None = None) -> dict[str, Tensor]:
    merge_to_directory(recipe, out, root=Path(), cache=cache)
    return load_file(out / "model.safetensors")


def weights(herd: Any, name: str) -> dict[str, Tensor]:
    return load_file(herd.root / name / "model.safetensors")


def learned(cache: Path, kind: str) -> dict[str, Tensor]:
    """`<source> <tensor>` → coefficients."""
    (place,) = (cache / "calibration").glob(f"{kind}-*")
    found: dict[str, Tensor] = {}
    for file in place.glob("*.safetensors"):
        found |= load_file(file)
    assert len(found.pop("steps")) == 1
    return found


@pytest.mark.parametrize("method", FEW)
def test_files_and_the_live_model_get_the_same_bytes(herd: Any, method: str, tmp_path: Path) -> None:
    """Each with a cache of its own: the learning itself comes to the same."""
    recipe = asked(herd, method)
    files = merged(recipe, tmp_path / "out", tmp_path / "one")
    again = merged(recipe, tmp_path / "again", tmp_path / "two")
    resident = Resident(recipe, cache=tmp_path / "three")
    resident.materialize(recipe)

    live = dict(resident.model.named_parameters())
    assert all(torch.equal(tensor, again[name]) for name, tensor in files.items())
    assert all(torch.equal(tensor, live[name].data) for name, tensor in files.items())
    still = merged(asked(herd, method, steps=0.0), tmp_path / "still", tmp_path / "one")
    assert any(not torch.equal(tensor, still[name]) for name, tensor in files.items())


def same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert set(found) == set(expected)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.proves("adamerging", by="property")
@pytest.mark.proves("concrete", by="property")
@pytest.mark.proves("fw_merging", by="property")
@pytest.mark.proves("concrete_adamerging", by="property")
@pytest.mark.parametrize("method", ["adamerging", "concrete", "concrete_adamerging", "fw_merging"])
def test_nothing_learned_is_task_arithmetic(herd: Any, method: str, tmp_path: Path) -> None:
    expected = merged(herd.recipe("task_arithmetic", "a", "b", "c", parameters={"lambda": 0.3}), tmp_path / "plain")
    none = {"last_steps": 0.0} if method == "concrete_adamerging" else {}

    same(merged(asked(herd, method, steps=0.0, **none), tmp_path / "out"), expected)


@pytest.mark.proves("fw_soft", by="property")
def test_one_soft_step_towards_all_models_is_adamerging(herd: Any, tmp_path: Path) -> None:
    ada = merged(asked(herd, "adamerging", "a", "b"), tmp_path / "ada")
    soft = {"inner_steps": 4.0, "learning_rate": 0.03, "inner_loss": "entropy", "granularity": "tensor"}
    found = merged(asked(herd, "fw_soft", "a", "b", steps=1.0, **soft), tmp_path / "soft")
    none = merged(asked(herd, "fw_soft", "a", "b", steps=0.0), tmp_path / "none")

    same(found, ada)
    same(none, weights(herd, "base"))


@pytest.mark.proves("concrete_adamerging", by="property")
def test_a_mask_that_never_moves_leaves_adamerging(herd: Any, tmp_path: Path) -> None:
    ada = merged(asked(herd, "adamerging", "a", "b"), tmp_path / "ada")
    still = {"loss": "entropy", "last_steps": 4.0}

    same(merged(asked(herd, "concrete_adamerging", "a", "b", steps=0.0, **still), tmp_path / "out"), ada)


@pytest.mark.proves("expert_merging", by="property")
def test_expert_merging_starts_from_a_tenth_and_leaves_all_but_matrices_alone(herd: Any, tmp_path: Path) -> None:
    base, tenth = weights(herd, "base"), merged(
        herd.recipe("task_arithmetic", "a", "b", "c", parameters={"lambda": 0.1}), tmp_path / "plain"
    )  # fmt: skip
    still = merged(asked(herd, "expert_merging", steps=0.0), tmp_path / "still")
    moved = merged(asked(herd, "expert_merging"), tmp_path / "moved")

    for name in base:
        matrix = "_proj" in name
        torch.testing.assert_close(still[name], tenth[name] if matrix else base[name], rtol=1e-5, atol=1e-6)
        assert torch.equal(moved[name], base[name]) != matrix


@pytest.mark.proves("dam", by="property")
def test_dam_starts_from_the_average_of_the_models(herd: Any, tmp_path: Path) -> None:
    expected = merged(herd.recipe("linear", "a", "b", "c"), tmp_path / "plain")

    same(merged(asked(herd, "dam", steps=0.0), tmp_path / "out"), expected)


@pytest.mark.proves("ziplora", by="property")
def test_ziplora_starts_from_the_sum(herd: Any, tmp_path: Path) -> None:
    expected = merged(herd.recipe("task_arithmetic", "a", "b", "c"), tmp_path / "plain")

    same(merged(asked(herd, "ziplora", steps=0.0), tmp_path / "out"), expected)


@pytest.mark.proves("dam", by="property")
def test_dam_folds_to_the_sum_of_weights_times_diagonals(herd: Any, tmp_path: Path) -> None:
    found = merged(asked(herd, "dam", "a", "b"), tmp_path / "out", tmp_path / "cache")
    c = learned(tmp_path / "cache", "learned_columns")
    own = {s: weights(herd, s) for s in "ab"}

    for name in (MATRIX, HEAD):
        parts = [own[s][name].double() @ torch.diag(c[f"{s} {name}"].double()) for s in "ab"]
        torch.testing.assert_close(found[name], torch.stack(parts).sum(0).float(), rtol=1e-5, atol=1e-6)
        assert not torch.allclose(c[f"a {name}"], torch.tensor(0.5))
    assert torch.equal(c[f"a {NORM}"], torch.full((16,), 0.5))


@pytest.mark.proves("ziplora", by="property")
def test_ziplora_folds_to_task_vectors_times_diagonals(herd: Any, tmp_path: Path) -> None:
    found = merged(asked(herd, "ziplora", "a", "b"), tmp_path / "out", tmp_path / "cache")
    c = learned(tmp_path / "cache", "learned_gates")
    base, own = weights(herd, "base"), {s: weights(herd, s) for s in "ab"}

    deltas = sum((own[s][MATRIX] - base[MATRIX]) @ torch.diag(c[f"{s} {MATRIX}"]) for s in "ab")
    torch.testing.assert_close(found[MATRIX], base[MATRIX] + deltas, rtol=1e-5, atol=1e-6)


@pytest.mark.proves("expert_merging", by="property")
def test_expert_merging_weighs_consecutive_chunks(herd: Any, tmp_path: Path) -> None:
    found = merged(asked(herd, "expert_merging", "a", "b"), tmp_path / "out", tmp_path / "cache")
    c = learned(tmp_path / "cache", "learned_chunks")
    base, own = weights(herd, "base"), {s: weights(herd, s) for s in "ab"}

    expected = base[MATRIX].flatten().clone()
    for s in "ab":
        pieces = (own[s][MATRIX] - base[MATRIX]).flatten().chunk(2)
        expected += torch.cat([w * x for w, x in zip(c[f"{s} {MATRIX}"], pieces, strict=True)])
    torch.testing.assert_close(found[MATRIX].flatten(), expected, rtol=1e-5, atol=1e-6)
    assert all(0 < float(w) < 1 for t in c.values() for w in t)


@pytest.mark.proves("concrete", by="property")
def test_concrete_multiplies_all_task_vectors_by_one_mask(herd: Any, tmp_path: Path) -> None:
    found = merged(asked(herd, "concrete", "a", "b"), tmp_path / "out", tmp_path / "cache")
    mask = learned(tmp_path / "cache", "learned_mask")[f" {MATRIX}"]
    base, own = weights(herd, "base"), {s: weights(herd, s) for s in "ab"}

    assert mask.shape == (1, 24)
    assert float(mask.mean()) == pytest.approx(1.0, abs=1e-6)
    expected = base[MATRIX] + mask * 0.3 * sum(own[s][MATRIX] - base[MATRIX] for s in "ab")
    torch.testing.assert_close(found[MATRIX], expected, rtol=1e-5, atol=1e-6)


def loss(herd: Any, found: Mapping[str, Tensor], name: str) -> float:
    """Of merged weights on each source's items, by plain transformers."""
    total = 0.0
    model = herd.llama("base")
    for at, parameter in model.named_parameters():
        parameter.data = found[at]
    for source in "ab":
        expert = herd.llama(source)
        for ids in herd.ids(source, source):
            with torch.no_grad():
                own, its = model(ids).logits[0, :-1], expert(ids).logits[0, :-1]
            logs, target = own.log_softmax(-1), its.log_softmax(-1)
            total += float({
                "entropy": -(logs.exp() * logs).sum(-1).mean(),
                "kl": (target.exp() * (target - logs)).sum(-1).mean(),
                "squares": (own - its).square().mean(),
                "likelihood": torch.nn.functional.cross_entropy(own, ids[0, 1:]),
            }[name])  # fmt: skip
    return total


@pytest.mark.proves("adamerging", by="property")
@pytest.mark.proves("adamerging_plus_plus", by="property")
@pytest.mark.proves("dam", by="property")
@pytest.mark.proves("expert_merging", by="property")
@pytest.mark.proves("concrete", by="property")
@pytest.mark.proves("fw_merging", by="property")
@pytest.mark.proves("fw_soft", by="property")
@pytest.mark.proves("concrete_adamerging", by="property")
@pytest.mark.proves("ziplora", by="property")
@pytest.mark.parametrize("method", FEW)
def test_what_is_learned_lowers_the_loss_of_the_merged_model(herd: Any, method: str, tmp_path: Path) -> None:
    before = merged(asked(herd, method, "a", "b", steps=0.0), tmp_path / "before")
    after = merged(asked(herd, method, "a", "b", steps=8.0), tmp_path / "after")

    assert loss(herd, after, LOSSES[method]) < loss(herd, before, LOSSES[method])


@pytest.mark.proves("adamerging_plus_plus", by="property")
def test_adamerging_plus_plus_weighs_what_ties_leaves_of_each_source(herd: Any, tmp_path: Path) -> None:
    recipe = asked(herd, "adamerging_plus_plus", "a", "b", density=0.2)
    found = merged(recipe, tmp_path / "out", tmp_path / "cache")
    c = learned(tmp_path / "cache", "learned_weights")
    base, own = weights(herd, "base"), {s: weights(herd, s) for s in "ab"}
    deltas = {s: {n: own[s][n] - base[n] for n in base} for s in "ab"}
    trimmed = {}
    for s in "ab":
        flat = torch.cat([d.flatten() for d in deltas[s].values()]).abs()
        least = flat.topk(int(0.2 * flat.numel())).values[-1]
        trimmed[s] = {n: torch.where(d.abs() >= least, d, 0.0) for n, d in deltas[s].items()}

    for name in (MATRIX, HEAD):
        sign = (trimmed["a"][name] + trimmed["b"][name]).sign()
        expected = base[name].clone()
        for s in "ab":
            kept = torch.where(trimmed[s][name].sign() == sign, trimmed[s][name], 0.0)
            expected += float(c[f"{s} {name}"]) * kept
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6)


def test_what_is_learned_is_kept_and_no_pass_is_run_again(
    herd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    original = Student.output

    def counted(self: Student, *arguments: Any, **named: Any) -> Any:
        passes.append(1)
        return original(self, *arguments, **named)

    monkeypatch.setattr(Student, "output", counted)
    recipe = asked(herd, "adamerging")
    first = merged(recipe, tmp_path / "first", tmp_path / "cache")
    number = len(passes)
    second = merged(recipe, tmp_path / "second", tmp_path / "cache")
    half = merged(asked(herd, "adamerging", **{"lambda": 0.5}), tmp_path / "half", tmp_path / "cache")
    assert number == len(passes) == 4 * 6  # 4 steps, three sources, two items
    merged(asked(herd, "adamerging", weight=0.4), tmp_path / "other", tmp_path / "cache")

    assert len(passes) == 2 * number
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    base = weights(herd, "base")
    torch.testing.assert_close(half[MATRIX] - base[MATRIX], (first[MATRIX] - base[MATRIX]) / 2, rtol=1e-4, atol=1e-6)


def test_a_learning_that_ends_half_way_leaves_nothing_behind(
    herd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Student, *arguments: Any, **named: Any) -> Any:
        raise MemoryError("the machine is full")

    recipe = asked(herd, "adamerging")
    with monkeypatch.context() as patch:
        patch.setattr(Student, "output", broken)
        with pytest.raises(MemoryError):
            merged(recipe, tmp_path / "out", tmp_path / "cache")

    assert not [p for p in (tmp_path / "cache" / "calibration").iterdir() if not p.name.endswith(".lock")]
    assert merged(recipe, tmp_path / "out", tmp_path / "cache")


@pytest.mark.parametrize("method", ["dam", "ziplora", "concrete", "expert_merging"])
def test_a_family_that_stores_matrices_the_other_way_round(herd: Any, method: str, tmp_path: Path) -> None:
    """Nothing learned is a plain sum there, too, and what is learned is along the same columns in files and live."""
    still = merged(
        herd.recipe(method, "gpt2-a", base="gpt2", parameters={"steps": 0.0, "batch": 1.0}), tmp_path / "still"
    )
    recipe = herd.recipe(method, "gpt2-a", base="gpt2", parameters={"steps": 2.0, "batch": 1.0, **FEW[method]})
    found = merged(recipe, tmp_path / "out", tmp_path / "cache")
    resident = Resident(recipe, cache=tmp_path / "live")
    resident.materialize(recipe)
    base, own = weights(herd, "gpt2"), weights(herd, "gpt2-a")

    (name,) = (n for n in base if n.endswith("mlp.c_fc.weight"))  # stored (in × out)
    factor = {"dam": 1.0, "ziplora": 1.0, "concrete": 0.3, "expert_merging": 0.1}[method]
    torch.testing.assert_close(still[name], base[name] + factor * (own[name] - base[name]), rtol=1e-4, atol=1e-6)
    if method in ("dam", "ziplora"):
        (kind,) = {"dam": ["learned_columns"], "ziplora": ["learned_gates"]}[method]
        c = learned(tmp_path / "cache", kind)[f"gpt2-a {name}"]
        rest = torch.zeros_like(base[name]) if method == "dam" else base[name]
        torch.testing.assert_close(found[name], rest + c[:, None] * (own[name] - rest), rtol=1e-4, atol=1e-6)
    live = {n.removeprefix("transformer."): p for n, p in resident.model.named_parameters()}
    assert torch.equal(live[name.removeprefix("transformer.")].data, found[name])


def test_what_is_learned_together_has_one_set_of_parameters(herd: Any, tmp_path: Path) -> None:
    recipe = asked(herd, "adamerging", "a", "b")
    rule = Rule(layers=(0, 0), parameters={"steps": 9.0})
    merge = Merge(method="adamerging", parameters=recipe.merge.parameters, rules=(rule,))

    with pytest.raises(InvalidInputError, match=r"merge\.steps at .*got 9\.0; expected one value for all tensors"):
        merged(recipe.model_copy(update={"merge": merge}), tmp_path / "out")


def test_rules_may_start_tensors_apart(herd: Any, tmp_path: Path) -> None:
    recipe = asked(herd, "adamerging", "a", "b", steps=0.0)
    rule = Rule(layers=(1, 1), parameters={"weight": 0.7})
    merge = Merge(method="adamerging", parameters=recipe.merge.parameters, rules=(rule,))
    merged(recipe.model_copy(update={"merge": merge}), tmp_path / "out", tmp_path / "cache")
    c = learned(tmp_path / "cache", "learned_weights")

    assert float(c[f"a {MATRIX}"]) == pytest.approx(0.7)
    assert float(c[f"a {HEAD}"]) == pytest.approx(0.3)


def test_a_base_as_a_source_and_models_like_the_base_change_nothing(herd: Any, tmp_path: Path) -> None:
    base = weights(herd, "base")
    recipe = herd.recipe("adamerging", "a").model_copy(update={})
    data = recipe.model_dump(by_alias=True, mode="json", exclude_none=True)
    data["sources"] = {"a": {"location": str(herd.root / "base")}}

    found = merged(Recipe.model_validate(data), tmp_path / "out")
    assert all(torch.equal(found[name], tensor) for name, tensor in base.items())


def test_a_pipeline_may_end_in_learned_coefficients(herd: Any, tmp_path: Path) -> None:
    recipe = herd.recipe("adamerging_plus_plus", "a", "b")
    parameters = {"density": 0.5, "steps": 2.0, "batch": 1.0, "learning_rate": 0.03}
    chain = Merge(method="pipeline", pipeline=("trim", "elect", "learned_sum", "scale"), parameters=parameters)
    named = Merge(method="adamerging_plus_plus", parameters=parameters)
    first = merged(recipe.model_copy(update={"merge": chain}), tmp_path / "chain")
    second = merged(recipe.model_copy(update={"merge": named}), tmp_path / "named")

    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_other_statistics_beside_learned_coefficients_are_refused(herd: Any, tmp_path: Path) -> None:
    reading = [name for name, stage in STAGES.items() if stage.requires and stage.kind not in ("aggregate", "post")]
    chain = Merge(method="pipeline", pipeline=(reading[0], "learned_sum"))

    with pytest.raises(InvalidInputError, match=r"merge\.pipeline: .*no other stage that reads statistics"):
        merged(herd.recipe("adamerging", "a", "b").model_copy(update={"merge": chain}), tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["adamerging", "dam", "expert_merging", "concrete", "fw_merging"])
def test_learning_in_half_precision(herd: Any, method: str, tmp_path: Path) -> None:
    """Models run in bfloat16; coefficients are float32 all the same, and near those of float32."""
    kind = next(iter(METHODS[method].requires))
    found = {}
    for dtype in ("float32", "bfloat16"):
        recipe = herd.recipe(method, "a", "b", parameters={"steps": 3.0, "batch": 2.0, **FEW[method]},
                             calibration={"dtype": dtype})  # fmt: skip
        merged(recipe, tmp_path / dtype, tmp_path / f"cache {dtype}")
        found[dtype] = learned(tmp_path / f"cache {dtype}", kind)

    apart = [(found["bfloat16"][n] - c).abs().mean() for n, c in found["float32"].items()]
    assert all(c.dtype == torch.float32 for c in found["bfloat16"].values())
    assert float(torch.stack(apart).mean()) < 0.15
