"""What a run's candidates cost by its objectives and constraints. Counted here: it takes neither items nor a worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from evomerge.candidate import Estimate
from evomerge.recipe.written import Written, read
from evomerge.run.spec import RunSpec


class Costs:
    """The objectives and constraints of a run that are costs.

    Args:
        config: config.json of the base.
    """

    def __init__(self, spec: RunSpec, config: Mapping[str, Any]) -> None:
        self._config = config
        self._metrics = {o.name: o.metric for o in spec.objectives if o.is_cost}
        self._metrics |= {c.name: c.metric for c in spec.constraints if c.is_cost}
        self._limits = {c.name: c.max for c in spec.constraints if c.max is not None}

    def scores(self, recipe: Written | Mapping[str, Any]) -> dict[str, Estimate]:
        """Name → the cost, which is exact and rests on no items.

        Args:
            recipe: a recipe's data, as it is stored: most runs ask for no cost, and read none.

        Raises:
            ArchitectureError: transformers cannot build a model of the base's config.
        """
        if not self._metrics:
            return {}
        from evomerge.merge.flow.cost import cost_of  # imports transformers, which most runs' controllers do without

        found = asdict(cost_of(read(recipe), self._config))
        return {name: Estimate(float(found[metric]), 0.0, 0) for name, metric in self._metrics.items()}

    def violation(self, scores: Mapping[str, Estimate]) -> float:
        """By how much limits are missed, each as a share of the limit, summed: beside guards, which miss hundredths,
        raw counts would leave nothing else to see."""
        return sum(max(0.0, scores[name].mean / limit - 1) for name, limit in self._limits.items())
