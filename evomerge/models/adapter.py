"""Adapters in PEFT's format (LoRA and its exact relatives), as deltas of their base model.

Source: Hu et al. 2021, LoRA, arXiv:2106.09685, eq. 3: ΔW = (α/r)·B·A. Kalajdzievski 2023, rsLoRA, arXiv:2312.03732:
α/√r in place of α/r. Liu et al. 2024, DoRA, arXiv:2402.09353, eq. 5: the rows of W + ΔW get lengths of their own.
Bhardwaj et al. 2024, SHiRA, arXiv:2406.13175: ΔW is a sparse matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evomerge.errors import CheckpointError
from evomerge.models.adapter_config import check_config, rank_of, scale_of
from evomerge.models.content import ADAPTER_CONFIG
from evomerge.models.factors import Factors
from evomerge.models.finite import check_finite
from evomerge.models.product import rounded_product
from evomerge.models.weights import Weights, open_weights, read_json, some

PREFIX = "base_model.model."
"""What PEFT puts before the base model's own names."""
_PARTS = {
    ".lora_A.weight": "A", ".lora_B.weight": "B", ".lora_embedding_A": "A", ".lora_embedding_B": "B",
    ".lora_B.bias": "bias", ".lora_magnitude_vector": "magnitude", ".shira_weight": "values",
    ".shira_indices": "indices",
}  # fmt: skip
"""Ends of stored names, and what they are to the module before them."""


@dataclass(frozen=True, slots=True)
class Module:
    """One adapted module: names of its stored tensors, how they are scaled and laid out.

    Attributes:
        stored: part (`A`, `B`, `bias`, `magnitude`, `values`, `indices`) → name.
        scale: α/r or α/√r.
        transposed: the base stores the matrix the other way round than B·A.
    """

    stored: Mapping[str, str]
    scale: float = 1.0
    transposed: bool = False

    @property
    def plain(self) -> bool:
        """Whether its delta is s·B·A and nothing else."""
        return "A" in self.stored and "magnitude" not in self.stored


@dataclass(frozen=True, slots=True)
class Contents:
    """Base tensor name, as PEFT spells it (a live model's name) → what its delta is made of.

    Attributes:
        modules: matrices.
        biases: what is added to biases (`lora_bias`): the stored vector and its scale.
        whole: tensors that are stored as they are after training (`modules_to_save`, `bias`).
    """

    modules: Mapping[str, Module] = field(default_factory=dict)
    biases: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    whole: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> frozenset[str]:
        """Base tensors that the adapter changes."""
        return frozenset([*self.modules, *self.biases, *self.whole])


class Adapter:
    """An adapter: deltas of base tensors, computed when asked for.

    Attributes:
        path: its directory.
        config: adapter_config.json.
        contents: what it changes.
    """

    def __init__(self, path: Path, config: dict[str, Any], weights: Weights, contents: Contents) -> None:
        self.path, self.config, self.contents = path, config, contents
        self._weights = weights

    @property
    def names(self) -> frozenset[str]:
        """Base tensors that the adapter changes."""
        return self.contents.names

    @property
    def factored(self) -> Mapping[str, int]:
        """Base tensors whose delta is a product of two factors → its rank."""
        plain = {name: module.stored["A"] for name, module in self.contents.modules.items() if module.plain}
        return {name: self._weights.tensors[stored].shape[0] for name, stored in plain.items()}

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the factors as stored."""
        return next(iter(self._weights.tensors.values())).dtype

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a base tensor's delta, from the stored shapes; None where any shape would do (a sparse matrix)."""
        if name not in self.contents.modules:
            stored = self.contents.whole.get(name) or self.contents.biases[name][0]
            return self._weights.tensors[stored].shape
        module = self.contents.modules[name]
        if "values" in module.stored:
            return None
        rows, columns = (self._weights.tensors[module.stored[p]].shape[at] for p, at in (("B", 0), ("A", 1)))
        return (columns, rows) if module.transposed else (rows, columns)

    def delta(self, name: str, base: Tensor | None = None) -> Tensor | None:
        """δ of a base tensor in float32, the same bytes on every machine; None where the adapter leaves it alone.

        Args:
            base: the tensor itself; only whole tensors, sparse matrices and DoRA need it.

        Raises:
            NonFiniteError: a stored tensor holds NaN or infinity.
        """
        if name in self.contents.biases:
            stored, scale = self.contents.biases[name]
            return self._read(stored).float() * scale
        if name in self.contents.whole:
            return self._read(self.contents.whole[name]).float() - _given(base, name)
        module = self.contents.modules.get(name)
        if module is None:
            return None
        if "values" in module.stored:
            return self._sparse(module, _given(base, name), name)
        delta_RC = rounded_product(self._read(module.stored["B"]), self._read(module.stored["A"]), module.scale)
        if "magnitude" in module.stored:
            delta_RC = self._with_lengths(module, delta_RC, _given(base, name))
        return delta_RC.T.contiguous() if module.transposed else delta_RC

    def factors(self, name: str) -> Factors | None:
        """The factors of δ as (out × in) or as the base stores it, whichever B·A is, the scale multiplied in.

        Returns:
            None where the adapter has no factors for the tensor.

        Raises:
            NonFiniteError: a factor holds NaN or infinity.
        """
        module = self.contents.modules.get(name)
        if module is None or not module.plain:
            return None
        A, B = (self._read(module.stored[part]).float().contiguous() for part in "AB")
        return Factors(A, B).scaled(module.scale)

    def transposed(self, name: str) -> bool:
        """Whether the base stores the matrix the other way round than the factors' product."""
        return self.contents.modules[name].transposed

    def close(self) -> None:
        """Let the files go."""
        self._weights.close()

    def _read(self, stored: str) -> Tensor:
        tensor = self._weights.read(stored)
        if tensor.is_floating_point():
            check_finite(tensor, stored, str(self.path))
        return tensor

    def _with_lengths(self, module: Module, delta_RC: Tensor, base: Tensor) -> Tensor:
        """m·(W + ΔW)/‖W + ΔW‖ − W, the norm over a row (a unit's inputs): DoRA, eq. 5."""
        base_RC = (base.t() if module.transposed else base).double()
        moved_RC = base_RC + delta_RC
        magnitude_R = self._read(module.stored["magnitude"]).double()
        moved_RC.mul_((magnitude_R / torch.linalg.vector_norm(moved_RC, dim=1)).unsqueeze(1))
        return moved_RC.sub_(base_RC).float()

    def _sparse(self, module: Module, base: Tensor, name: str) -> Tensor:
        values, places = (self._read(module.stored[part]) for part in ("values", "indices"))
        size = torch.tensor(base.shape).unsqueeze(1)
        if base.dim() != 2 or bool(((places < 0) | (places >= size)).any()):
            raise CheckpointError(f"{self.path}: {module.stored['indices']!r} points outside {name!r}")
        delta = torch.zeros_like(base)
        delta.view(-1).index_add_(0, places[0].long() * base.shape[1] + places[1].long(), values.float())
        return delta


def _given(base: Tensor | None, name: str) -> Tensor:
    if base is None:
        raise ValueError(f"the delta of {name!r} depends on the base model's tensor; expected it as `base`")
    return base.float()


def is_adapter(path: Path) -> bool:
    """Whether a directory holds a PEFT adapter."""
    return (path / ADAPTER_CONFIG).is_file()


def open_adapter(path: Path) -> Adapter:
    """Open a directory with `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        CheckpointError: a file is missing or corrupt, the adapter is of a kind whose delta is not known exactly (the
            message names the field), or ranks differ between config and weights.
    """
    config = read_json(path / ADAPTER_CONFIG)
    check_config(config, path / ADAPTER_CONFIG)
    weights = open_weights(path, "adapter_model")
    return Adapter(path, config, weights, _contents(weights, config, path))


def _contents(weights: Weights, config: Mapping[str, Any], path: Path) -> Contents:
    found: dict[str, dict[str, str]] = {}
    whole: dict[str, str] = {}
    for stored in weights.tensors:
        module, part = _parse(stored, config, path)
        if part == "whole":
            whole[module] = stored
        else:
            found.setdefault(module, {})[part] = stored
    modules: dict[str, Module] = {}
    biases: dict[str, tuple[str, float]] = {}
    for name, parts in found.items():
        adapted = _module(name, parts, weights, config, path)
        modules[f"{name}.weight"] = adapted
        if "bias" in parts:
            biases[f"{name}.bias"] = (parts["bias"], adapted.scale)
    if twice := sorted(set(whole) & {*modules, *biases}):
        raise CheckpointError(f"{path}: holds {some(twice)} both whole and as a change; expected one of the two")
    return Contents(modules, biases, whole)


def _parse(stored: str, config: Mapping[str, Any], path: Path) -> tuple[str, str]:
    """A stored name → the adapted module and the part that the tensor plays, or a whole tensor's name and `whole`."""
    if stored.startswith(PREFIX):
        name = stored[len(PREFIX) :]
        for suffix, part in _PARTS.items():
            if name.endswith(suffix):
                return name[: -len(suffix)], part
        kept = config.get("modules_to_save") or config.get("bias") in ("all", "lora_only")
        if kept and "lora_" not in name and name.endswith((".weight", ".bias")):
            return name.replace(".base_layer.", "."), "whole"
    raise CheckpointError(
        f"{path}: tensor {stored!r} is no LoRA factor, nor does {ADAPTER_CONFIG} say that it is saved"
    )


def _module(name: str, parts: dict[str, str], weights: Weights, config: Mapping[str, Any], path: Path) -> Module:
    _check_parts(name, parts, config, path)
    if "values" in parts:
        _check_sparse(parts, weights, path)
        return Module(parts)
    embedding = parts["A"].endswith("lora_embedding_A")
    if embedding and "magnitude" in parts:
        raise CheckpointError(f"{path}: {parts['magnitude']!r} is DoRA of an embedding, which is not supported")
    rank = _check_rank(weights, parts["A"], parts["B"], name, config, path)
    transposed = embedding or bool(config.get("fan_in_fan_out"))
    return Module(parts, scale_of(name, rank, config, path), transposed)


def _check_parts(name: str, parts: Mapping[str, str], config: Mapping[str, Any], path: Path) -> None:
    """What the config promises is there, and nothing else."""
    if config["peft_type"] == "SHIRA":
        needed, optional = {"values", "indices"}, set[str]()
    else:
        needed = {"A", "B", "magnitude"} if config.get("use_dora") else {"A", "B"}
        optional = {"bias"} if config.get("lora_bias") else set()
    if extra := set(parts) - needed - optional:
        names = some(sorted(parts[part] for part in extra))
        raise CheckpointError(f"{path}: tensor {names} is no LoRA factor that {ADAPTER_CONFIG} speaks of")
    if not needed <= set(parts):
        raise CheckpointError(f"{path}: module {name!r} has only {some(sorted(parts.values()))}")


def _check_rank(weights: Weights, A: str, B: str, module: str, config: Mapping[str, Any], path: Path) -> int:
    shape_A, shape_B = weights.tensors[A].shape, weights.tensors[B].shape
    rank = rank_of(module, config, path)
    if len(shape_A) != 2 or len(shape_B) != 2 or not shape_A[0] == shape_B[1] == rank >= 1:
        raise CheckpointError(
            f"{path}: module {module!r} has factors A {list(shape_A)} and B {list(shape_B)}; "
            f"expected rank {rank} as {ADAPTER_CONFIG} says"
        )
    return rank


def _check_sparse(parts: Mapping[str, str], weights: Weights, path: Path) -> None:
    values, indices = (weights.tensors[parts[part]] for part in ("values", "indices"))
    if len(values.shape) != 1 or indices.shape != (2, values.shape[0]) or indices.dtype.is_floating_point:
        raise CheckpointError(
            f"{path}: {values.name!r} is {list(values.shape)} and {indices.name!r} {list(indices.shape)}; "
            "expected n values and 2 × n whole numbers"
        )
