"""Problems whose fronts are known, and runs on them; larger is better."""

import math

import numpy as np

from evomerge.archive import hypervolume
from evomerge.candidate import Evaluation
from evomerge.optimizers.domain import real


def zdt1(genome):
    """Zitzler, Deb, Thiele 2000: front f2 = 1 - sqrt(f1) where all genes but the first are 0."""
    g = 1 + 9 * np.mean(genome[1:])
    return -genome[0], -g * (1 - math.sqrt(genome[0] / g))


def dtlz2(genome):
    """Deb, Thiele, Laumanns, Zitzler 2002, three objectives: an eighth of the unit sphere, all other genes at 0.5."""
    g = 1 + sum((gene - 0.5) ** 2 for gene in genome[2:])
    first, second = (gene * math.pi / 2 for gene in genome[:2])
    return (
        -g * math.cos(first) * math.cos(second),
        -g * math.cos(first) * math.sin(second),
        -g * math.sin(first),
    )


def two_peaks(genome):
    """Each objective has its peak; the front is the line between them."""
    return tuple(-sum((gene - peak) ** 2 for gene in genome) for peak in (0.3, 0.6))


REFERENCES = {zdt1: (-1.1, -5.0), dtlz2: (-2.0, -2.0, -2.0), two_peaks: (-1.0, -1.0)}


def run(optimizer, function, evaluations, workers=1, failures=0.0, seed=0, restore_every=0):
    """Values and proposals of a search on so many workers, whose answers take random time and sometimes fail."""
    rng = np.random.default_rng(seed)
    running, proposals, values = [], [], []
    for step in range(evaluations):
        asked = optimizer.ask(workers - len(running))
        proposals += asked
        running += [(step + rng.lognormal(0, 0.7) * workers, p.trial, p) for p in asked]
        running.sort()
        _, _, done = running.pop(0)
        answer = None if rng.random() < failures else function(done.genome)
        values += [] if answer is None else [answer]
        optimizer.tell([Evaluation(done.trial, answer)])
        if restore_every and step % restore_every == 0:
            optimizer = type(optimizer).from_state(optimizer.state())
    return values, proposals


def volume(kind, function, genes, evaluations, seed, **options):
    """Hypervolume of all that a search of so many evaluations found."""
    reference = REFERENCES[function]
    optimizer = kind(real((0.5,) * genes, len(reference), evaluations), seed=seed, **options)
    return hypervolume(run(optimizer, function, evaluations)[0], reference)
