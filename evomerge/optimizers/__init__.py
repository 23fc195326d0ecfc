"""Ask and tell.

`optimizer` is the contract. `random` (Sobol points) and `cma_es` fulfil it; `registry` knows them by name
(`OPTIMIZERS`, `make`, `restore`). `cma_es` stands on `distribution` (pycma for one generation, and the numbers that
outlive it) and `ranking` (constraints, failures and several objectives as one number). `m2n2` searches lineages as
well as genomes: `niches` is its competition for items, `niche_archive` who stays, `breeding` who comes. `options`,
`checks` and `state` are what all share: options read once, arguments refused early, state as npz.
"""

from evomerge.optimizers.registry import OPTIMIZERS, make, restore

__all__ = ["OPTIMIZERS", "make", "restore"]
