"""What names say of models that nobody described; `tests/evomerge/merge/test_any_family.py` merges real ones."""

from __future__ import annotations

import pytest

from evomerge.errors import ArchitectureError
from evomerge.models.architecture import Architecture, architecture_of

LAYER = ("self_attn.q_proj.weight", "mlp.down_proj.weight", "input_layernorm.weight")


def roles(architecture: Architecture) -> dict[str, tuple[str, int | None]]:
    return {name: (part.role, part.layer) for name, part in architecture.parts.items()}


def test_the_layers_of_a_multimodal_model_are_its_language_models() -> None:
    names = [f"model.vision_tower.encoder.layers.{n}.{rest}" for n in range(27) for rest in LAYER]
    names += [f"model.language_model.layers.{n}.{rest}" for n in range(4) for rest in LAYER]
    names += ["model.vision_tower.embeddings.weight", "model.language_model.embed_tokens.weight"]
    names += ["model.language_model.norm.weight", "model.multi_modal_projector.linear.weight"]
    config = {
        "model_type": "new_vl",
        "text_config": {"num_hidden_layers": 4},
        "vision_config": {"num_hidden_layers": 27},
    }
    found = roles(architecture := architecture_of(config, names))

    assert architecture.num_layers == 4
    assert found["model.language_model.layers.3.self_attn.q_proj.weight"] == ("attention.q", 3)
    assert found["model.language_model.embed_tokens.weight"] == ("embedding", None)
    assert found["model.language_model.norm.weight"] == ("norm.final", None)
    assert found["model.vision_tower.encoder.layers.3.self_attn.q_proj.weight"][1] is None
    assert found["model.vision_tower.encoder.layers.3.self_attn.q_proj.weight"][0].startswith("other.")
    assert found["model.vision_tower.embeddings.weight"][0] == "other.model.vision_tower.embeddings"
    assert architecture.tied == {"lm_head.weight": "model.language_model.embed_tokens.weight"}


def test_layers_behind_the_last_one_lie_outside() -> None:
    """As DeepSeek-V3's, which predicts a further token."""
    names = ["model.embed_tokens.weight", "lm_head.weight"]
    names += [f"model.layers.{n}.{rest}" for n in range(4) for rest in LAYER]
    found = roles(architecture_of({"model_type": "new", "num_hidden_layers": 3}, names))

    assert found["model.layers.2.mlp.down_proj.weight"] == ("mlp.down", 2)
    assert found["model.layers.3.mlp.down_proj.weight"] == ("other.mlp.down", None)
    assert found["lm_head.weight"] == ("head", None)


def test_routers_and_gates_are_told_apart_and_experts_share_a_role() -> None:
    names = ["gate.weight", "gate.e_score_correction_bias", "gate_proj.weight", "shared_experts.up_proj.weight"]
    names += [f"experts.{e}.down_proj.weight" for e in range(2)]
    found = roles(architecture_of({"model_type": "new"}, [f"model.layers.0.mlp.{name}" for name in names]))

    assert [role for role, _ in found.values()] == [
        "mlp.router", "mlp.gate.e_score_correction_bias", "mlp.gate", "mlp.shared_experts.up",
        "mlp.experts.down", "mlp.experts.down",
    ]  # fmt: skip


def test_a_head_that_is_stored_is_merged_whatever_the_config_says() -> None:
    names = ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"]
    config = {"model_type": "new", "tie_word_embeddings": True}

    assert architecture_of(config, names).tied == {"lm_head.weight": "model.embed_tokens.weight"}
    assert architecture_of(config, [*names, "lm_head.weight"]).tied == {}
    assert architecture_of({**config, "tie_word_embeddings": False}, names).tied == {}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "model_type None; expected the name of a family"),
        ({"model_type": ["llama"]}, r"model_type \['llama'\]; expected the name of a family"),
        ({"model_type": "new"}, "'new' is not a known family, and no tensor has the number of a layer"),
    ],
)
def test_what_has_no_layers_is_refused(config: dict[str, object], message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        architecture_of(config, ["lm_head.weight"])
