"""How much answers depend on a coefficient, without labels: models on a line answer the same items, and each is
compared with its neighbours (AdaMMS)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from evomerge.errors import EvomergeError, Failure
from evomerge.merge.resident import Resident
from evomerge.recipe.schema import Recipe
from fitness.items import Item
from fitness.label_free import neighbour_flips
from fitness.scorer import make_scorer


@dataclass(frozen=True, slots=True)
class Flips:
    """Of the recipes of a line.

    Attributes:
        shares: of the items that each answers differently from its neighbours, the mean over these.
        best: number of the recipe with the least; of equals the one that lies nearest to the middle, and of these the
            first.
    """

    shares: tuple[float, ...]

    @property
    def best(self) -> int:
        middle = (len(self.shares) - 1) / 2
        return min(range(len(self.shares)), key=lambda n: (self.shares[n], abs(n - middle), n))


def flips_along(
    recipes: Sequence[Recipe],
    items: Sequence[Item],
    *,
    device: str = "cpu",
    cache: Path | None = None,
    batch_tokens: int = 2048,
    progress: Callable[[int], None] = lambda number: None,
) -> Flips:
    """Build each recipe in turn and ask it everything.

    Args:
        recipes: of the same models, pinned, in the order of the coefficient.
        items: of one kind, choices or generated answers; labels and references are not looked at.
        cache: folder for what this machine's workers share.
        progress: told each recipe's number before it is built.

    Raises:
        EvomergeError: a recipe cannot be built, or an item cannot be asked.

    Source: Du et al. 2025, AdaMMS, arXiv:2503.23733, section 3.3.
    """
    resident = Resident(recipes[0], device=device, cache=cache)
    scorer = make_scorer(resident.model, resident.tokenizer, batch_tokens=batch_tokens, device=device)
    scorer.expect(items)
    said: list[list[object]] = []
    for number, recipe in enumerate(recipes):
        progress(number)
        resident.materialize(recipe)
        found = scorer.said(items)
        if isinstance(found, Failure):
            raise EvomergeError(f"recipe {number + 1} of {len(recipes)}: {found.message}")
        said.append(found)
    return Flips(tuple(neighbour_flips(said)))
