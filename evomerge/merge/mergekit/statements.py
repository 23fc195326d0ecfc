"""What a recipe says, at every module and layer: parameters and the method's defaults resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evomerge.errors import InvalidInputError
from evomerge.merge.mergekit.spelling import Values
from evomerge.merge.methods import METHODS
from evomerge.models.family import LAYER
from evomerge.recipe.parameters import Scalar, at_depth, stated
from evomerge.recipe.schema import Recipe


@dataclass(frozen=True, slots=True)
class Reading:
    """A recipe's parameters.

    Attributes:
        num_layers: of the merged model.
        modules: template of a module's name → its role.
    """

    recipe: Recipe
    num_layers: int
    modules: Mapping[str, str]

    def numbers(self, name: str, source: str | None = None) -> Values:
        """A number in every module and layer."""
        values: dict[str, tuple[float, ...]] = {}
        for module, role in self.modules.items():
            layers = range(self.num_layers) if LAYER in module else [None]
            found = [self.value(name, source, role, layer) for layer in layers]
            for value in found:
                if isinstance(value, bool | str):
                    raise InvalidInputError(self.field(name, source), value, "a number")
            values[module] = tuple(float(value) for value in found)
        return values

    def choice(self, name: str) -> Scalar:
        """A flag or choice, which must be the same everywhere."""
        found = {
            self.value(name, None, role, layer)
            for module, role in self.modules.items()
            for layer in (range(self.num_layers) if LAYER in module else [None])
        }
        if len(found) > 1:
            raise InvalidInputError(self.field(name, None), sorted(map(str, found)), "one value for the whole model")
        return found.pop()

    def value(self, name: str, source: str | None, role: str, layer: int | None) -> Scalar:
        """A parameter at a tensor: what the recipe states, else the method's default."""
        merge = self.recipe.merge
        default = next(p.default for p in METHODS[merge.method].parameters if p.name == name)
        value = stated(merge, role, layer, source).get(name, default)
        return at_depth(value, role, layer, self.num_layers)

    def require(self, name: str, value: Scalar, reason: str) -> None:
        """Refuse any other value than this one."""
        if (found := self.choice(name)) != value:
            raise InvalidInputError(self.field(name, None), found, f"{value!r}: {reason}")

    def field(self, name: str, source: str | None) -> str:
        """Where the recipe states a parameter last; where it could, if it does not."""
        merge = self.recipe.merge
        for number in reversed(range(len(merge.rules))):
            if name in merge.rules[number].parameters and merge.rules[number].source in (None, source):
                return f"merge.rules[{number}].parameters.{name}"
        if source is not None and name in merge.sources.get(source, {}):
            return f"merge.sources.{source}.{name}"
        return f"merge.parameters.{name}"

    def knots(self) -> list[tuple[float, ...]]:
        """Every list that the recipe states."""
        merge = self.recipe.merge
        parameters = [merge.parameters, *merge.sources.values(), *(rule.parameters for rule in merge.rules)]
        return [value for stated in parameters for value in stated.values() if isinstance(value, tuple)]
