"""Genes of a path through layers: genome to path and back, exactly, and the genome nearest to any path."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from evomerge.candidate import Genome
from evomerge.errors import InvalidInputError
from evomerge.optimizers.domain import Domain, GeneKind
from evomerge.recipe.path import SCALES, Hop, LayerPath
from search_spaces.scale import Scale
from search_spaces.slots import BACK, Choice, Layer, Slot

Walk = list[tuple[int, Layer]]
"""Slots in which a layer is visited, and which."""


@dataclass(frozen=True, slots=True)
class Paths:
    """The paths from the host's first layer through slots to its last one.

    A genome holds a choice for each slot; then, where scales are searched, a scale for each slot and one for the last
    layer. The first layer's scale is 1: a tied head stays tied. Paths within `SCALES` alone are made: a `stream` scale
    that would leave them stops short of it.

    Attributes:
        num_layers: of every model.
        least, most: hops of a path; 2 <= least <= num_layers <= most, or most < num_layers.
        scale: of a hop's input; None: all are 1.
    """

    host: str
    models: tuple[str, ...]
    semantics: Literal["stream", "delta"]
    num_layers: int
    slots: tuple[Slot, ...]
    scale: Scale | None
    least: int
    most: int

    @property
    def dim(self) -> int:
        """Number of genes."""
        return len(self.slots) + (0 if self.scale is None else len(self.slots) + 1)

    @property
    def names(self) -> tuple[str, ...]:
        """One name a gene."""
        names = tuple(slot.name for slot in self.slots)
        return names if self.scale is None else (*names, *(f"scale/{name}" for name in (*names, "last")))

    @property
    def domain(self) -> Domain:
        """Begins with the host as it is; the seeds are the other models between the host's first and last layer."""
        choices = tuple(GeneKind(choices=len(slot.choices)) for slot in self.slots)
        scales = tuple(GeneKind(gate=n if len(s.choices) == 2 else None) for n, s in enumerate(self.slots))
        kinds = choices if self.scale is None else (*choices, *scales, GeneKind())
        start = self.repair(self._written([slot.start for slot in self.slots], {}, 1.0))
        alone = (self._through(model) for model in self.models if model != self.host)
        seeds = dict.fromkeys(self.genome(path) for path in alone if self.least <= len(path.layers) <= self.most)
        return Domain(start, kinds, tuple(seed for seed in seeds if seed != start))

    def path(self, genome: Genome) -> LayerPath:
        """The path of a genome.

        Raises:
            InvalidInputError: the genome has another length or is not finite.
        """
        self._check(genome)
        choices = [_choice(gene, slot) for gene, slot in zip(genome, self.slots, strict=False)]
        added = self._lengthen(choices)
        walk = self._walk(choices)[: self.most - 2]
        scales = [1.0 if slot in added else self._scale(genome, slot) for slot, _ in walk]
        scales = self._limited([*scales, self._scale(genome, len(self.slots))])
        layers = [(self.host, 0), *(layer for _, layer in walk), (self.host, self.num_layers - 1)]
        hops = [Hop(model=m, layer=n, scale=s) for (m, n), s in zip(layers, [1.0, *scales], strict=True)]
        return LayerPath(host=self.host, semantics=self.semantics, layers=tuple(hops))

    def repair(self, genome: Genome) -> Genome:
        """The one genome that stands for the same path: layers in their earliest slots, scales of empty ones 1."""
        return self.genome(self.path(genome))

    def genome(self, path: LayerPath) -> Genome:
        """The genome of a path.

        Raises:
            InvalidInputError: the path lies outside of these; names the field.
        """
        self._check_path(path)
        choices, scales = [slot.skip for slot in self.slots], dict[int, float]()
        before, free = (self.host, 0), 0
        for number, hop in enumerate(path.layers[1:-1], start=1):
            layer = (hop.model, hop.layer)
            found = self._slot_of(layer, before, free)
            if found is None:
                allowed = "a layer that can follow here in this search space"
                raise InvalidInputError(f"path.layers[{number}]", f"{hop.model} layer {hop.layer}", allowed)
            slot, choice = found
            choices[slot], scales[slot] = choice, hop.scale
            before, free = layer, slot + 1
        return self._written(choices, scales, path.layers[-1].scale)

    def nearest(self, path: LayerPath) -> Genome:
        """The genome of the path that has as many of a path's layers as possible, in their order.

        Raises:
            InvalidInputError: the host is another one, or scales mean something else.
        """
        try:
            return self.repair(self.genome(path))
        except InvalidInputError:
            self._check_kind(path)
        inner, choices, scales = path.layers, [slot.skip for slot in self.slots], dict[int, float]()
        if (inner[0].model, inner[0].layer) == (self.host, 0):
            inner = inner[1:]
        last = 1.0
        if inner and (inner[-1].model, inner[-1].layer) == (self.host, self.num_layers - 1):
            last, inner = inner[-1].scale, inner[:-1]
        for hop, slot in _common(inner, self.slots):
            choices[slot] = self.slots[slot].choices.index((hop.model, hop.layer))
            scales[slot] = hop.scale
        return self.repair(self._written(choices, scales, last))

    def describe(self) -> list[dict[str, object]]:
        """What every gene means, JSON-ready."""
        genes: list[dict[str, object]] = [
            {**_place(slot), "name": slot.name, "kind": "choice", "slot": number,
             "choices": [_said(choice) for choice in slot.choices], "start": _said(slot.choices[slot.start])}
            for number, slot in enumerate(self.slots)
        ]  # fmt: skip
        if self.scale is None:
            return genes
        span = {"kind": "real", "low": self.scale.low, "high": self.scale.high, "start": 1.0}
        scales = [
            {**_place(slot), **span, "name": f"scale/{slot.name}", "slot": number}
            for number, slot in enumerate(self.slots)
        ]
        last = {"model": self.host, "layer": self.num_layers - 1, "slot": None, "name": "scale/last", **span}
        return [*genes, *scales, last]

    # -- inside -------------------------------------------------------------------------------------------------

    def _check(self, genome: Genome) -> None:
        if len(genome) != self.dim:
            raise InvalidInputError("genome", f"{len(genome)} genes", f"{self.dim} genes")
        for name, gene in zip(self.names, genome, strict=True):
            if not math.isfinite(gene):
                raise InvalidInputError(f"genome {name}", gene, "a finite number")

    def _check_kind(self, path: LayerPath) -> None:
        if path.host != self.host:
            raise InvalidInputError("path.host", path.host, f"{self.host!r}, the host of this search space")
        if path.scaled and path.semantics != self.semantics:
            raise InvalidInputError("path.semantics", path.semantics, f"{self.semantics!r} in this search space")

    def _check_path(self, path: LayerPath) -> None:
        self._check_kind(path)
        if not self.least <= len(path.layers) <= self.most:
            allowed = f"{self.least} to {self.most} hops in this search space"
            raise InvalidInputError("path.layers", f"{len(path.layers)} hops", allowed)
        for number, layer in ((0, 0), (len(path.layers) - 1, self.num_layers - 1)):
            hop = path.layers[number]
            if (hop.model, hop.layer) != (self.host, layer):
                allowed = f"layer {layer} of {self.host}, which is fixed"
                raise InvalidInputError(f"path.layers[{number}]", f"{hop.model} layer {hop.layer}", allowed)
        for number, hop in enumerate(path.layers):
            if number and self.scale is not None:
                wrong, allowed = not self.scale.holds(hop.scale), f"{self.scale.low:g} to {self.scale.high:g}"
            else:
                wrong, allowed = hop.scale != 1, "1: this scale is not searched"
            if wrong:
                raise InvalidInputError(f"path.layers[{number}].scale", hop.scale, allowed)

    def _through(self, model: str) -> LayerPath:
        """Another model's layers between the host's first and last."""
        end = self.num_layers - 1
        hops = [Hop(model=model if 0 < n < end else self.host, layer=n) for n in range(end + 1)]
        return LayerPath(host=self.host, semantics=self.semantics, layers=tuple(hops))

    def _walk(self, choices: Sequence[int]) -> Walk:
        walk, before = Walk(), (self.host, 0)
        for number, (slot, choice) in enumerate(zip(self.slots, choices, strict=True)):
            if (layer := slot.visited(choice, before)) is not None:
                walk.append((number, layer))
                before = layer
        return walk

    def _lengthen(self, choices: list[int]) -> set[int]:
        """Visit the host's own layers, the first ones first, until there are enough hops; the slots that this took."""
        lacking = self.least - 2 - len(self._walk(choices))
        idle = [n for n, slot in enumerate(self.slots) if slot.start != slot.skip == choices[n]][: max(0, lacking)]
        for number in idle:
            choices[number] = self.slots[number].start
        return set(idle)

    def _slot_of(self, layer: Layer, before: Layer, free: int) -> tuple[int, int] | None:
        """The first slot from `free` on in which a layer can be visited, and the choice that does it."""
        for number in range(free, len(self.slots)):
            choice = self.slots[number].choice_of(layer, before)
            if choice is not None:
                return number, choice
        return None

    def _scale(self, genome: Genome, slot: int) -> float:
        return 1.0 if self.scale is None else self.scale.value(genome[len(self.slots) + slot])

    def _limited(self, scales: Sequence[float]) -> list[float]:
        """Scales whose product stays within `SCALES`, where they multiply up."""
        if self.semantics == "delta":
            return list(scales)
        limited, reached = list[float](), 1.0
        for scale in scales:
            limited.append(self._within(scale, reached))
            reached *= limited[-1]
        return limited

    def _within(self, scale: float, reached: float) -> float:
        """The legal scale that is nearest to one; 1 where the range has none of its sign."""
        least, most = SCALES
        if least <= abs(reached * scale) <= most:
            return scale
        assert self.scale is not None, "the product of ones is one"
        bound = math.copysign((most if abs(reached * scale) > most else least) / abs(reached), scale)
        step = self.scale.step(bound)
        for near in (bound, bound - step, bound + step):  # the grid's next value may lie beyond
            value = self.scale.value(self.scale.gene(near))
            if least <= abs(reached * value) <= most and abs(value - bound) <= 2 * step:
                return value
        return 1.0

    def _written(self, choices: Sequence[int], scales: dict[int, float], last: float) -> Genome:
        genes = tuple((choice + 0.5) / len(slot.choices) for choice, slot in zip(choices, self.slots, strict=True))
        if self.scale is None:
            return genes
        values = [*(scales.get(n, 1.0) for n in range(len(self.slots))), last]
        return (*genes, *map(self.scale.gene, values))


def _choice(gene: float, slot: Slot) -> int:
    number = len(slot.choices)
    return min(int(min(max(float(gene), 0.0), 1.0) * number), number - 1)


def _place(slot: Slot) -> dict[str, object]:
    """The model and the layer that a slot is about; no model where there are several to choose from."""
    layers = [choice for choice in slot.choices if isinstance(choice, tuple)]
    return {"model": layers[0][0] if len(layers) == 1 else None, "layer": layers[0][1]}


def _said(choice: Choice) -> str:
    if choice is None:
        return "skip"
    return choice if choice == BACK else f"{choice[0]} layer {choice[1]}"


def _common(hops: Sequence[Hop], slots: Sequence[Slot]) -> Iterator[tuple[Hop, int]]:
    """The longest common subsequence: hops, and slots that can visit their layers, the last ones first."""
    best = np.zeros((len(hops) + 1, len(slots) + 1), dtype=np.int32)
    for row, hop in enumerate(hops):
        fits = np.array([(hop.model, hop.layer) in slot.choices for slot in slots], dtype=np.int32)
        best[row + 1, 1:] = np.maximum.accumulate(np.maximum(best[row, 1:], best[row, :-1] + fits))
    row, column = len(hops), len(slots)
    while row and column:
        if best[row, column] == best[row - 1, column]:
            row -= 1
        elif best[row, column] == best[row, column - 1]:
            column -= 1
        else:
            row, column = row - 1, column - 1
            yield hops[row], column
