"""Searches over sources that are multimodal, in another order of units, or of another vocabulary: tiny real models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
)
from typer.testing import CliRunner

from api.cli import app
from api.problems import Problem
from api.seeding import with_seeds
from api.submission import check, read
from evomerge.recipe.schema import Recipe
from evomerge.recipe.text import dump_yaml
from evomerge.run.spec import RunSpec
from evomerge.storage.sql import open_store
from evomerge.storage.store import Store
from fitness.items import load_eval_set
from fitness.scorer import make_scorer
from tests.workers.tiny_run import make_registry, run_spec, whole_run
from workers.registry import Registry
from workers.replay import replay
from workers.setup import prepare

TEXTS = {"host": "vision", "sources": {"vision": {}}}
VISION = CLIPVisionConfig(
    hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4,
    projection_dim=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """The tiny models, and of `ja`: a twin with its MLPs in another order (`twin`); a LLaVA on it (`vision`);
    and itself with two more tokens (`chat`)."""
    folder = tmp_path_factory.mktemp("models")
    known = make_registry(folder)
    weights = load_file(folder / "ja" / "model.safetensors")
    save_like(folder / "ja", folder / "twin", {name: shuffled(name, tensor) for name, tensor in weights.items()})
    save_vision(folder / "ja", folder / "vision", weights)
    save_chat(folder / "ja", folder / "chat", weights)
    models = {name: str(folder / name) for name in ("base", "math", "ja", "twin", "vision", "chat")}
    return Registry.of(models, {name: str(path) for name, path in known.eval_sets.items()}, folder)


def shuffled(name: str, tensor: Tensor) -> Tensor:
    order = torch.randperm(64, generator=torch.Generator().manual_seed(3))
    if "gate_proj" in name or "up_proj" in name:
        return tensor[order]
    return tensor[:, order] if "down_proj" in name else tensor


def save_like(model: Path, out: Path, tensors: dict[str, Tensor]) -> None:
    """A model's directory with other tensors."""
    AutoTokenizer.from_pretrained(model).save_pretrained(out)
    (out / "config.json").write_bytes((model / "config.json").read_bytes())
    save_file({n: t.contiguous() for n, t in tensors.items()}, out / "model.safetensors", metadata={"format": "pt"})


def save_vision(text: Path, out: Path, weights: dict[str, Tensor]) -> None:
    torch.manual_seed(1)
    config = LlavaConfig(vision_config=VISION, text_config=LlamaConfig.from_pretrained(text), image_token_index=255)
    model = LlavaForConditionalGeneration(config)
    model.model.language_model.load_state_dict(
        {name.removeprefix("model."): tensor for name, tensor in weights.items() if name.startswith("model.")}
    )
    model.lm_head.weight.data.copy_(weights["lm_head.weight"])
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(text).save_pretrained(out)


def save_chat(text: Path, out: Path, weights: dict[str, Tensor]) -> None:
    """Two tokens more: `times` and `=`, which the items' contexts have."""
    model = LlamaForCausalLM.from_pretrained(text)
    model.resize_token_embeddings(260, mean_resizing=False)
    torch.manual_seed(2)
    with torch.no_grad():
        for table in (model.get_input_embeddings().weight, model.lm_head.weight):
            table[258:] = 0.2 * torch.randn(2, 32)
    model.save_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(text)
    tokenizer.add_tokens(["times", "="])
    tokenizer.save_pretrained(out)


def spec_of(second: str, **changes: Any) -> dict[str, Any]:
    models = {"base": "base", "sources": {"math": "math", second: second}}
    space = {"kind": "parameter", "method": "ties", "density": [0.2, 0.9]}
    return run_spec(**{"models": models, "space": space, "budget": {"candidates": 6}, "verify": {"top": 1}, **changes})


def searched(folder: Path, registry: Registry, spec: dict[str, Any]) -> tuple[Store, str]:
    store, run = whole_run(folder, registry, spec)
    row = store.run(run)
    assert row is not None
    assert (row.state, row.summary["failed"]) == ("succeeded", 0), row.reason
    assert replay(store, run, registry).candidates == 6
    return store, run


def holdout(store: Store, run: str, number: int) -> tuple[list[str], list[float]]:
    row = store.candidate(run, number)
    assert row is not None
    found = row.responses["holdout"]["sums"]
    return found["item_ids"], found["values"]["choice_probability"]


def downloaded(store: Store, run: str, folder: Path) -> tuple[int, Recipe, Path]:
    """The winner's recipe, merged as a person does it."""
    row = store.run(run)
    assert row is not None
    number = row.summary["result"]["winner"]
    candidate = store.candidate(run, number)
    assert candidate is not None
    recipe = Recipe.model_validate(candidate.recipe)
    (folder / "best.yaml").write_text(dump_yaml(recipe), encoding="utf-8")
    done = CliRunner().invoke(app, ["merge", str(folder / "best.yaml"), str(folder / "out")])
    assert done.exit_code == 0, done.output
    return number, recipe, folder / "out"


def plain_answers(model: Any, at: Path, items: Path, ids: list[str]) -> list[float]:
    """The probability of the right choice, from transformers' own logits, text after text."""
    tokenizer = AutoTokenizer.from_pretrained(at)
    found = []
    for item in load_eval_set("sums", items).pick(tuple(ids)):
        context = len(tokenizer(item.context).input_ids)
        logs = []
        for choice in item.choices:
            tokens = torch.tensor([tokenizer(item.context + choice).input_ids])
            with torch.no_grad():
                shares = model(input_ids=tokens).logits.log_softmax(-1)
            told = shares[0, context - 1 : -1].gather(1, tokens[0, context:, None])
            logs.append(float(told.sum()))
        found.append(float(torch.tensor(logs).softmax(0)[item.label]))
    return found


@pytest.mark.slow
def test_a_search_keeps_the_encoder_of_a_multimodal_source(registry: Registry, tmp_path: Path) -> None:
    store, run = searched(tmp_path, registry, spec_of("vision", carry=TEXTS, chat_template="auto"))
    number, recipe, out = downloaded(store, run, tmp_path)
    model, loading = LlavaForConditionalGeneration.from_pretrained(out, dtype=torch.float32, output_loading_info=True)
    ids, answers = holdout(store, run, number)
    own, kept = (load_file(at / "model.safetensors") for at in (registry.model("vision"), out))
    encoder = [name for name in own if not name.startswith("language_model.")]
    base, source = store.candidate(run, 0), store.candidate(run, 3)
    store.close()

    assert recipe.carry is not None
    assert recipe.chat_template == "auto"
    assert not loading["missing_keys"] | loading["unexpected_keys"]
    np.testing.assert_allclose(plain_answers(model, out, registry.eval_set("sums"), ids), answers, atol=1e-5)
    assert encoder
    assert all(kept[name].equal(own[name]) for name in encoder)
    assert base is not None
    assert source is not None
    assert Recipe.model_validate(base.recipe).carry is None
    assert Recipe.model_validate(source.recipe).carry == recipe.carry


@pytest.mark.slow
def test_a_search_aligns_a_source_once_for_all_its_candidates(registry: Registry, tmp_path: Path) -> None:
    aligned, plain = tmp_path / "aligned", tmp_path / "plain"
    for folder in (aligned, plain):
        folder.mkdir()
    store, run = searched(aligned, registry, spec_of("twin", align={"twin": {"method": "weights"}}))
    other, same = searched(plain, registry, spec_of("ja"))
    number, recipe, out = downloaded(store, run, aligned)
    ids, answers = holdout(store, run, number)
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    found = [store.candidate(run, n) for n in range(10)]
    wanted = [other.candidate(same, n) for n in (0, 1, 3, 2, 4, 5, 6, 7, 8, 9)]  # there `ja` comes before `math`
    maps = list((aligned / "cache").glob("align-*.safetensors"))
    store.close()
    other.close()

    assert recipe.align is not None
    np.testing.assert_allclose(plain_answers(model, out, registry.eval_set("sums"), ids), answers, atol=1e-5)
    assert len(maps) == 1
    for one, twin in zip(found[:4], wanted[:4], strict=True):  # base, average and both sources compute the same
        assert one is not None
        assert twin is not None
        assert one.responses["holdout"]["sums"]["values"]["choice_probability"] == pytest.approx(
            twin.responses["holdout"]["sums"]["values"]["choice_probability"], abs=1e-5
        )


HYBRID = {"space": {"kind": "hybrid", "merge": {"method": "ties"}, "path": {"encoding": "blocks"}}}


@pytest.mark.slow
@pytest.mark.parametrize(("tokenizer", "more"), [("union", {}), ("chat", {}), ("chat", HYBRID)])
def test_a_search_in_another_vocabulary_asks_in_the_words_of_its_winner(
    tokenizer: str, more: dict[str, Any], registry: Registry, tmp_path: Path
) -> None:
    how = {"tokenizer": tokenizer, "tokens": {"=": {"fill": "zero"}}, "pad_to_multiple_of": 8, **more}
    if more:
        how["optimizer"] = {"name": "auto"}
    store, run = searched(tmp_path, registry, spec_of("chat", **how))
    number, _, out = downloaded(store, run, tmp_path)
    ids, answers = holdout(store, run, number)
    sources = [holdout(store, run, n)[1] for n in (0, 2, 3)]
    store.close()
    loaded = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    scored = make_scorer(loaded, AutoTokenizer.from_pretrained(out)).score(
        load_eval_set("sums", registry.eval_set("sums")).pick(tuple(ids))
    )

    assert loaded.lm_head.weight.shape[0] == 264
    np.testing.assert_allclose(scored.values["choice_probability"], answers, atol=1e-5)  # type: ignore[union-attr]
    assert len({tuple(found) for found in sources}) == 3


@pytest.mark.slow
def test_a_lineage_crosses_aligned_sources(registry: Registry, tmp_path: Path) -> None:
    space = {"space": {"kind": "lineage"}, "optimizer": {"name": "m2n2"}}
    store, run = searched(tmp_path, registry, spec_of("twin", align={"twin": {"method": "weights"}}, **space))
    number, recipe, out = downloaded(store, run, tmp_path)
    ids, answers = holdout(store, run, number)
    store.close()
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)

    assert recipe.align is not None
    np.testing.assert_allclose(plain_answers(model, out, registry.eval_set("sums"), ids), answers, atol=1e-5)


def test_first_steps_by_size_look_at_aligned_sources(registry: Registry, tmp_path: Path) -> None:
    space = {"kind": "parameter", "prior": "delta_norm"}

    def steps(second: str, **changes: Any) -> dict[str, float]:
        spec = RunSpec.model_validate(spec_of(second, space=space, **changes))
        found = prepare(spec, registry, tmp_path / "cache").space
        return {name.split("/")[1]: kind.step for name, kind in zip(found.names, found.domain.kinds, strict=True)}

    plain, twisted = steps("ja"), steps("twin")
    aligned = steps("twin", align={"twin": {"method": "weights"}})

    assert aligned["twin"] == pytest.approx(plain["ja"], abs=1e-3)
    assert aligned["math"] == pytest.approx(plain["math"], abs=1e-3)
    assert abs(twisted["twin"] - plain["ja"]) > 0.05


def test_every_recipe_of_a_search_and_its_digest_say_what_is_shared(registry: Registry, tmp_path: Path) -> None:
    align = {"twin": {"method": "transport", "cost": "activations", "items": {"location": "sums"}}}
    shared = {"align": align, "tokenizer": "base", "chat_template": "{{ messages }}"}
    search = prepare(RunSpec.model_validate(spec_of("twin", **shared)), registry, tmp_path / "cache")
    plain = prepare(RunSpec.model_validate(spec_of("twin")), registry, tmp_path / "cache")
    _, digest = search.space.made(search.space.domain.start)  # type: ignore[attr-defined]
    recipe = search.space.recipe(search.space.domain.start)

    assert (recipe.tokenizer, recipe.chat_template) == ("base", "{{ messages }}")
    assert recipe.align is not None
    assert recipe.align["twin"].items.location == str(registry.eval_set("sums"))
    assert len(recipe.align["twin"].items.sha256) == 64
    assert digest == recipe.digest != plain.space.recipe(plain.space.domain.start).digest
    assert search.space.encode(recipe) == pytest.approx(search.space.domain.start)
    assert search.space.nearest(plain.space.recipe((0.3, 0.7, 0.2, 0.6))) == pytest.approx((0.3, 0.7, 0.2, 0.6))
    assert list(search.baselines["source:math"].align or {}) == []
    assert list(search.baselines["source:twin"].align or {}) == ["twin"]


@pytest.mark.parametrize(
    ("second", "changes", "field", "said"),
    [
        ("vision", {"carry": {"sources": {"nobody": {}}}}, "/carry/sources/nobody", "math, vision"),
        ("vision", {"carry": {"host": "math", "sources": {"vision": {}}}}, "/carry/host", "carried from: vision"),
        ("vision", {"carry": {"sources": {"vision": {"tensors": ["e*"]}}}}, "/carry/sources/vision/tensors", "pattern"),
        ("vision", {"carry": TEXTS, "space": {"kind": "data_flow"}}, "/carry", "kind parameter"),
        ("vision", {"carry": TEXTS, "space": {"kind": "lineage"}}, "/carry", "kind parameter"),
        ("vision", {}, "/models/sources/vision", "family"),
        ("ja", {"align": {"nobody": {"method": "weights"}}}, "/align/nobody", "ja, math"),
        ("ja", {"align": {"ja": {"method": "magic"}}}, "/align/ja", "weights"),
        ("ja", {"align": {"ja": {"method": "weights"}}, "space": {"kind": "data_flow"}}, "/align/ja", "no path visits"),
        ("ja", {"tokenizer": "french"}, "/tokenizer", "ja, math"),
        ("ja", {"tokenizer": "union", "space": {"kind": "lineage"}}, "/tokenizer", "lineage"),
        ("ja", {"tokens": {"x": {"model": "nobody"}}}, "/tokens/x/model", "ja, math"),
        ("ja", {"pad_to_multiple_of": 64, "space": {"kind": "data_flow"}}, "/pad_to_multiple_of", "host is base"),
    ],
)  # fmt: skip
def test_what_no_candidate_could_say_is_refused_with_its_field(
    second: str, changes: dict[str, Any], field: str, said: str, registry: Registry
) -> None:
    with pytest.raises(Problem) as problem:
        check(read(json.dumps(spec_of(second, **changes)).encode(), "application/json"), registry)

    (error,) = problem.value.errors
    assert error.pointer.startswith(field), error
    assert said in error.detail


def test_recipes_of_other_names_are_taken_along_with_all_that_names_a_source(
    registry: Registry, tmp_path: Path
) -> None:
    recipe = {
        "schema": "evomerge.recipe/1",
        "base": {"location": str(registry.model("base"))},
        "sources": {"eyes": {"location": str(registry.model("vision"))}, "sums": {"location": "math"}},
        "merge": {"method": "ties", "sources": {"eyes": {"weight": 0.25}}},
        "carry": {"host": "eyes", "sources": {"eyes": {}}},
        "align": {"sums": {"method": "weights"}},
        "tokenizer": "eyes",
        "tokens": {"=": {"model": "sums"}},
    }
    (tmp_path / "math").symlink_to(registry.model("math"))
    (tmp_path / "near.yaml").write_text(json.dumps(recipe))
    store = open_store(f"sqlite:///{tmp_path / 'store.sqlite3'}")
    asked = with_seeds(
        RunSpec.model_validate(spec_of("vision", carry=TEXTS)), [str(tmp_path / "near.yaml")], registry, store
    )
    store.close()
    (seed,) = asked.seeds
    space = prepare(asked, registry, tmp_path / "cache").space

    assert (list(seed.align or {}), seed.tokenizer) == (["math", "vision"], "vision")
    assert seed.carry is not None
    assert (seed.carry.host, list(seed.carry.sources)) == ("vision", ["vision"])
    assert (seed.tokens or {})["="].model == "math"
    nearest = space.recipe(space.nearest(seed))
    assert nearest.merge.sources["vision"]["weight"] == pytest.approx(0.25, abs=1e-3)
    assert nearest.tokenizer == "same"
