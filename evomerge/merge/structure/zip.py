"""Hidden units of two models' MLPs joined by what they compute: `evomerge zip`.

All else is merged as the recipe says. Where units are kept side by side the MLPs become wider, which config.json says.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge.align.activations import activations_of
from evomerge.merge.align.groups import Axis, Group, groups_of
from evomerge.merge.align.matching import measure
from evomerge.merge.engine import one_thread_a_kernel
from evomerge.merge.execute import merge_to_directory
from evomerge.merge.inputs import Inputs, open_inputs
from evomerge.merge.structure.clusters import Clusters, pairs, zipped
from evomerge.merge.structure.directory import write_directory
from evomerge.models.checkpoint import Checkpoint, open_checkpoint
from evomerge.models.finite import check_finite
from evomerge.models.layout import Entry
from evomerge.models.source import AdapterSource
from evomerge.recipe.calibration import FileRef
from evomerge.recipe.schema import Recipe

PAPERS = {
    "pairs": "Nasery et al. 2024, PLeaS, arXiv:2407.02447 (its partial merge, without the least squares behind it)",
    "zip": "Stoica et al. 2023, ZipIt!, arXiv:2305.03053",
}
WIDTHS = ("intermediate_size", "n_inner")
"""Keys under which a config says how many hidden units an MLP has."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How units are joined.

    Attributes:
        how: `pairs`: each with one of the other model, by an optimal assignment. `zip`: the most similar first,
            whichever model they are of.
        apart: share of an MLP's units that stay side by side in both models; 0: as wide as before, 1: twice as wide.
        match: what tells which units are alike: `weights`, or `activations` on items.
        items: JSONL items, for `activations`.
        tokens: most tokens of them that are looked at.
        share: of the source in what is joined, and in the sum of what is not.
        alpha, beta: of `zip`.

    Raises:
        InvalidInputError: one of them has another value.
    """

    how: str = "pairs"
    apart: float = 0.0
    match: str = "weights"
    items: Path | None = None
    tokens: int = 2048
    share: float = 0.5
    alpha: float = 0.3
    beta: float = 0.125

    def __post_init__(self) -> None:
        for name, allowed in (("how", tuple(PAPERS)), ("match", ("weights", "activations"))):
            if getattr(self, name) not in allowed:
                raise InvalidInputError(name, getattr(self, name), ", ".join(allowed))
        for name in ("apart", "share", "alpha", "beta"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidInputError(name, getattr(self, name), "a share from 0 to 1")
        if (self.match == "activations") != (self.items is not None):
            raise InvalidInputError("items", self.items, "a file with match activations, and only there")
        if self.tokens < 2:
            raise InvalidInputError("tokens", self.tokens, "2 or more")


def zip_models(recipe: Recipe, out: Path, settings: Settings, *, root: Path, threads: int | None = None) -> Path:
    """Join the MLPs of the base and of a recipe's one source; merge all else.

    A cluster's rows of gate and up are the mean of its units' rows (its parts of base and source by `share`); its
    column of down is the sum of theirs, those of the base times 1 − share, those of the source times share. So with
    `apart: 1` an MLP is exactly the sum of both in these shares, and with `how: pairs`, `apart: 0` it is the linear
    merge of aligned models.

    Args:
        recipe: base and one source of the same widths; its method is for what lies outside the MLPs' units.
        out: the directory to make: a checkpoint with the recipe's dtype, and `structure.json`.
        settings: how.
        root: relative locations in the recipe are under it.
        threads: tensors merged at a time; by default one a core that this process may use.

    Returns:
        `out`.

    Raises:
        InvalidInputError: another number of sources, an adapter, a mixture of experts, a family whose config has no
            number of hidden units of its own; sections of the recipe that change the layers.
        CheckpointError, ArchitectureError, HashMismatchError, NonFiniteError: as `merge_to_directory`.

    Source: `PAPERS`.
    """
    _check(recipe, out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.zip.", dir=out.parent) as scratch:
        trunk = merge_to_directory(recipe, Path(scratch) / "trunk", root=root, threads=threads)
        with open_inputs(recipe, root, _refuse) as inputs, open_checkpoint(trunk) as merged:
            return _written(inputs, merged, out, settings, root)


def _refuse(path: Path) -> Path:
    raise InvalidInputError("location", str(path), "models, not recipes: merge those first")


def _check(recipe: Recipe, out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInputError("out", str(out), "a directory that does not exist yet or is empty")
    if len(recipe.sources) != 1:
        raise InvalidInputError("sources", sorted(recipe.sources), "one source, whose units are joined with the base's")
    for field in ("slices", "segments", "path", "output", "carry"):
        if getattr(recipe, field) is not None:
            raise InvalidInputError(field, "a section", "none: MLPs are joined layer by layer")


def _written(inputs: Inputs, merged: Checkpoint, out: Path, settings: Settings, root: Path) -> Path:
    (source,) = inputs.sources.values()
    if isinstance(source, AdapterSource):
        raise InvalidInputError(f"sources.{source.name}", "an adapter", "a checkpoint: an adapter has its base's units")
    if inputs.architecture.num_experts:
        raise InvalidInputError("base", inputs.architecture.family, "a model without experts")
    groups = groups_of(inputs.architecture, inputs.base.config, inputs.shapes, ("mlp",))
    key = next((key for key in WIDTHS if key in inputs.base.config), None)
    if key is None or not groups:
        raise InvalidInputError("base", inputs.architecture.family, f"a config with one of {', '.join(WIDTHS)}")
    similarity = _similarity(inputs, groups, settings, root)
    widths = {group.name: group.size + round(settings.apart * group.size) for group in groups}
    joined: dict[str, Tensor] = {}
    report: dict[str, Any] = {}
    with one_thread_a_kernel():
        for group in groups:
            clusters = _clusters(similarity(group), widths[group.name], settings)
            joined |= _joined(inputs, group, clusters, settings.share)
            report[group.name] = _said(clusters, group.size)
    entries = [
        Entry(name, info.dtype, tuple(joined[name].shape) if name in joined else info.shape)
        for name, info in merged.tensors.items()
    ]

    def weights() -> Iterator[tuple[str, Tensor]]:
        for name, info in merged.tensors.items():
            if name in joined:
                check_finite(joined[name], name, "the joined model")
            yield name, joined[name].to(info.dtype) if name in joined else merged.read(name)

    config = {**merged.config, key: next(iter(widths.values()))}
    plain = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(settings).items()}
    what = {"settings": {"what": "zip", **plain}, "paper": PAPERS[settings.how], "mlps": report}
    return write_directory(out, merged.path, entries, weights, config, what)


def _similarity(inputs: Inputs, groups: tuple[Group, ...], settings: Settings, root: Path) -> Callable[[Group], Tensor]:
    """A group → how alike all units of both models are, (2U × 2U)."""
    (source,) = inputs.sources.values()
    if settings.items is None:
        return lambda group: _of_weights(inputs, group)
    if not isinstance(inputs.base, Checkpoint):
        raise InvalidInputError("match", "activations", "weights, where the recipe changes the vocabulary")
    items = FileRef(location=str((root / settings.items).resolve()))
    ours, theirs = activations_of(source, inputs.base, inputs.architecture, groups, items, settings.tokens)

    def correlation(group: Group) -> Tensor:
        assert group.read_by is not None, "MLPs are read"
        both = torch.cat([ours[group.read_by], theirs[group.read_by]], dim=1).double()
        both = both - both.mean(dim=0)
        both = both / both.norm(dim=0).clamp(min=1e-12)
        found: Tensor = both.T @ both
        return found

    return correlation


def _of_weights(inputs: Inputs, group: Group) -> Tensor:
    """Products of units' weights, all their tensors together."""
    (source,) = inputs.sources.values()
    total = torch.zeros(2 * group.size, 2 * group.size, dtype=torch.float64)
    read = (inputs.base.read, source.weights)
    for i, ours in enumerate(read):
        for j, theirs in enumerate(read):
            found = measure(
                "product", group.size, 1,
                ((ours(axis.tensor).float(), theirs(axis.tensor).float(), axis) for axis in group.axes),
            )  # fmt: skip
            total[i * group.size : (i + 1) * group.size, j * group.size : (j + 1) * group.size] = found.units
    return total


def _clusters(similarity_NN: Tensor, width: int, settings: Settings) -> Clusters:
    size = len(similarity_NN) // 2
    if settings.how == "pairs":
        return pairs(similarity_NN[:size, size:], width - size)
    if settings.match == "weights":  # products say how large units are, too
        lengths = similarity_NN.diagonal().clamp(min=1e-24).sqrt()
        similarity_NN = similarity_NN / lengths[:, None] / lengths[None]
    return zipped(similarity_NN, width, alpha=settings.alpha, beta=settings.beta)


def _joined(inputs: Inputs, group: Group, clusters: Clusters, share: float) -> dict[str, Tensor]:
    """The tensors that a group's units lie in, with a unit for each cluster; float32."""
    (source,) = inputs.sources.values()
    shares = torch.tensor([1 - share, share]).repeat_interleave(group.size)
    gather = torch.zeros(len(clusters), 2 * group.size)
    spread = torch.zeros(len(clusters), 2 * group.size)
    for number, members in enumerate(clusters):
        own = shares[list(members)]
        even = torch.full_like(own, 1 / len(members))
        gather[number, list(members)] = own / own.sum() if float(own.sum()) > 0 else even
        spread[number, list(members)] = own
    found: dict[str, Tensor] = {}
    for axis in group.axes:
        both = [_units(model(axis.tensor).float(), axis) for model in (inputs.base.read, source.weights)]
        rows = (gather if axis.produces else spread) @ torch.cat(both).flatten(1)
        found[axis.tensor] = _tensor(rows.view(len(clusters), *both[0].shape[1:]), axis)
    return found


def _units(tensor: Tensor, axis: Axis) -> Tensor:
    """(units × entries of a unit × the rest)."""
    size, _, entries = axis.entries.shape
    return tensor.movedim(axis.axis, 0)[axis.entries.reshape(-1)].reshape(size, entries, *_rest(tensor, axis))


def _tensor(units: Tensor, axis: Axis) -> Tensor:
    """Back: entries of one kind lie together (gate above up), unit by unit."""
    return units.transpose(0, 1).reshape(-1, *units.shape[2:]).movedim(0, axis.axis).contiguous()


def _rest(tensor: Tensor, axis: Axis) -> tuple[int, ...]:
    return tuple(tensor.movedim(axis.axis, 0).shape[1:])


def _said(clusters: Clusters, size: int) -> Mapping[str, int]:
    """How many units of the result are made of what."""
    models = [{unit >= size for unit in members} for members in clusters]
    within = sum(len(members) > 1 and len(own) == 1 for members, own in zip(clusters, models, strict=True))
    return {
        "width": len(clusters),
        "of_both": sum(len(own) == 2 for own in models),
        "within_one": within,
        "alone": sum(len(members) == 1 for members in clusters),
        "largest": max(map(len, clusters)) if clusters else 0,
    }
