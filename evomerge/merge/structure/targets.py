"""Which mixture of experts a dense family becomes: names of tensors, and the config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from evomerge.errors import InvalidInputError
from evomerge.merge.structure.experts import MATRICES
from evomerge.models.architecture import Architecture
from evomerge.models.family import families, fill_numbers
from evomerge.models.layout import Entry

SHARED_WIDTH = 64
"""Hidden units of the shared expert that Qwen2 MoE cannot do without: they are 0 and add nothing."""


@dataclass(frozen=True, slots=True)
class Target:
    """A family of mixtures.

    Attributes:
        name: its `model_type`.
        model: transformers' class.
        dense: families that it can be made of.
        biases: roles whose modules have a bias.
        experts, width: the config's keys for their number and for their hidden units.
        extra: what else the config says.
        shared: every layer has a shared expert beside the others.
    """

    name: str
    model: str
    dense: tuple[str, ...]
    biases: tuple[str, ...]
    experts: str
    width: str
    extra: Mapping[str, Any]
    shared: bool = False

    def tensor(self, role: str, layer: int, expert: int | None = None) -> str:
        """The name of a weight of a layer."""
        found = next(module for module, known in families()[self.name].modules.items() if known == role)
        return f"{fill_numbers(found, layer, expert)}.weight"

    def router(self, layer: int) -> str:
        """A layer's router: a row an expert."""
        return self.tensor("mlp.router", layer)

    def expert(self, matrix: str, layer: int, expert: int) -> str:
        """One of an expert's `MATRICES`."""
        return self.tensor(f"mlp.expert.{matrix}", layer, expert)


_EVERY_LAYER = {"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []}
TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        Target("mixtral", "MixtralForCausalLM", ("llama", "mistral"), (), "num_local_experts", "intermediate_size", {}),
        Target(
            "qwen2_moe", "Qwen2MoeForCausalLM", ("qwen2",), ("attention.q", "attention.k", "attention.v"),
            "num_experts", "moe_intermediate_size",
            {**_EVERY_LAYER, "qkv_bias": True, "shared_expert_intermediate_size": SHARED_WIDTH}, shared=True,
        ),
        Target(
            "qwen3_moe", "Qwen3MoeForCausalLM", ("qwen3",),
            ("attention.q", "attention.k", "attention.v", "attention.o"), "num_experts", "moe_intermediate_size",
            _EVERY_LAYER,
        ),
    )
}  # fmt: skip
"""Gates of the chosen experts sum to 1 in all of them, so that equal experts are one."""


def target_of(name: str, config: Mapping[str, Any], architecture: Architecture) -> Target:
    """The family of mixtures that a dense model is asked to become.

    Args:
        name: as asked.
        config, architecture: the base's.

    Raises:
        InvalidInputError: there is no such family, the base is of none that it is made of, or has what its class has
            no place for: other biases, or a window of attention in some layers only.
    """
    if name not in TARGETS:
        raise InvalidInputError("to", name, f"one of {', '.join(TARGETS)}")
    target = TARGETS[name]
    if architecture.family not in target.dense:
        fitting = [other.name for other in TARGETS.values() if architecture.family in other.dense]
        allowed = f"a base of the family {' or '.join(target.dense)}; this one is {architecture.family}" + (
            f", which becomes {fitting[0]}" if fitting else ", of which no mixture is made"
        )
        raise InvalidInputError("to", name, allowed)
    for at, part in architecture.parts.items():
        if at.endswith(".bias") and part.role not in target.biases:
            raise InvalidInputError("to", name, f"a base without {at!r}: {target.model} has no place for this bias")
    if name == "qwen3_moe" and len(set(_dense(config).to_dict().get("layer_types") or ())) > 1:
        allowed = f"a base whose layers attend alike: {target.model} has one sliding window for all of them or none"
        raise InvalidInputError("to", name, allowed)
    return target


def mixture_config(config: Mapping[str, Any], target: Target, num_experts: int, chosen: int) -> dict[str, Any]:
    """The config.json of the mixture.

    It goes through transformers' own classes: what the dense model leaves to its class's defaults (the base of the
    rotary embedding, a head's width) is written out, as the mixture's class has others.

    Args:
        config: the dense model's.
        num_experts: of each layer.
        chosen: how many of them each token takes.
    """
    dense = _dense(config)
    known = dense.to_dict()
    ours = CONFIG_MAPPING[target.name]
    wanted = {key: value for key, value in known.items() if key in {*ours().to_dict(), "head_dim"}}
    windowed = "sliding_attention" in (known.get("layer_types") or ())
    settled = {"use_sliding_window": windowed} if "use_sliding_window" in known else {}
    said = {target.experts: num_experts, "num_experts_per_tok": chosen, target.width: known["intermediate_size"]}
    for key in ("model_type", "architectures", "transformers_version", "dtype"):
        wanted.pop(key, None)
    made = ours(**{"sliding_window": None, **wanted, **settled, **target.extra, **said})
    generic = PreTrainedConfig().to_dict()
    found = {key: value for key, value in made.to_dict().items() if key not in generic or generic[key] != value}
    found |= {"tie_word_embeddings": bool(known["tie_word_embeddings"]), "model_type": target.name}
    return {"architectures": [target.model], **found}


def _dense(config: Mapping[str, Any]) -> Any:
    return CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))


def mixture_entries(target: Target, like: Entry, num_layers: int, num_experts: int) -> list[Entry]:
    """What the mixture has in place of the dense MLPs, layer by layer.

    Args:
        like: an `up` matrix of the base, (hidden units × width), in the mixture's dtype.
    """
    units, width = like.shape
    shapes = {"gate": (units, width), "up": (units, width), "down": (width, units)}
    found = []
    for layer in range(num_layers):
        found.append(Entry(target.router(layer), like.dtype, (num_experts, width)))
        for expert in range(num_experts):
            found += [Entry(target.expert(m, layer, expert), like.dtype, shapes[m]) for m in MATRICES]
        if target.shared:
            found += [Entry(name, like.dtype, shape) for name, shape in shared_shapes(target, layer, width).items()]
    return found


def shared_shapes(target: Target, layer: int, width: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a layer's shared expert, all of which are 0."""
    return {
        target.tensor("mlp.shared.router", layer): (1, width),
        target.tensor("mlp.shared.gate", layer): (SHARED_WIDTH, width),
        target.tensor("mlp.shared.up", layer): (SHARED_WIDTH, width),
        target.tensor("mlp.shared.down", layer): (width, SHARED_WIDTH),
    }
