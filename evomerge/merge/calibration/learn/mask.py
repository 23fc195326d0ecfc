"""A soft mask over task vectors that all sources share: Concrete subspace learning."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from evomerge.merge.calibration.kinds import ALL
from evomerge.merge.calibration.learn.atoms import Atoms
from evomerge.merge.calibration.learn.gates import Learned, Start, raw

_LEAST = 1e-8
"""Nearest that a uniform draw comes to 0 or 1."""


class Mask:
    """θ0 + Σ λ m ⊙ δ, m of mean 1 over a tensor, from one logit x an entry, row or column.

    While it is learned m = σ((log u − log(1 − u) + x) / T) with a fresh u a step; what is learned is read without a
    draw, m = σ(x): a sampled mask would make another model of the same recipe.

    Args:
        one_for: `entry`, `row`, `column`.
        softness: T.

    Source: Tang et al. 2023, arXiv:2312.06173, eq. 5-8.
    """

    def __init__(self, atoms: Mapping[str, Atoms], start: Start, *, one_for: str, softness: float, seed: int) -> None:
        self._atoms, self._start, self._softness, self._seed = atoms, start, softness, seed
        self._raw = {
            name: raw(torch.zeros(_shape(found.base.shape, one_for), device=found.base.device))
            for name, found in atoms.items()
        }
        self._step = 0
        self.parameters: Sequence[Tensor] = list(self._raw.values())

    def at(self, step: int) -> None:
        """The noise of this step from here on."""
        self._step = step

    def weights(self, name: str) -> Tensor:
        """With the draw of this step."""
        found, x = self._atoms[name], self._raw[name]
        soft = torch.sigmoid((self._noise(name, x) + x) / self._softness)
        mask = (soft / soft.mean()).to(found.base.dtype)
        result = found.base
        for source, vector in found.vectors.items():
            result = result + self._start(name, source) * (mask * vector)
        return found.stored(result)

    def _noise(self, name: str, x: Tensor) -> Tensor:
        """log u − log(1 − u)."""
        text = f"{self._seed}:{self._step}:{name}".encode()
        key = int.from_bytes(hashlib.sha256(text).digest()[:7], "big")
        u = torch.rand(x.shape, generator=torch.Generator().manual_seed(key)).clamp_(_LEAST, 1 - 1e-7)
        return u.logit().to(x.device)

    def penalty(self) -> None:
        """None."""

    def learned(self) -> Learned:
        """σ(x) / mean σ(x), and every source's λ; (1,)."""
        for name, x in self._raw.items():
            soft = x.detach().sigmoid()
            yield ALL, name, soft / soft.mean()
            for source in self._atoms[name].vectors:
                yield source, name, torch.tensor([self._start(name, source)])


def _shape(shape: torch.Size, one_for: str) -> tuple[int, ...]:
    """Of the logits, so that they spread over a tensor; a vector has one for each entry whatever is asked for."""
    if len(shape) < 2 or one_for == "entry":
        return tuple(shape)
    rest = (1,) * (len(shape) - 1)
    return (shape[0], *rest) if one_for == "row" else (*rest, shape[-1])
