"""A mask that all sources share, learned for coefficients that learn in turn: Concrete AdaMerging."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from evomerge.merge.calibration.learn import items
from evomerge.merge.calibration.learn.adam import Adam, Steps
from evomerge.merge.calibration.learn.atoms import Atoms
from evomerge.merge.calibration.learn.descent import Problem, backward, descend
from evomerge.merge.calibration.learn.gates import Learned, Start, raw
from evomerge.merge.calibration.learn.mask import Mask

Level = Literal["coefficients", "mask", "settled"]


class AdaptiveMask(Mask):
    """θ0 + Σ λ m ⊙ δ, where the level says which of λ (in [0, 1]) and m moves.

    `coefficients`: λ, under this step's draw of m. `mask`: m. `settled`: λ, under the mask as the merge reads it.

    Args:
        one_a_source: one λ a source, not one a source and tensor.

    Source: Tang et al. 2023, arXiv:2312.06173, algorithm 1.
    """

    def __init__(
        self,
        atoms: Mapping[str, Atoms],
        start: Start,
        *,
        one_for: str,
        softness: float,
        seed: int,
        one_a_source: bool,
    ) -> None:
        super().__init__(atoms, start, one_for=one_for, softness=softness, seed=seed)
        common: dict[str, Tensor] = {}
        self._shares: dict[tuple[str, str], Tensor] = {}
        for name, found in atoms.items():
            for source in found.vectors:
                own = raw(torch.tensor([start(name, source)], device=found.base.device))
                self._shares[name, source] = common.setdefault(source, own) if one_a_source else own
        self.logits: Sequence[Tensor] = self.parameters
        self.coefficients: Sequence[Tensor] = list({id(p): p for p in self._shares.values()}.values())
        self._level: Level = "mask"

    def enter(self, level: Level) -> None:
        """What moves from here on."""
        self._level = level
        self.parameters = self.logits if level == "mask" else self.coefficients

    @torch.no_grad()
    def reset(self) -> None:
        """Every λ at its start."""
        for (name, source), share in self._shares.items():
            share.fill_(self._start(name, source))

    def _mask(self, name: str) -> Tensor:
        x = self._raw[name]
        soft = x.sigmoid() if self._level == "settled" else ((self._noise(name, x) + x) / self._softness).sigmoid()
        mask = soft / soft.mean()
        return mask if self._level == "mask" else mask.detach()

    def weights(self, name: str) -> Tensor:
        """As the level has it."""
        found = self._atoms[name]
        mask, result = self._mask(name).to(found.base.dtype), found.base
        for source, vector in found.vectors.items():
            share = self._shares[name, source].clamp(0, 1).to(vector.dtype)
            result = result + (share.detach() if self._level == "mask" else share) * (mask * vector)
        return found.stored(result)

    def learned(self) -> Learned:
        """σ(x) / mean σ(x), and every source's λ; (1,)."""
        for source, name, found in super().learned():
            own = self._shares.get((name, source))
            yield source, name, found if own is None else own.detach().clamp(0, 1)


@dataclass(frozen=True, slots=True)
class Pace:
    """How it learns.

    Attributes:
        steps: of the mask, each after a step of the coefficients from their start.
        rate: of the mask.
        inner_rate: of these steps of the coefficients.
        last_steps, last_rate: of the coefficients under the finished mask.
        batch: items of every source that a step looks at.
    """

    steps: int
    rate: float
    inner_rate: float
    last_steps: int
    last_rate: float
    batch: int


def two_levels(problem: Problem, found: AdaptiveMask, pace: Pace, seed: int, done: Callable[[], None]) -> Learned:
    """Learn the mask, then the coefficients under it.

    Each step of the mask follows one step of the coefficients from their start (of first order: the gradient does not
    go through that step), on items of its own; the coefficients' optimizer keeps its moments from step to step, as in
    the public code.
    """
    inner, outer = Steps(Adam(pace.inner_rate), found.coefficients), Steps(Adam(pace.rate), found.logits)
    for step in range(pace.steps):
        found.at(step)
        found.reset()
        turns: tuple[tuple[Level, Steps], ...] = (("coefficients", inner), ("mask", outer))
        for turn, (level, steps) in enumerate(turns):
            found.enter(level)
            batches = {s: items.batch(own, 2 * step + turn, pace.batch, seed) for s, own in problem.samples.items()}
            backward(problem, found, batches)
            steps.step()
        done()
    found.reset()
    found.enter("settled")
    descend(problem, found, Adam(pace.last_rate), steps=pace.last_steps, batch=pace.batch, seed=seed, done=done)
    return found.learned()
