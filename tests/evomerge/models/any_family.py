"""Tiny real models of every family that transformers has a causal language model of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from evomerge.models.family import families

SMALL: dict[str, Any] = {
    "vocab_size": 64, "max_position_embeddings": 64, "n_positions": 64,
    "hidden_size": 32, "n_embd": 32, "d_model": 32, "word_embed_proj_dim": 32, "intermediate_size": 48, "ffn_dim": 48,
    "num_hidden_layers": 2, "n_layer": 2, "num_layers": 2,
    "num_attention_heads": 4, "n_head": 4, "num_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "num_local_experts": 4, "num_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 8, "rotary_dim": 4, "sliding_window": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
MOST = 30_000_000
"""Parameters of a model that is still tiny."""


def kinds() -> list[str]:
    """Every `model_type` that evomerge has no entry for."""
    return sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(families()))


def config_of(kind: str) -> Any:
    """A small config: what the family's own class takes of `SMALL`.

    Raises:
        Exception: whatever the class raises that does not go with these sizes.
    """
    usual = AutoConfig.for_model(kind)
    given = {key: value for key, value in SMALL.items() if hasattr(usual, key)}
    if "kv_lora_rank" in given:  # latent attention has keys and values for every head
        given["num_key_value_heads"] = given["num_attention_heads"]
    return AutoConfig.for_model(kind, **given)


def save_any(kind: str, path: Path, seed: int) -> Path:
    """A model of random weights, saved as transformers does.

    Raises:
        Exception: as `config_of`, or of the model's class.
        ValueError: the model is not tiny.
    """
    config = config_of(kind)
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > MOST:
        raise ValueError(f"{size} parameters")
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(path)
    return path
