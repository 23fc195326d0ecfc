"""`evomerge compress`: fewer experts or fewer layers, from one checkpoint to another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge.calibration.items import Sample, draw, encode, read_texts
from evomerge.merge.calibration.live import tokenizer_of
from evomerge.merge.structure.combining import aligned, average, joint_svd
from evomerge.merge.structure.directory import write_directory
from evomerge.merge.structure.experts import MATRICES, Mixture, Stack, mixtures_of
from evomerge.merge.structure.grouping import (
    Group,
    around_cores,
    cores_per_layer,
    groups_of,
    hierarchical,
    kmeans,
)
from evomerge.merge.structure.layers import TOKENS, fuse_layers
from evomerge.merge.structure.need import Need, of_experts, of_layers
from evomerge.merge.structure.usage import Usage, watch
from evomerge.models.architecture import Architecture
from evomerge.models.checkpoint import Checkpoint, open_checkpoint
from evomerge.models.finite import check_finite
from evomerge.models.layout import Entry
from evomerge.models.source import architecture_of_checkpoint

METHODS: Mapping[str, str] = {
    "hc_smoe": "Chen et al. 2024, Retraining-Free Merging of Sparse MoE via Hierarchical Clustering, arXiv:2410.08589",
    "sub_moe": "Li et al. 2025, Sub-MoE: Compression via Subspace Expert Merging, arXiv:2506.23266",
    "m_smoe": "Li et al. 2023, Merge, Then Compress: Demystify Efficient SMoE, arXiv:2310.01334",
    "reap": "Lasby et al. 2025, REAP the Experts: Why Pruning Prevails for One-Shot MoE Compression, arXiv:2510.13999",
    "mka": "Liu et al. 2024, Pruning via Merging: Manifold Alignment Based Layer Merging, arXiv:2406.16330",
}
"""Method → paper."""
ROUTERS = ("shared", "mean", "core")
LINKAGES = ("average", "complete", "single")
REFUSED = {
    "ifm": "Iterative Feature Merging adds up channels that feed a positively homogeneous activation (ReLU); the "
    "language models that evomerge knows have SwiGLU or GELU, for which it does not keep the function"
}
"""Methods that cannot be right here, and why."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a model is made smaller.

    Attributes:
        method: one of `METHODS`.
        keep: share of the experts of a layer that is left, in (0, 1].
        router: `shared` keeps every row of the router, and the members of a group become equal experts: the published
            way of HC-SMoE and M-SMoE, which saves memory only where experts are shared; `mean` and `core` leave one
            expert a group, whose row is the mean of its members' (Sub-MoE) or that of the core. None is the method's.
        linkage: of `hc_smoe`.
        shares: of members in a mean: how often they are used, or equal.
        rank: share of the singular values that `sub_moe` keeps, in (0, 1].
        scope: `m_smoe`: the most used experts of a layer are its cores, or (`global`) those of the model.
        renormalise: `reap`: gates of the chosen experts sum to 1.
        layers: `mka`: how many are fused away.
        beta: `mka`: how sharply the more similar layer is preferred.
        number, max_tokens, seed: how many items are drawn, how long they may be, and by what.
    """

    method: str
    keep: float = 0.5
    router: str | None = None
    linkage: str = "average"
    shares: str = "frequency"
    rank: float = 1.0
    scope: str = "global"
    renormalise: bool = True
    layers: int = 1
    beta: float = 1.0
    number: int = 256
    max_tokens: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method in REFUSED:
            raise InvalidInputError("method", self.method, f"one of {', '.join(METHODS)}: {REFUSED[self.method]}")
        for name, options in (("method", METHODS), ("linkage", LINKAGES), ("shares", ("frequency", "uniform"))):
            if getattr(self, name) not in options:
                raise InvalidInputError(name, getattr(self, name), f"one of {', '.join(options)}")
        if self.router not in (None, *ROUTERS) or (self.method == "reap" and self.router not in (None, "core")):
            raise InvalidInputError(
                "router", self.router, "core for reap" if self.method == "reap" else ", ".join(ROUTERS)
            )
        if self.scope not in ("global", "layer"):
            raise InvalidInputError("scope", self.scope, "global or layer")
        for name in ("keep", "rank"):
            if not 0 < getattr(self, name) <= 1:
                raise InvalidInputError(name, getattr(self, name), "a share above 0, at most 1")
        if not 0 <= self.beta < math.inf:
            raise InvalidInputError("beta", self.beta, "a finite number of 0 or more")
        for name, least in (("layers", 1), ("number", 1), ("max_tokens", 2)):
            if getattr(self, name) < least:
                raise InvalidInputError(name, getattr(self, name), f"{least} or more")

    @property
    def rows(self) -> str:
        """What becomes of the router's rows."""
        return self.router or {"sub_moe": "mean", "reap": "core"}.get(self.method, "shared")


def compress(
    model: Path,
    out: Path,
    items: Path,
    settings: Settings,
    progress: Callable[[int, int], None] | None = None,
    *,
    memory: int | None = None,
) -> Path:
    """Make a smaller model.

    Args:
        model: a checkpoint's directory.
        out: the directory to make: a checkpoint that transformers loads, with the dtypes of the model, and
            `structure.json`, which says what was done.
        items: JSONL items that show what the model is for.
        settings: how.
        progress: told of items that are read, done and in all.
        memory: bytes of tensors that may be in memory at a time, beside the interpreter and its libraries; by default
            whatever it takes.

    Raises:
        InvalidInputError: a setting does not fit the model, there are no items, or `memory` is too small.
        CheckpointError, ArchitectureError, NonFiniteError: the model cannot be read, or the result not written.
    """
    with open_checkpoint(model) as checkpoint:
        architecture = architecture_of_checkpoint(checkpoint)
        samples = _samples(checkpoint, items, settings)
        _need(checkpoint, architecture, samples, settings).check(memory)
        if settings.method == "mka":
            return fuse_layers(checkpoint, architecture, out, samples, settings.layers, settings.beta, asdict(settings))
        return _merge_experts(checkpoint, architecture, out, samples, settings, progress)


def _need(checkpoint: Checkpoint, architecture: Architecture, samples: Sequence[Sample], settings: Settings) -> Need:
    lengths = [len(sample.ids) for sample in samples]
    if settings.method == "mka":
        return of_layers(checkpoint, architecture, lengths, TOKENS)
    return of_experts(checkpoint, architecture, lengths, mixtures_of(architecture), settings.method)


def _samples(checkpoint: Checkpoint, items: Path, settings: Settings) -> list[Sample]:
    texts = draw(read_texts(items), settings.number, settings.seed)
    return encode(tokenizer_of(None, checkpoint), texts, settings.max_tokens, str(items))


def _merge_experts(
    checkpoint: Checkpoint,
    architecture: Architecture,
    out: Path,
    samples: Sequence[Sample],
    settings: Settings,
    progress: Callable[[int, int], None] | None,
) -> Path:
    mixtures = mixtures_of(architecture)
    number = _number_kept(checkpoint, architecture, settings)
    read = 0

    def done() -> None:
        nonlocal read
        read += 1
        if progress is not None:
            progress(read, len(samples))

    used = watch(checkpoint.path, architecture, samples, renormalise=settings.renormalise, done=done)
    groups = grouped(used, number, settings)
    shared = settings.rows == "shared"
    entries = _entries(checkpoint, architecture, mixtures, None if shared else number)
    config = dict(checkpoint.config) if shared else _with_experts(checkpoint.config, architecture, number)
    report = {
        "settings": asdict(settings),
        "groups": {str(layer): [asdict(g) for g in found] for layer, found in groups.items()},
    }

    def weights() -> Iterator[tuple[str, Tensor]]:
        names = {entry.name: entry.dtype for entry in entries}
        replaced = {name for m in mixtures for name in (m.router, *(n for e in m.experts for n in e.values()))}
        yield from ((name, checkpoint.read(name)) for name in checkpoint.tensors if name not in replaced)
        for mixture in mixtures:
            for name, tensor in _smaller(checkpoint, mixture, groups[mixture.layer], settings):
                check_finite(tensor, name, "the compressed model")
                yield name, tensor.to(names[name])

    return write_directory(out, checkpoint.path, entries, weights, config, report)


def grouped(used: Mapping[int, Usage], number: int, settings: Settings) -> dict[int, tuple[Group, ...]]:
    """Which experts of each layer become one; experts in no group are dropped."""
    return dict(zip(used, _grouped(used, number, settings), strict=True))


def _grouped(used: Mapping[int, Usage], number: int, settings: Settings) -> Iterator[tuple[Group, ...]]:
    whole = settings.method == "m_smoe" and settings.scope == "global" and settings.rows == "shared"
    cores = cores_per_layer({layer: usage.routed for layer, usage in used.items()}, number) if whole else {}
    for layer, usage in used.items():
        shares = usage.routed if settings.shares == "frequency" else torch.ones_like(usage.routed)
        if settings.method == "reap":
            best = torch.argsort(usage.saliency, descending=True, stable=True)[:number].sort().values
            yield tuple(Group((expert,), expert, (1.0,)) for expert in best.tolist())
        elif settings.method == "m_smoe":
            found = around_cores(usage.logits, usage.routed, cores.get(layer, number))
            yield found if settings.shares == "frequency" else tuple(_even(group) for group in found)
        elif settings.method == "sub_moe":
            yield groups_of(kmeans(1.0 - usage.cosines, number, settings.seed), shares)
        else:
            yield groups_of(hierarchical(usage.outputs, number, settings.linkage), shares)


def _even(group: Group) -> Group:
    return Group(group.members, group.core, (1.0 / len(group.members),) * len(group.members))


def _number_kept(checkpoint: Checkpoint, architecture: Architecture, settings: Settings) -> int:
    number = max(1, round(settings.keep * architecture.num_experts))
    chosen = int(checkpoint.config.get("num_experts_per_tok", 1))
    if settings.rows != "shared" and number < chosen:
        least = chosen / architecture.num_experts
        raise InvalidInputError("keep", settings.keep, f"at least {least:g}: each token takes {chosen} experts")
    return number


def _smaller(
    checkpoint: Checkpoint, mixture: Mixture, groups: Sequence[Group], settings: Settings
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one mixture in float32."""
    stack, router = mixture.read(checkpoint), checkpoint.read(mixture.router).float()
    shared = settings.rows == "shared"
    rows = []
    for place, group in enumerate(groups):
        expert = _one(stack, group, settings)
        for at in group.members if shared else (place,):
            yield from ((mixture.experts[at][m], expert[m]) for m in MATRICES)
        mean = torch.tensor(group.shares) @ router[list(group.members)]
        rows.append(mean if settings.rows == "mean" else router[group.core])
    yield mixture.router, router if shared else torch.stack(rows)


def _one(stack: Stack, group: Group, settings: Settings) -> dict[str, Tensor]:
    if len(group.members) == 1:
        return {m: stack[m][group.core] for m in MATRICES}
    if settings.method == "sub_moe":
        return joint_svd(stack, group, settings.rank)
    return aligned(stack, group) if settings.method == "m_smoe" else average(stack, group)


def _entries(
    checkpoint: Checkpoint, architecture: Architecture, mixtures: Sequence[Mixture], number: int | None
) -> list[Entry]:
    """What the smaller model holds: the first `number` experts of every mixture, or all."""
    routers = {mixture.router for mixture in mixtures}
    found = []
    for name, info in checkpoint.tensors.items():
        expert = architecture.parts[name].expert
        if number is not None and expert is not None and expert >= number:
            continue
        shape = (number, *info.shape[1:]) if number is not None and name in routers else info.shape
        found.append(Entry(name, info.dtype, shape))
    return found


def _with_experts(config: Mapping[str, Any], architecture: Architecture, number: int) -> dict[str, Any]:
    """config.json with another number of experts, under each key that says it."""
    return {**config, **{key: number for key in architecture.kind.experts if key in config}}
