"""The contract of every search space: genomes to recipes and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, cast

from evomerge.candidate import Descent, Genome, Proposal
from evomerge.optimizers.domain import Domain
from evomerge.recipe.schema import Recipe
from evomerge.recipe.written import Written, written
from search_spaces.template import TemplateSpace


class SearchSpace(Protocol):
    """Maps a genome in [0, 1]^dim to a recipe and says what each gene means. Pure; JSON-serialisable by its spec."""

    @property
    def dim(self) -> int:
        """Number of genes."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """One name a gene, e.g. `weight/math/layers 0-9/attention`; unique."""
        ...

    @property
    def domain(self) -> Domain:
        """What optimizers may know: the kind of every gene, and where searches begin: the plain average of the sources
        (weight 1/K each)."""
        ...

    def repair(self, genome: Genome) -> Genome:
        """The nearest legal genome: clipped to [0, 1], rounded where a gene is discrete. Idempotent."""
        ...

    def recipe(self, genome: Genome) -> Recipe:
        """The recipe that a genome stands for; genomes that differ only by repair give equal recipes."""
        ...

    def encode(self, recipe: Recipe) -> Genome:
        """The genome of a recipe that this space made; `recipe(encode(r)) == r`.

        Raises:
            InvalidInputError: the recipe lies outside this space; the message names the field.
        """
        ...

    def nearest(self, recipe: Recipe) -> Genome:
        """The genome most like a recipe of the same models, which another search, a person or another tool made.

        Raises:
            InvalidInputError: nothing in this space is like it (another method, other models); names the field.
        """
        ...

    def describe(self) -> dict[str, object]:
        """For people and the dashboard: dim, and per gene its name, range, source, layers and roles. JSON-ready."""
        ...


class LineageSpace(SearchSpace, Protocol):
    """A space whose candidates descend from each other; `domain.lineage` is set and genomes are empty."""

    def descend(self, descent: Descent, parents: Sequence[Recipe], trial: int) -> Recipe:
        """The recipe of a descendant.

        Args:
            descent: how it comes from its parents.
            parents: recipes of `descent.parents`; none for a source.
            trial: the proposal's number: the seed of its noise.
        """
        ...


def recipe_of(space: SearchSpace, proposal: Proposal, recipe_of_trial: Callable[[int], Recipe]) -> Recipe:
    """The recipe of a proposal: of its genome, or of its descent from candidates that were there before.

    Args:
        recipe_of_trial: the recipe of an earlier proposal.
    """
    if proposal.descent is None:
        return space.recipe(proposal.genome)
    parents = [recipe_of_trial(trial) for trial in proposal.descent.parents or ()]
    return cast(LineageSpace, space).descend(proposal.descent, parents, proposal.trial)


def made_of(space: SearchSpace, proposal: Proposal, recipe_of_trial: Callable[[int], Recipe]) -> tuple[Written, str]:
    """The recipe of a proposal as it is stored, and its digest, which some spaces know without making a recipe."""
    if proposal.descent is None and isinstance(space, TemplateSpace):
        return space.made(proposal.genome)
    recipe = recipe_of(space, proposal, recipe_of_trial)
    return written(recipe), recipe.digest
