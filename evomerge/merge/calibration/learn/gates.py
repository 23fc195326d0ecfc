"""How coefficients become weights: one class a parametrisation, all linear in the atoms.

Raw parameters are what an optimizer moves; coefficients are what multiplies task vectors and what a merge reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from evomerge.merge.calibration.learn.atoms import Atoms
from evomerge.merge.primitives.chunks import num_chunks, per_entry

Start = Callable[[str, str], float]
"""(tensor, source) → the coefficient that learning starts from."""
Learned = Iterator[tuple[str, str, Tensor]]
"""Source, tensor, coefficients."""


class Gates(Protocol):
    """Coefficients that are learned."""

    @property
    def parameters(self) -> Sequence[Tensor]:
        """What an optimizer moves."""

    def at(self, step: int) -> None:
        """Draw what a step (from 0) draws, where anything is drawn."""

    def weights(self, name: str) -> Tensor:
        """A tensor under the coefficients as they are, in the orientation that the model holds; differentiable."""

    def penalty(self) -> Tensor | None:
        """What is added to the loss; None: nothing."""

    def learned(self) -> Learned:
        """The coefficients, as the merge reads them."""


def raw(values: Tensor) -> Tensor:
    """A parameter that asks for gradients."""
    return values.clone().requires_grad_()


class _Certain:
    """Coefficients without a draw."""

    def at(self, step: int) -> None:
        """Nothing."""


class Shares(_Certain):
    """One coefficient in [0, 1] a source and tensor, or a source: θ0 + Σ λ δ (AdaMerging)."""

    def __init__(self, atoms: Mapping[str, Atoms], start: Start, *, one_a_source: bool) -> None:
        self._atoms = atoms
        sources = {source: None for found in atoms.values() for source in found.vectors}
        common: dict[str, Tensor] = {}
        self._raw: dict[tuple[str, str], Tensor] = {}
        for name, found in atoms.items():
            for source in sources:
                own = raw(torch.tensor([start(name, source)], device=found.base.device))
                self._raw[name, source] = common.setdefault(source, own) if one_a_source else own
        self.parameters: Sequence[Tensor] = list({id(p): p for p in self._raw.values()}.values())

    def weights(self, name: str) -> Tensor:
        """θ0 + Σ clamp(λ) δ."""
        found = self._atoms[name]
        result = found.base
        for source, vector in found.vectors.items():
            result = result + self._raw[name, source].clamp(0, 1).to(vector.dtype) * vector
        return found.stored(result)

    def penalty(self) -> None:
        """None."""

    def learned(self) -> Learned:
        """λ, clamped; (1,)."""
        for (name, source), parameter in self._raw.items():
            yield source, name, parameter.detach().clamp(0, 1)


class Chunks(_Certain):
    """One coefficient in (0, 1) a source and chunk of a tensor's entries in order: σ(z) (Expert Merging).

    Args:
        chunks: tensor → how many chunks of equal length (but for the last) it is cut into.
        strength: of the penalty: Σ |c − start| over all coefficients, divided by their number a source.
    """

    def __init__(self, atoms: Mapping[str, Atoms], start: Start, chunks: Callable[[str], int], strength: float) -> None:
        self._atoms, self._strength = atoms, strength
        self._raw: dict[tuple[str, str], Tensor] = {}
        self._starts: dict[tuple[str, str], float] = {}
        for name, found in atoms.items():
            number = num_chunks(found.base.numel(), chunks(name))
            for source in found.vectors:
                at = self._starts[name, source] = start(name, source)
                self._raw[name, source] = raw(torch.full((number,), at, device=found.base.device).logit())
        self.parameters: Sequence[Tensor] = list(self._raw.values())

    def weights(self, name: str) -> Tensor:
        """θ0 + Σ σ(z) δ."""
        found = self._atoms[name]
        result = found.base
        for source, vector in found.vectors.items():
            spread = per_entry(self._raw[name, source].sigmoid(), vector.numel()).view_as(vector)
            result = result + spread.to(vector.dtype) * vector
        return found.stored(result)

    def penalty(self) -> Tensor | None:
        """strength · Σ |c − start| / (number of coefficients / number of sources)."""
        if not self._strength or not self._raw:
            return None
        away = torch.stack([(p.sigmoid() - self._starts[at]).abs().sum() for at, p in self._raw.items()]).sum()
        sources = len({source for _, source in self._raw})
        return self._strength * away / (sum(p.numel() for p in self.parameters) / sources)

    def learned(self) -> Learned:
        """σ(z); (chunks,)."""
        for (name, source), parameter in self._raw.items():
            yield source, name, parameter.detach().sigmoid()


class Columns(_Certain):
    """One coefficient a source and input of a linear map: c ⊙ along the columns (DAM, ZipLoRA).

    Args:
        whole: Σ c θ of whole models (DAM), not θ0 + Σ c δ (ZipLoRA).
        learns: whether a tensor's coefficients move; where not, they stay at their start.
        shape: raw parameter → coefficient.
        penalties: of a tensor's coefficients, source by source; added up over the tensors that learn.
    """

    def __init__(
        self,
        atoms: Mapping[str, Atoms],
        start: Start,
        *,
        whole: bool,
        learns: Callable[[Atoms], bool],
        shape: Callable[[Tensor], Tensor],
        penalties: Callable[[list[Tensor]], Tensor | None],
    ) -> None:
        self._atoms, self._whole, self._shape, self._penalties = atoms, whole, shape, penalties
        self._raw: dict[str, dict[str, Tensor]] = {}
        for name, found in atoms.items():
            width = found.base.shape[-1:]
            values = {s: torch.full(width, start(name, s), device=found.base.device) for s in found.vectors}
            self._raw[name] = {s: raw(v) for s, v in values.items()} if learns(found) else values
        self.parameters: Sequence[Tensor] = [p for own in self._raw.values() for p in own.values() if p.requires_grad]

    def _coefficients(self, name: str) -> dict[str, Tensor]:
        return {s: self._shape(p) if p.requires_grad else p for s, p in self._raw[name].items()}

    def weights(self, name: str) -> Tensor:
        """Σ c (θ0 + δ), or θ0 + Σ c δ."""
        found, coefficients = self._atoms[name], self._coefficients(name)
        base = found.base
        if self._whole:
            base = torch.stack(list(coefficients.values())).sum(0).to(base.dtype) * base
        for source, vector in found.vectors.items():
            base = base + coefficients[source].to(vector.dtype) * vector
        return found.stored(base)

    def penalty(self) -> Tensor | None:
        """Of all tensors that learn."""
        found = [
            self._penalties(list(self._coefficients(name).values()))
            for name, own in self._raw.items()
            if any(p.requires_grad for p in own.values())
        ]
        present = [p for p in found if p is not None]
        return torch.stack(present).sum() if present else None

    def learned(self) -> Learned:
        """c; (inputs,)."""
        for name in self._raw:
            for source, coefficients in self._coefficients(name).items():
                yield source, name, coefficients.detach()


def similarity(coefficients: list[Tensor]) -> Tensor | None:
    """Mean over pairs of sources of the cosine of their coefficients (DAM)."""
    pairs = [cosine_similarity(a, b, dim=0) for a, b in combinations(coefficients, 2)]
    return torch.stack(pairs).mean() if pairs else None


def products(coefficients: list[Tensor]) -> Tensor | None:
    """Sum over pairs of sources of the mean |c c'| (ZipLoRA, which has one pair)."""
    pairs = [(a * b).abs().mean() for a, b in combinations(coefficients, 2)]
    return torch.stack(pairs).sum() if pairs else None


def overlap(coefficients: list[Tensor]) -> Tensor | None:
    """Mean over pairs of sources of Σ min(|c|, |c'|) (DAM)."""
    pairs = [torch.minimum(a.abs(), b.abs()).sum() for a, b in combinations(coefficients, 2)]
    return torch.stack(pairs).mean() if pairs else None
