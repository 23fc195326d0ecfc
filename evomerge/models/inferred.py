"""The structure of a model of no known family, read off its tensors' names and its config.json.

Merging tensor by tensor needs no more than which tensors stand in which layer and what kind of thing each is, and names
say that (`tests/evomerge/models/test_inferred.py` reads those of all language models in transformers). What they do not
say, how heads are laid out and what reads the residual stream, nobody guesses: paths through layers, permutations of
units and the like are for the families of `families.json`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from evomerge.errors import ArchitectureError
from evomerge.models.family import EXPERT, KINDS, LAYER, Family, families, split_numbers

DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers", "decoder_layers")
"""Keys under which configs say how many layers there are."""
TEXT = ("text_config", "llm_config", "language_config", "thinker_config", "decoder")
"""Sections of a multimodal model's config that hold its language model's."""
REASON = "nobody has described this family; its structure was read off its tensors' names"

_SIGHT = re.compile(r"(^|[._])(vision|visual|image|img|audio|speech|video|vit|sam|vq\w*|projector|encoder)([._]|$)")
_NORM = re.compile(r"(^|_)(r?m?s?norm|ln|layer_?norm|rms_?norm|norm)(_|\d|$)|norm$", re.IGNORECASE)
_ATTENTION = re.compile(r"att|mixer|mamba|ssm|conv|recurrent|temporal|time_mix|retention", re.IGNORECASE)
_MLP = re.compile(r"mixer|mlp|ffn|feed_?forward|moe|expert|^fc|^lin\d|dense_.*h|intermediate|^output$", re.IGNORECASE)
_EMBEDDING = re.compile(
    r"^(embed_tokens|wte|word_embeddings?|embed_in|tok_embeddings|tokens_embed|input_embedding|embeddings?|shared)$"
)
_POSITION = re.compile(r"position|^wpe$|^pos_emb")
_HEAD = re.compile(r"^(lm_head|embed_out|output|head|pred_layer|generator_lm_head)$")

_LEAVES = {
    "q": ("q_proj", "query", "wq", "q_lin", "q"),
    "k": ("k_proj", "key", "wk", "k_lin", "k"),
    "v": ("v_proj", "value", "wv", "v_lin", "v"),
    "o": ("o_proj", "out_proj", "c_proj", "dense", "wo", "out_lin", "o"),
    "qkv": ("qkv_proj", "c_attn", "query_key_value", "wqkv", "qkv"),
    "gate": ("gate_proj", "w1"),
    "up": ("up_proj", "w3"),
    "down": ("down_proj", "w2"),
    "gate_up": ("gate_up_proj",),
    "router": ("gate", "router"),
}
_CHANNELS = {"experts", "shared_experts", "gate", "gate_proj", "up_proj", "down_proj"}
_LEAF = {spelled: name for name, all_spelled in _LEAVES.items() for spelled in all_spelled}


def inferred(config: Mapping[str, Any], names: Iterable[str]) -> tuple[Family, int]:
    """A family of one model, and how many layers it has.

    Layers are the longest numbered stack of modules, the language model's where there are several; the `depth` of the
    config decides between stacks of several lengths. What lies in another stack (a vision tower) or behind the config's
    number (heads that predict further tokens) lies outside the layers. Roles in layers begin with `attention.`, `mlp.`,
    `norm.` or `other.`.

    Args:
        config: config.json.
        names: all tensors of the checkpoint.

    Raises:
        ArchitectureError: no `model_type`, or no tensor with a number in its name.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or not kind:
        raise ArchitectureError(f"config.json: model_type {kind!r}; expected the name of a family")
    templates = list(dict.fromkeys(split_numbers(name)[0] for name in names))
    stacks = _stacks(names)
    said = depth_of(config)
    number = _depth(kind, stacks, said)
    chosen = _chosen(stacks, number)
    roles = {t: _inside(_rest(t, chosen)) for t in templates if _rest(t, chosen)}
    outside = {t: _outside(t) for t in templates if t not in roles}
    parent = next(iter(chosen)).rpartition(".layers.")[0]
    embedding, head = _table(outside, "embedding", parent), _table(outside, "head", parent)
    for template, role in outside.items():
        main = template.rpartition(".")[0] in {t.rpartition(".")[0] for t in (embedding, head)}
        roles[template] = role if main or role not in ("embedding", "head") else f"other.{_cut(template)}"
    if embedding and not head:  # the head may be the embedding
        head = "lm_head.weight"
        roles.setdefault(head, "head")
    modules = {t.rpartition(".")[0]: role for t, role in roles.items() if t.rpartition(".")[2] in KINDS}
    return Family(
        name=kind,
        title=kind,
        layers=said[0] if said and said[0] in config else "num_hidden_layers",
        prefix="",
        head=head,
        embedding=embedding,
        tied_by_default=False,
        modules=modules,
        buffers=frozenset(t for t in roles if t.rpartition(".")[2] in ("inv_freq", "position_ids", "masked_bias")),
        aliases={},
        transposed=frozenset(),
        flow=REASON,
        fused=dict(_fused(templates)),
        tensors={t: role for t, role in roles.items() if t.rpartition(".")[2] not in KINDS},
        stacks=tuple(chosen),
    ), number


def depth_of(config: Mapping[str, Any]) -> tuple[str, int] | None:
    """The key that says how many layers a model has, and what it says; of a multimodal one's language model."""
    for section in (config, *(config[key] for key in TEXT if isinstance(config.get(key), Mapping))):
        for key in DEPTHS:
            if isinstance(section.get(key), int) and not isinstance(section[key], bool):
                return key, section[key]
    return None


def depth_key(config: Mapping[str, Any]) -> str:
    """The key of config.json itself that says how many layers a model has, of any family.

    Raises:
        ArchitectureError: only a section says it, or nothing does.
    """
    known = families().get(str(config.get("model_type")))
    key = next((key for key in DEPTHS if key in config), None) if known is None else known.layers
    if key is None:
        raise ArchitectureError(f"config.json: expected the number of layers under one of {', '.join(DEPTHS)}")
    return key


def _stacks(names: Iterable[str]) -> dict[str, set[int]]:
    """What stands before a name's first number → the numbers."""
    found: dict[str, set[int]] = {}
    for name in names:
        template, number, _ = split_numbers(name)
        if number is not None:
            found.setdefault(template.partition(LAYER)[0], set()).add(number)
    return {prefix: numbers for prefix, numbers in found.items() if 0 in numbers}


def _depth(kind: str, stacks: Mapping[str, set[int]], said: tuple[str, int] | None) -> int:
    if not stacks:
        raise ArchitectureError(f"model_type {kind!r} is not a known family, and no tensor has the number of a layer")
    lengths = {prefix: _length(numbers) for prefix, numbers in stacks.items()}
    if said is not None and any(length >= said[1] for length in lengths.values()):
        return max(said[1], 1)
    plain = [length for prefix, length in lengths.items() if not _SIGHT.search(prefix)]
    return max(plain or lengths.values())


def _length(numbers: set[int]) -> int:
    """How many there are from 0 on without a gap."""
    return next(n for n in range(len(numbers) + 1) if n not in numbers)


def _chosen(stacks: Mapping[str, set[int]], number: int) -> list[str]:
    """The stacks that are the model's layers: all that are long enough, towers for other than text only if alone."""
    long = [prefix for prefix, numbers in stacks.items() if _length(numbers) >= number]
    return [prefix for prefix in long if not _SIGHT.search(prefix)] or long


def _rest(template: str, chosen: Iterable[str]) -> str:
    """What follows the layer's number, behind the stack's name where that says what its modules are; empty outside."""
    stack = next((p for p in chosen if template.startswith(f"{p}{LAYER}.")), None)
    if stack is None:
        return ""
    name = stack.rstrip(".").rpartition(".")[2]
    rest = template[len(stack) + len(LAYER) + 1 :]
    return f"{name}.{rest}" if _ATTENTION.search(name) or _MLP.search(name) else rest


def _words(path: str) -> list[str]:
    words = [word for word in path.split(".") if word not in (LAYER, EXPERT)]
    return words[:-1] if len(words) > 1 and words[-1] in KINDS else words


def _inside(rest: str) -> str:
    """The role of a tensor in a layer by what follows the layer's number.

    >>> _inside("self_attn.q_proj.weight"), _inside("mlp.experts.{expert}.w2.weight"), _inside("ln_1.bias")
    ('attention.q', 'mlp.experts.down', 'norm.ln_1')
    """
    words = _words(rest)
    if _NORM.search(words[-1]):
        return "norm." + ".".join(words)
    mixes_channels = "mixer" in words and bool(_CHANNELS & set(words))  # a block that may be of either kind
    for kind, known in (("attention", _ATTENTION), ("mlp", _MLP))[:: -1 if mixes_channels else 1]:
        at = next((n for n, word in enumerate(words) if known.search(word)), None)
        if at is not None:
            kept = words[:at] + words[at + 1 :]
            if kept:
                kept[-1] = _LEAF.get(kept[-1].lower(), kept[-1])
            return ".".join([kind, *(kept or words)])
    return "other." + ".".join(words)


def _outside(template: str) -> str:
    words = _words(template)
    if _EMBEDDING.match(words[-1]):
        return "embedding"
    if any(_POSITION.search(word) for word in words):
        return f"position.{_cut(template)}"
    if _HEAD.match(words[-1]):
        return "head"
    if _NORM.search(words[-1]) and not _SIGHT.search(template) and "embed" not in template:
        return "norm.final"
    return f"other.{_cut(template)}"


def _cut(template: str) -> str:
    return ".".join(_words(template))


def _table(outside: Mapping[str, str], role: str, parent: str) -> str:
    """The weight that is the embedding, or the head: beside the layers, if there are several."""
    found = [t for t, of in outside.items() if of == role and t.endswith(".weight") and LAYER not in t]
    return next((t for t in found if t.startswith(parent)), found[0] if found else "")


def _fused(templates: Iterable[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What transformers stacks of the experts of a layer, as it calls them, and the matrices in files."""
    known = set(templates)
    for template in templates:
        stem, found, leaf = template.partition(f".experts.{EXPERT}.")
        for gate, up, down in (("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2")):
            if found and leaf == f"{down}.weight":
                parts = tuple(p for n in (gate, up) if (p := f"{stem}{found}{n}.weight") in known)
                live = stem if gate == "gate_proj" else stem.rpartition(".")[0] + ".mlp"
                for at in dict.fromkeys((stem, live)):
                    yield f"{at}.experts.{'gate_up_proj' if len(parts) == 2 else 'up_proj'}", parts
                    yield f"{at}.experts.down_proj", (template,)
