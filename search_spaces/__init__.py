"""Genomes to recipes and back. A search space never sees a score.

`make_space` turns a run's `space` into a `SearchSpace` (`space`, the contract). Kinds (`kinds`): `parameter`, built
from `searched` (what varies), `groups` (which tensors share a gene), `ties` (which genes are one), `scale` (gene ↔
value), `prior` (first steps) and `template` (recipes with holes);
`data_flow`, paths (`paths`) through layers that two encodings lay out (`slots`); `hybrid`, both in one genome;
`lineage`, whose candidates descend from each other.
"""

from __future__ import annotations

from search_spaces.kinds import KINDS, make_space
from search_spaces.space import SearchSpace

__all__ = ["KINDS", "SearchSpace", "make_space"]
