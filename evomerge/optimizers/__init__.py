"""Ask and tell.

`optimizer` is the contract. `random` (Sobol points) and `cma_es` fulfil it; `registry` knows them by name
(`OPTIMIZERS`, `make`, `restore`). `cma_es` and `catcma` are each an `evolution` strategy, which has what they share
(order of arrival, `restarts`, `noise` that asks for more items); they stand on `distribution` and `mixed` (pycma and
CatCMA for one generation, and the numbers that outlive it) and `ranking` (constraints, failures and several objectives
as one number). `nevergrad` does a library's calls again. `m2n2` searches lineages as well as genomes: `niches` is its
competition for items, `niche_archive` who stays, `breeding` who comes. `nsga` and `genome` are populations in a
`steady_state`; `survival` says who stays (pymoo's sorting, crowding and niching on arrays), `variation` how children
are made, `genes` how genomes of mixed genes are written, `blends` where they begin. `mo_cma` and `mo_catcma` let
several `kernel`s share a front, `swarm` moves particles, `surrogate` searches `quadratic` fits and can show the front
that they predict. `bayes` asks the processes of `gaussian` where an evaluation is worth most. `thompson` samples an
`item_process` of the answers in an `item_table`: what merges and items say of each other. `gradient` has Adam and
Frank-Wolfe, which follow gradients where the evaluator gives them, and `aligned` DAM and Expert Merging, with what
`coefficients` add to a loss; `soup` averages sources one by one, and `corners`
says what is mixed; `stages` searches one group of genes after the other. `auto` picks one of them; `portfolio` runs
several, which share what they find, and its `bandit` says whose turn it is. `options`, `checks` and `state` are what
all share: options read once, arguments refused early, state as npz.
"""

from evomerge.optimizers.registry import OPTIMIZERS, make, restore

__all__ = ["OPTIMIZERS", "make", "restore"]
