"""Genomes of mixed genes as arrays: choices stand at their places, and what a closed gate hides stands at the start."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from evomerge.candidate import Genome
from evomerge.optimizers.domain import Domain
from evomerge.seeds import generator

Genomes = NDArray[np.float64]
"""Shape [genomes, genes], every gene in [0, 1]."""


class Genes:
    """Which columns of an array of genomes hold what.

    Attributes:
        real: columns of real genes.
        chosen: columns of genes with choices, ordered or not.
        ordered: for each of `chosen`, whether neighbouring choices are alike.
        counts: for each of `chosen`, how many choices there are.
        steps: for each column, the share of the usual step that suits it.
    """

    def __init__(self, domain: Domain) -> None:
        kinds = domain.kinds
        self.start = np.array(domain.start)
        self.real = np.array([i for i, kind in enumerate(kinds) if kind.choices is None], dtype=np.intp)
        self.chosen = np.array([i for i, kind in enumerate(kinds) if kind.choices is not None], dtype=np.intp)
        self.ordered = np.array([kind.ordered for kind in kinds if kind.choices is not None], dtype=np.bool_)
        self.counts = np.array([kind.choices for kind in kinds if kind.choices is not None], dtype=np.intp)
        self.steps = np.array([kind.step for kind in kinds])
        self._gates = [(i, kind.gate) for i, kind in enumerate(kinds) if kind.gate is not None]

    def choices(self, genomes: Genomes) -> NDArray[np.intp]:
        """The numbers of the choices that genes stand nearest to, shape [genomes, chosen]."""
        places = np.floor(genomes[:, self.chosen] * self.counts).astype(np.intp)
        return np.clip(places, 0, self.counts - 1)

    def canonical(self, genomes: Genomes) -> Genomes:
        """The genomes that mean the same and are written in one way, so that equal candidates are equal genomes.

        Reals are clipped to [0, 1], choice i of n stands at (i + ½)/n, genes behind a closed gate at the start's value.
        """
        result = np.clip(genomes, 0.0, 1.0)
        if not self.chosen.size and not self._gates:
            return result
        result[:, self.chosen] = (self.choices(result) + 0.5) / self.counts
        for _ in self._gates:  # a gate may itself stand behind a gate, in any order
            before = result.copy()
            for gene, gate in self._gates:
                result[:, gene] = np.where(result[:, gate] > 0.5, result[:, gene], self.start[gene])
            if np.array_equal(before, result):
                break
        return result


class Design:
    """Genomes to begin with: the start, the domain's seeds, then scrambled Sobol points.

    Args:
        domain: with genes of any kind.
        seed: of the scrambling.
        drawn: how many genomes were drawn before.
    """

    def __init__(self, domain: Domain, seed: int, drawn: int = 0) -> None:
        self._known = (domain.start, *domain.seeds)
        self._genes = Genes(domain)
        self._points = qmc.Sobol(domain.dim, scramble=True, rng=generator(seed, "design"))
        if drawn > len(self._known):
            self._points.fast_forward(drawn - len(self._known))
        self.drawn = drawn

    def next(self) -> Genome:
        """The next one, the start as it was given."""
        number, self.drawn = self.drawn, self.drawn + 1
        if number < len(self._known):
            return tuple(map(float, self._known[number]))
        # Points are drawn singly: a first draw that is no power of 2 makes scipy warn.
        return as_genome(self._genes.canonical(self._points.random(1))[0])


def as_genome(row: NDArray[np.float64]) -> Genome:
    """A row of an array as what travels."""
    return tuple(row.tolist())
