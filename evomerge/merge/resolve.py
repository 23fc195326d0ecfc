"""From names of places to exact content: absolute locations, hashes filled in and checked, recipes within recipes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from evomerge.errors import CheckpointError, HashMismatchError, InvalidInputError
from evomerge.merge.align.pin import pin_align
from evomerge.merge.calibration.files import pin_calibration
from evomerge.models.content import content_hash
from evomerge.models.hub import HUB, locate
from evomerge.recipe.calibration import Calibration
from evomerge.recipe.schema import ModelRef, Recipe
from evomerge.recipe.text import load_recipe

RECIPE_SUFFIXES = (".yaml", ".yml", ".json")


def pin(recipe: Recipe, root: Path, cache: Path | None = None) -> Recipe:
    """The same recipe with every location absolute and every hash there, so that it means one model and no other.

    A model's hash is that of its weights; a recipe's is the digest of that recipe, pinned. Models of the hub keep their
    `hub:` location: their content is what the hash says, wherever the copy lies.

    Args:
        recipe: hashes that it has are checked.
        root: where relative locations start; those within a nested recipe start at that recipe's directory.
        cache: a directory that remembers hashes of unchanged files.

    Raises:
        CheckpointError: a model is missing or unreadable; names the field and the path.
        HashMismatchError: other weights lie there than the recipe names.
        InvalidInputError: a nested recipe is not valid, or recipes contain each other in a circle.
    """
    return _Pinning(cache).recipe(recipe, root.resolve(), ())


@dataclass(frozen=True, slots=True)
class _Pinning:
    """One walk over a graph of recipes; what many recipes share is read once."""

    cache: Path | None
    digests: dict[Path, str] = field(default_factory=dict)

    def recipe(self, recipe: Recipe, root: Path, parents: tuple[Path, ...]) -> Recipe:
        base = self.ref(recipe.base, "base", root, parents)
        sources = {name: self.ref(ref, f"sources.{name}", root, parents) for name, ref in recipe.sources.items()}
        align = None if recipe.align is None else pin_align(recipe.align, root)
        files = {"align": align, **self.calibration(recipe, root)}
        return recipe.model_copy(update={"base": base, "sources": sources, **files})

    def calibration(self, recipe: Recipe, root: Path) -> dict[str, Calibration]:
        """The recipe's calibration section, where it has one, with its files pinned."""
        if recipe.calibration is None:
            return {}
        return {"calibration": pin_calibration(recipe.calibration, root)}

    def ref(self, ref: ModelRef, where: str, root: Path, parents: tuple[Path, ...]) -> ModelRef:
        try:
            path = locate(ref, root).resolve()
            found = self.nested(path, ref, where, parents) if path.is_file() else self.digest(path)
        except CheckpointError as error:
            raise CheckpointError(f"{where}: {error}") from error
        if ref.sha256 not in (None, found):
            raise HashMismatchError(
                f"{where}: {path} has SHA-256 {found}, the recipe expects {ref.sha256}: another model lies there"
            )
        location = ref.location if ref.location.startswith(HUB) else str(path)
        return ModelRef(location=location, revision=ref.revision, sha256=found)

    def digest(self, path: Path) -> str:
        if path not in self.digests:
            self.digests[path] = content_hash(path, self.cache)
        return self.digests[path]

    def nested(self, path: Path, ref: ModelRef, where: str, parents: tuple[Path, ...]) -> str:
        """Digest of a recipe file with all that it names pinned."""
        if path.suffix.lower() not in RECIPE_SUFFIXES:
            raise InvalidInputError(f"{where}.location", ref.location, "a model's directory or a recipe (.yaml, .json)")
        if path in parents:
            circle = " → ".join(p.name for p in (*parents[parents.index(path) :], path))
            raise InvalidInputError(where, ref.location, f"a recipe that does not contain itself ({circle})")
        if path not in self.digests:
            try:
                pinned = self.recipe(load_recipe(path), path.parent, (*parents, path))
            except (CheckpointError, HashMismatchError) as error:
                raise type(error)(f"{path.name}: {error}") from error
            self.digests[path] = pinned.digest
        return self.digests[path]
