"""Optimizers by name."""

from __future__ import annotations

from evomerge.errors import InvalidInputError
from evomerge.optimizers.adam import Adam
from evomerge.optimizers.aligned import Dam, ExpertMerging
from evomerge.optimizers.auto import Auto
from evomerge.optimizers.bayes import BayesSearch
from evomerge.optimizers.catcma import CatCma
from evomerge.optimizers.cma_es import CmaEs
from evomerge.optimizers.domain import Problem
from evomerge.optimizers.frank_wolfe import FrankWolfe
from evomerge.optimizers.genome import GenomeSearch
from evomerge.optimizers.m2n2 import M2n2
from evomerge.optimizers.mo_catcma import ComoCatCma
from evomerge.optimizers.mo_cma import ComoCmaEs
from evomerge.optimizers.nevergrad import NevergradSearch
from evomerge.optimizers.nsga import Nsga2, Nsga3
from evomerge.optimizers.optimizer import Optimizer
from evomerge.optimizers.options import Option
from evomerge.optimizers.portfolio import Portfolio
from evomerge.optimizers.random import SobolSearch
from evomerge.optimizers.soup import GreedySoup
from evomerge.optimizers.stages import Staged
from evomerge.optimizers.surrogate import MapSearch
from evomerge.optimizers.swarm import Swarm
from evomerge.optimizers.thompson import ThompsonSearch

OPTIMIZERS: dict[str, type[Optimizer]] = {
    "auto": Auto,
    "random": SobolSearch,
    "cma_es": CmaEs,
    "catcma": CatCma,
    "como_cma_es": ComoCmaEs,
    "como_catcma": ComoCatCma,
    "nsga2": Nsga2,
    "nsga3": Nsga3,
    "m2n2": M2n2,
    "nevergrad": NevergradSearch,
    "swarm": Swarm,
    "genome": GenomeSearch,
    "map": MapSearch,
    "bayes": BayesSearch,
    "thompson": ThompsonSearch,
    "adam": Adam,
    "frank_wolfe": FrankWolfe,
    "dam": Dam,
    "expert_merging": ExpertMerging,
    "greedy_soup": GreedySoup,
    "portfolio": Portfolio,
    "staged": Staged,
}
"""Every optimizer that a run may name."""


def summary(name: str) -> str:
    """What an optimizer is, in a line: the first of its docstring.

    Raises:
        InvalidInputError: an unknown name.
    """
    first, *_ = (_find(name).__doc__ or "").strip().splitlines()
    return first


def _find(name: str) -> type[Optimizer]:
    if name not in OPTIMIZERS:
        raise InvalidInputError("optimizer.name", name, f"one of {', '.join(sorted(OPTIMIZERS))}")
    return OPTIMIZERS[name]


def make(name: str, problem: Problem, *, seed: int, **options: Option) -> Optimizer:
    """A fresh optimizer.

    Raises:
        InvalidInputError: an unknown name or option, a value out of range, or a problem that it does not solve.
        ValueError: the start leaves [0, 1].
    """
    return _find(name)(problem, seed=seed, **options)


def restore(name: str, state: bytes) -> Optimizer:
    """The optimizer that `state` was taken from.

    Raises:
        InvalidInputError: an unknown name.
        EvomergeError: the bytes are not a state of this optimizer.
    """
    return _find(name).from_state(state)
