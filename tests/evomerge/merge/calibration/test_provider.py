"""Statistics against plain PyTorch; the cache."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import GPT2LMHeadModel

from evomerge.errors import CheckpointError, HashMismatchError, InvalidInputError, NonFiniteError
from evomerge.merge.calibration import stored
from evomerge.merge.calibration.provider import Provider
from evomerge.recipe.schema import Recipe

Provide = Callable[..., Any]
Q = "model.layers.0.self_attn.q_proj.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"
NORM = "model.layers.1.input_layernorm.weight"
EMBEDDING = "model.embed_tokens.weight"
FIRST = {"a": [1, 2, 1], "b": [3, 1], "c": [2, 1]}
"""Index of the first token of each item that counts as continuation."""


def changed(recipe: Recipe, **changes: Any) -> Recipe:
    assert recipe.calibration is not None
    return Recipe.model_validate(
        recipe.model_dump(by_alias=True) | {"calibration": recipe.calibration.model_dump() | changes}
    )


def inputs_of(model: Any, name: str, batches: list[Tensor]) -> list[Tensor]:
    """The inputs of a linear map, (tokens × in) an item."""
    seen: list[Tensor] = []
    module = model.get_submodule(name.removesuffix(".weight"))
    handle = module.register_forward_pre_hook(lambda module, args: seen.append(args[0][0].detach()))
    with torch.no_grad():
        for ids in batches:
            model(ids)
    handle.remove()
    return seen


def gradients(model: Any, name: str, batches: list[Tensor], first: list[int]) -> list[Tensor]:
    """Of each item's mean negative log-likelihood."""
    found = []
    for ids, begin in zip(batches, first, strict=True):
        model.zero_grad()
        picked = model(ids).logits[0].log_softmax(-1)[torch.arange(ids.shape[1] - 1), ids[0, 1:]]
        (-picked[begin - 1 :].mean()).backward()
        found.append(model.get_parameter(name).grad.clone())
    return found


def test_a_gram_matrix_is_that_of_hooked_inputs(herd: Any, provide: Provide) -> None:
    found = provide(herd.recipe("linear", "a", "b"), "gram")

    for source in "ab":
        for name in (Q, DOWN):
            x = torch.cat(inputs_of(herd.llama(source), name, herd.ids(source, source))).double()
            torch.testing.assert_close(found(name)[source]["gram"].double(), x.T @ x / len(x), rtol=1e-5, atol=1e-6)


def test_only_linear_maps_inside_the_model_have_gram_matrices(herd: Any, provide: Provide) -> None:
    found = provide(herd.recipe("linear", "a"), "gram")

    assert found(Q)["a"]["gram"].shape == (16, 16)
    assert found(DOWN)["a"]["gram"].shape == (24, 24)
    assert found(NORM)["a"] == found(EMBEDDING)["a"] == found("lm_head.weight")["a"] == {}


def test_an_adapter_runs_as_base_plus_delta(herd: Any, provide: Provide) -> None:
    recipe = herd.recipe("linear", "a", "c")
    found = provide(recipe, "gram")
    model = herd.llama("base")
    from evomerge.merge.inputs import open_inputs

    with open_inputs(recipe, Path(), lambda path: path) as inputs:
        source = inputs.sources["c"]
        for name in source.changed:
            model.get_parameter(name).data = source.weights(name).float()
    x = torch.cat(inputs_of(model, DOWN, herd.ids("base", "c"))).double()

    torch.testing.assert_close(found(DOWN)["c"]["gram"].double(), x.T @ x / len(x), rtol=1e-5, atol=1e-6)


def test_fisher_and_saliency_are_those_of_autograd_by_hand(herd: Any, provide: Provide) -> None:
    found = provide(herd.recipe("linear", "a", "b"), "fisher", "saliency")

    for source in "ab":
        model = herd.llama(source)
        for name in (Q, NORM, EMBEDDING, "lm_head.weight"):
            g = torch.stack(gradients(model, name, herd.ids(source, source), FIRST[source]))
            weight = model.get_parameter(name).detach()
            torch.testing.assert_close(found(name)[source]["fisher"], g.square().mean(0), rtol=1e-4, atol=1e-9)
            torch.testing.assert_close(
                found(name)[source]["saliency"], (weight * g).abs().mean(0), rtol=1e-4, atol=1e-9
            )


def test_saliency_of_the_base_is_on_the_sources_items(herd: Any, provide: Provide) -> None:
    found = provide(herd.recipe("linear", "b"), "base_saliency")
    model = herd.llama("base")
    g = torch.stack(gradients(model, Q, herd.ids("base", "b"), FIRST["b"]))

    expected = (model.get_parameter(Q).detach() * g).abs().mean(0)
    torch.testing.assert_close(found(Q)["b"]["base_saliency"], expected, rtol=1e-4, atol=1e-9)


def test_votes_decide_every_majority(herd: Any, provide: Provide) -> None:
    found = provide(herd.recipe("linear", "a", "b"), "votes")

    for source in "ab":  # an odd and an even number of items
        model = herd.llama(source)
        s = torch.stack(gradients(model, DOWN, herd.ids(source, source), FIRST[source]))
        s = s * model.get_parameter(DOWN).detach()
        for bound in (-1e-2, -1e-3, -1e-5, 0.0, 1e-4):
            ballots = torch.where(s <= bound, 1, -1).sum(0)
            assert ((found(DOWN)[source]["votes"] <= bound) == (ballots > 0)).float().mean() > 0.995  # but for rounding


def test_gram_of_output_gradients(herd: Any, provide: Provide) -> None:
    found = provide(herd.recipe("linear", "a"), "output_gram")
    model = herd.llama("a")
    rows: list[Tensor] = []
    module = model.get_submodule(Q.removesuffix(".weight"))
    handle = module.register_full_backward_hook(lambda module, gin, gout: rows.append(gout[0][0].detach()))
    gradients(model, Q, herd.ids("a", "a"), FIRST["a"])
    handle.remove()
    g = torch.cat(rows).double()

    assert g.shape == (12, 16)
    torch.testing.assert_close(found(Q)["a"]["output_gram"].double(), g.T @ g / len(g), rtol=1e-4, atol=1e-10)


def test_features_are_means_of_an_item(herd: Any, provide: Provide) -> None:
    found = provide(herd.recipe("linear", "a", "b"), "features", "base_features")
    own = torch.stack([x.mean(0) for x in inputs_of(herd.llama("b"), Q, herd.ids("b", "b"))])
    base = torch.stack([x.mean(0) for x in inputs_of(herd.llama("base"), Q, herd.ids("base", "b"))])

    torch.testing.assert_close(found(Q)["b"]["features"], own, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found(Q)["b"]["base_features"], base, rtol=1e-5, atol=1e-6)


def test_hidden_states_are_of_all_items_and_of_the_tensors_layer(herd: Any, provide: Provide) -> None:
    found = provide(herd.recipe("linear", "a", "b"), "hidden")
    with torch.no_grad():
        states = [herd.llama("a")(ids, output_hidden_states=True).hidden_states
                  for ids in herd.ids("a", "a") + herd.ids("a", "b")]  # fmt: skip

    for name, layer in ((EMBEDDING, 0), (Q, 1), (DOWN, 2), ("lm_head.weight", 2)):
        expected = torch.stack([state[layer][0].mean(0) for state in states])
        torch.testing.assert_close(found(name)["a"]["hidden"], expected, rtol=1e-5, atol=1e-6)


def test_loss_and_distances_of_logits(herd: Any, provide: Provide) -> None:
    found = provide(herd.recipe("linear", "a", "b"), "loss", "logit_distance")
    a, b = herd.llama("a"), herd.llama("b")
    with torch.no_grad():
        losses = [-a(ids).logits[0].log_softmax(-1)[torch.arange(ids.shape[1] - 1), ids[0, 1:]][begin - 1 :].mean()
                  for ids, begin in zip(herd.ids("a", "a"), FIRST["a"], strict=True)]  # fmt: skip
        apart = [(a(ids).logits - b(ids).logits).norm(dim=-1).mean() for ids in herd.ids("a", "b")]

    torch.testing.assert_close(found(Q)["a"]["loss"], torch.stack(losses).mean().reshape(1))
    expected = torch.tensor([0.0, float(torch.stack(apart).mean())])
    torch.testing.assert_close(found(Q)["a"]["logit_distance"], expected, rtol=1e-5, atol=1e-6)


def test_a_family_that_stores_matrices_the_other_way_round(herd: Any, provide: Provide) -> None:
    name = "transformer.h.0.mlp.c_proj.weight"
    found = provide(herd.recipe("linear", "gpt2-a", base="gpt2"), "gram", "fisher", "output_gram")
    model: Any = GPT2LMHeadModel.from_pretrained(herd.root / "gpt2-a")
    x = torch.cat(inputs_of(model, name, herd.ids("a", "a")))

    torch.testing.assert_close(found(name)["gpt2-a"]["gram"], x.T @ x / len(x), rtol=1e-4, atol=1e-6)
    assert found(name)["gpt2-a"]["output_gram"].shape == (16, 16)
    assert found(name)["gpt2-a"]["fisher"].shape == (64, 16)  # as stored


def test_groups_that_fit_the_memory_give_the_same(herd: Any, provide: Provide, tmp_path: Path) -> None:
    kinds = ("gram", "features", "fisher", "votes", "output_gram")
    whole = provide(herd.recipe("linear", "a"), *kinds)
    parts = provide(herd.recipe("linear", "a"), *kinds, cache=tmp_path / "other", memory=12_000)

    for name in (Q, DOWN):
        for kind in kinds:
            assert torch.equal(whole(name)["a"][kind], parts(name)["a"][kind]), kind


def test_sampled_labels_are_drawn_by_the_seed(herd: Any, provide: Provide) -> None:
    def sampled(seed: int, labels: str = "sampled") -> Tensor:
        found: Tensor = provide(changed(herd.recipe("linear", "a"), labels=labels, seed=seed), "fisher")(Q)["a"][
            "fisher"
        ]
        return found

    assert torch.equal(sampled(1), sampled(1))
    assert not torch.equal(sampled(1), sampled(2))
    assert torch.equal(sampled(1, "empirical"), sampled(2, "empirical"))


def test_second_moments_come_from_the_users_file(herd: Any, provide: Provide, tmp_path: Path) -> None:
    moments = {n: p.detach().square().to(torch.bfloat16) for n, p in herd.llama("a").named_parameters()}
    save_file(moments, tmp_path / "exp_avg_sq.safetensors")
    file = {"a": {"location": str(tmp_path / "exp_avg_sq.safetensors")}}
    recipe = changed(herd.recipe("linear", "a", "b"), moments=file, without_moments="fisher")
    found = provide(recipe, "second_moment")

    assert torch.equal(found(Q)["a"]["second_moment"], moments[Q])
    assert set(found(Q)["b"]) == {"fisher"}


def test_what_is_cached_is_not_collected_again(herd: Any, provide: Provide, tmp_path: Path) -> None:
    done: list[str] = []
    recipe = herd.recipe("linear", "a", "c")
    first = provide(recipe, "gram", "fisher", progress=lambda what, count: done.append(what))
    bytes_before = _files(tmp_path)
    assert len(done) == 2 * (3 + 2)
    again = provide(recipe, "gram", "fisher", progress=lambda what, count: done.append(what))

    assert len(done) == 2 * (3 + 2)  # no pass at all
    assert _files(tmp_path) == bytes_before
    assert torch.equal(first(Q)["c"]["fisher"], again(Q)["c"]["fisher"])


def test_other_items_seed_or_dtype_are_other_statistics(herd: Any, provide: Provide, tmp_path: Path) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text("\n".join(json.dumps({"text": f"w{i} w{i + 1} w{i + 2}"}) for i in range(6)))
    recipe = changed(herd.recipe("linear", "a"), items={"location": str(items)}, sources={}, number=3)
    provide(recipe, "gram")
    assert len(_kept(tmp_path)) == 1
    for number, change in enumerate(({"seed": 1}, {"number": 4}, {"max_tokens": 2}, {"dtype": "bfloat16"}), start=2):
        provide(changed(recipe, **change), "gram")
        assert len(_kept(tmp_path)) == number
    items.write_text(items.read_text().replace("w3", "w9"))
    provide(recipe, "gram")

    assert len(_kept(tmp_path)) == 6


def test_a_process_that_is_killed_leaves_no_half_written_statistics(
    herd: Any, provide: Provide, tmp_path: Path
) -> None:
    recipe = herd.recipe("linear", "a")
    child = multiprocessing.get_context("fork").Process(target=_killed, args=(provide, recipe))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert _kept(tmp_path) == []
    assert list((tmp_path / "cache" / "calibration").glob(".gram-*.partial")) != []
    found = provide(recipe, "gram")

    assert found(Q)["a"]["gram"].shape == (16, 16)
    assert len(_kept(tmp_path)) == 1
    assert list((tmp_path / "cache" / "calibration").glob(".gram-*.partial")) == []


def _killed(provide: Provide, recipe: Recipe) -> None:
    """Ends when the first file is written and before the directory has its name."""
    torch.set_num_threads(1)
    stored._sync = lambda path: os.kill(os.getpid(), signal.SIGKILL)
    provide(recipe, "gram")


def test_items_must_be_the_ones_that_the_recipe_names(herd: Any, provide: Provide) -> None:
    recipe = changed(herd.recipe("linear", "a"), sources={"a": {"location": str(herd.items("a")), "sha256": "0" * 64}})

    with pytest.raises(HashMismatchError, match=r"a\.jsonl has SHA-256"):
        provide(recipe, "gram")


def test_a_source_without_items_is_named(herd: Any, provide: Provide) -> None:
    with pytest.raises(InvalidInputError, match=r"calibration\.sources\.b: .*method test reads statistics"):
        provide(changed(herd.recipe("linear", "a", "b"), sources={"a": {"location": str(herd.items("a"))}}), "gram")
    with pytest.raises(InvalidInputError, match=r"^calibration: .*a section with `items`"):
        provide(herd.recipe("linear", "a").model_copy(update={"calibration": None}), "gram")
    with pytest.raises(InvalidInputError, match=r"calibration\.moments\.a"):
        provide(herd.recipe("linear", "a"), "second_moment")


def test_what_requires_nothing_reads_nothing(herd: Any, provide: Provide, tmp_path: Path) -> None:
    assert provide(herd.recipe("linear", "a"))(Q) == {"a": {}}
    assert not (tmp_path / "cache").exists()


def test_a_model_that_gives_nan_is_refused(herd: Any, provide: Provide, monkeypatch: pytest.MonkeyPatch) -> None:
    spoilt = Provider._loaded

    def loaded(self: Provider, *args: Any, **kwargs: Any) -> Any:
        live = spoilt(self, *args, **kwargs)
        live.parameters[EMBEDDING].data[3] = torch.nan
        return live

    monkeypatch.setattr(Provider, "_loaded", loaded)
    with pytest.raises(NonFiniteError, match="the gram of a"):
        provide(herd.recipe("linear", "a"), "gram")


def test_a_source_without_a_tokenizer_takes_the_bases(herd: Any, provide: Provide, tmp_path: Path) -> None:
    herd.llama("a").save_pretrained(tmp_path / "bare")
    recipe = herd.recipe("linear", "a")
    bare = Recipe.model_validate(
        recipe.model_dump(by_alias=True) | {"sources": {"a": {"location": str(tmp_path / "bare")}}}
    )

    assert torch.equal(provide(bare, "gram")(Q)["a"]["gram"], provide(recipe, "gram")(Q)["a"]["gram"])


def test_a_model_without_any_tokenizer_is_an_error(herd: Any, provide: Provide, tmp_path: Path) -> None:
    herd.llama("base").save_pretrained(tmp_path / "bare")
    recipe = Recipe.model_validate(
        herd.recipe("linear", "c").model_dump(by_alias=True) | {"base": {"location": str(tmp_path / "bare")}}
    )

    with pytest.raises(CheckpointError, match="no tokenizer for calibration items"):
        provide(recipe, "gram")


def _kept(root: Path) -> list[str]:
    return sorted(p.name for p in (root / "cache" / "calibration").glob("[!.]*"))


def _files(root: Path) -> dict[str, bytes]:
    folder = root / "cache" / "calibration"
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
