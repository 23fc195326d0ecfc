"""Where on the way through a model a layer may be visited: the slots of a path, as two encodings lay them out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Layer = tuple[str, int]
"""A model's name and the number of one of its layers."""
Back = Literal["back"]
BACK: Back = "back"
Choice = Layer | Back | None
"""What may happen in a slot: a layer is visited, the layer before once more, or (None) nothing."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot.

    Attributes:
        name: unique among the slots.
        choices: each once. Of two, the second one is a layer.
        start: number of the choice at which searches begin.
    """

    name: str
    choices: tuple[Choice, ...]
    start: int

    @property
    def skip(self) -> int:
        """Number of the choice by which nothing is visited."""
        return self.choices.index(None)

    def visited(self, choice: int, before: Layer) -> Layer | None:
        """The layer that a choice visits, after `before`; None: none."""
        found = self.choices[choice]
        return before if found == BACK else found

    def choice_of(self, layer: Layer, before: Layer) -> int | None:
        """Number of the choice that visits a layer after `before`; None where there is none."""
        if layer in self.choices:
            return self.choices.index(layer)
        return self.choices.index(BACK) if layer == before and BACK in self.choices else None


def indicators(models: Sequence[str], host: str, num_layers: int, repeats: int) -> Iterator[Slot]:
    """A slot for each layer of each model, in order, and all of that `repeats` times; each is on or off.

    The first layer of the host's first round and the last one are no slots: they are visited in any case. At the start
    the others of the host's first round are on.

    Source: Akiba et al. 2024, arXiv:2403.13187, section 3.2: the indicator array of length M × r.
    """
    for turn in range(1, repeats + 1):
        for model in models:
            for layer in range(num_layers):
                own = turn == 1 and model == host
                if not (own and layer in (0, num_layers - 1)):
                    name = f"{model}/layer {layer}"
                    yield Slot(f"round {turn}/{name}" if repeats > 1 else name, (None, (model, layer)), int(own))


def blocks(models: Sequence[str], host: str, num_layers: int, repeats: int, *, back: bool = True) -> Iterator[Slot]:
    """`repeats` slots for each depth: there the layer of that depth of one of the models is visited, or none (skip), or
    the layer before once more (back, unless there is no such choice).

    The first slot of the first depth and one of the last are none: there the host's layers are visited in any case. At
    the start the first slot of each depth visits the host's layer, the others none.

    Source: the actions of Reinforced Model Merging (2025, arXiv:2503.21272). There an agent walks and `back` moves it
    back by a layer; here every gene stands at its depth, so that one gene changes the path in one place.
    """
    for layer in range(num_layers):
        choices: tuple[Choice, ...] = (*((model, layer) for model in models), None, *((BACK,) if back else ()))
        skip, own = choices.index(None), choices.index((host, layer))
        for visit in range(1, repeats + 1):
            if visit > 1 or layer not in (0, num_layers - 1):
                name = f"layer {layer}"
                yield Slot(f"{name}/visit {visit}" if repeats > 1 else name, choices, own if visit == 1 else skip)
