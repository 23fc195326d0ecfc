"""Recipes to jobs, without a file."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from evomerge.errors import InvalidInputError
from evomerge.merge.plan import Plan, TensorJob, plan
from evomerge.models.architecture import architecture_of
from evomerge.models.checkpoint import TensorInfo
from evomerge.recipe.schema import Merge, ModelRef, Recipe

LAYERS = 5
LAYER_MODULES = (
    "input_layernorm", "post_attention_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
    "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip
NAMES = (
    "model.embed_tokens.weight",
    *(f"model.layers.{layer}.{module}.weight" for layer in range(LAYERS) for module in LAYER_MODULES),
    "model.norm.weight",
    "lm_head.weight",
)
ROTARY = "model.layers.0.self_attn.rotary_emb.inv_freq"


def planned(
    method: str = "task_arithmetic",
    *,
    tied: bool = False,
    names: tuple[str, ...] = NAMES,
    changed: dict[str, frozenset[str]] | None = None,
    **merge: Any,
) -> Plan:
    config = {"model_type": "llama", "num_hidden_layers": LAYERS, "tie_word_embeddings": tied}
    changed = changed if changed is not None else {"a": frozenset(names), "b": frozenset(names)}
    recipe = Recipe(
        base=ModelRef(location="base"),
        sources={name: ModelRef(location=name) for name in changed},
        merge=Merge.model_validate({"method": method, **merge}),
    )
    infos = {name: TensorInfo(name, (4, 4), torch.float32, "model.safetensors") for name in names}
    return plan(recipe, infos, architecture_of(config, names), changed)


def job(found: Plan, name: str) -> TensorJob:
    return next(job for job in found.jobs if job.name == name)


def weight(found: Plan, name: str, source: str = "a") -> object:
    return job(found, name).per_source[source]["weight"]


def test_what_is_more_particular_and_what_comes_later_wins() -> None:
    found = planned(
        parameters={"weight": 0.1, "lambda": 0.5},
        sources={"a": {"weight": 0.2}},
        rules=[
            {"roles": ["mlp"], "parameters": {"weight": 0.3}},
            {"layers": [1, 2], "roles": ["mlp.up"], "source": "a", "parameters": {"weight": 0.4}},
            {"layers": [2, 2], "parameters": {"lambda": 0.9}},
        ],
    )
    up = "model.layers.{}.mlp.up_proj.weight"

    assert [weight(found, up.format(layer)) for layer in range(LAYERS)] == [0.3, 0.4, 0.4, 0.3, 0.3]
    assert [weight(found, up.format(layer), "b") for layer in range(LAYERS)] == [0.3] * 5
    assert weight(found, "model.layers.1.self_attn.q_proj.weight") == 0.2
    assert weight(found, "model.layers.1.self_attn.q_proj.weight", "b") == 0.1
    assert [job(found, up.format(layer)).shared["lambda"] for layer in (1, 2)] == [0.5, 0.9]


def test_knots_are_interpolated_over_the_depth() -> None:
    found = planned(sources={"a": {"weight": [0.0, 1.0, 0.5]}})
    q = "model.layers.{}.self_attn.q_proj.weight"

    assert [weight(found, q.format(layer)) for layer in range(LAYERS)] == [0.0, 0.5, 1.0, 0.75, 0.5]
    assert weight(found, "model.embed_tokens.weight") == 0.0
    assert weight(found, "model.norm.weight") == weight(found, "lm_head.weight") == 0.5


def test_what_no_source_changes_is_copied_where_the_method_keeps_the_base() -> None:
    changed = {"a": frozenset({"model.norm.weight"}), "b": frozenset()}

    copied = {j.name for j in planned(changed=changed).jobs if j.copy}
    assert copied == set(NAMES) - {"model.norm.weight"}
    assert not any(j.copy for j in planned("linear", changed=changed, parameters={"normalize": False}).jobs)


def test_a_tied_head_is_the_embedding_and_buffers_keep_their_dtype() -> None:
    found = planned("linear", tied=True, names=(*NAMES, ROTARY), parameters={"normalize": False})

    assert "lm_head.weight" not in {j.name for j in found.jobs}
    assert job(found, ROTARY).copy
    assert job(found, ROTARY).dtype == torch.float32
    assert job(found, "model.norm.weight").dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("asked", "field", "allowed"),
    [
        ({"method": "magic"}, "merge.method", "ties"),
        ({"parameters": {"wieght": 1.0}}, "merge.parameters.wieght", "weight, lambda, normalize"),
        ({"parameters": {"normalize": 1.0}}, "merge.parameters.normalize", "true or false"),
        ({"parameters": {"lambda": "x"}}, "merge.parameters.lambda", "a finite number"),
        ({"parameters": {"lambda": True}}, "merge.parameters.lambda", "a finite number"),
        ({"sources": {"a": {"lambda": 1.0}}}, "merge.sources.a.lambda", "per-source parameters"),
        ({"method": "ties", "parameters": {"density": 1.5}}, "merge.parameters.density", r"[0, 1]"),
        ({"method": "ties", "parameters": {"density": [0.5, 2.0]}}, "merge.parameters.density", r"[0, 1]"),
        ({"method": "ties", "parameters": {"scope": "row"}}, "merge.parameters.scope", "global, tensor"),
        ({"rules": [{"layers": [1, 5], "parameters": {}}]}, "merge.rules[0].layers", "layers 0 to 4"),
        ({"rules": [{"roles": ["mpl"], "parameters": {}}]}, "merge.rules[0].roles", "mlp.down"),
        (
            {"rules": [{"source": "a", "parameters": {"lambda": 1.0}}]},
            "merge.rules[0].parameters.lambda",
            "per-source parameters",
        ),
        ({"method": "passthrough"}, "sources", "1 source"),
        ({"method": "linear", "sources": {"a": {"weight": -1.0}}}, "merge: weight at embedding", "sum is not 0"),
        (
            {"method": "linear", "rules": [{"layers": [2, 2], "roles": ["mlp.up"], "parameters": {"weight": 0.0}}]},
            "merge: weight at mlp.up of layer 2",
            "sum is not 0",
        ),
        ({"method": "nuslerp", "parameters": {"weight": -1.0}}, "merge.parameters.weight", "[0, inf]"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_by_field(asked: dict[str, Any], field: str, allowed: str) -> None:
    with pytest.raises(InvalidInputError) as error:
        planned(**asked)
    assert error.value.field == field
    assert allowed in error.value.allowed
