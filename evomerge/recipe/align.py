"""What a recipe says about alignment: how a source's units are put into the base's order before it is merged.

Two networks that compute the same may keep their hidden units in different orders; their weights then have nothing in
common entry by entry. Sources that were fine-tuned from the base need none of this: their units are in its order.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from evomerge.recipe.calibration import FileRef

Units = Literal["mlp", "attention", "residual"]
"""Hidden units of the MLPs; attention heads, each as a whole (query heads stay with a key-value head, pairs of a rotary
embedding stay together); coordinates of the residual stream."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class AlignByWeights(_Frozen):
    """Weight matching: the permutation of units that maximises Σ ⟨base, permuted source⟩ over all tensors they touch.

    Source: Ainsworth et al. 2022, Git Re-Basin, arXiv:2209.04836, section 3.2; PLeaS (Nasery et al. 2024,
    arXiv:2407.02447) at ratio 1 matches in the same way.

    Attributes:
        units: which kinds are aligned.
    """

    method: Literal["weights"]
    units: tuple[Units, ...] = Field(default=("mlp", "attention"), min_length=1)


class AlignByActivations(_Frozen):
    """Activation matching: the permutation of units that maximises the sum of correlations of their activations.

    Source: Li et al. 2015, Convergent Learning, arXiv:1511.07543; as DIMAT (Saadati et al. 2024, arXiv:2404.08079)
    and ZipIt (Stoica et al. 2023, arXiv:2305.03053) use it.

    Attributes:
        units: which kinds are aligned.
        items: JSONL items that both models read.
        tokens: most tokens that are looked at.
    """

    method: Literal["activations"]
    units: tuple[Literal["mlp", "attention"], ...] = Field(default=("mlp", "attention"), min_length=1)
    items: FileRef
    tokens: int = Field(default=2048, ge=1)


class AlignByTransport(_Frozen):
    """Optimal transport between units, layer by layer from the embedding on.

    Source: Singh and Jaggi 2020, Model Fusion via Optimal Transport, arXiv:1910.05653; Imfeld et al. 2023, Transformer
    Fusion with Optimal Transport, arXiv:2310.05719 (Sinkhorn; one plan for the whole residual stream).

    Attributes:
        units: which kinds are aligned.
        cost: distance between units' incoming weights, or between their activations on `items`.
        solver: `emd` is exact, with equal widths a permutation; `sinkhorn` mixes units.
        reg: entropy regularisation of `sinkhorn`, relative to the largest cost.
        squared: squared distances: another cost, which may give another plan.
        items, tokens: for cost `activations`.
    """

    method: Literal["transport"]
    units: tuple[Units, ...] = Field(default=("mlp", "attention"), min_length=1)
    cost: Literal["weights", "activations"] = "weights"
    solver: Literal["emd", "sinkhorn"] = "emd"
    reg: float = Field(default=0.06, gt=0)
    squared: bool = False
    items: FileRef | None = None
    tokens: int = Field(default=2048, ge=1)

    @model_validator(mode="after")
    def _items_for_activations(self) -> AlignByTransport:
        if (self.cost == "activations") != (self.items is not None):
            raise ValueError(f"items with cost 'activations' and only there; cost is {self.cost!r}")
        if self.cost == "activations" and "residual" in self.units:
            raise ValueError("units mlp and attention with cost 'activations'")
        return self


class AlignByNames(_Frozen):
    """A source of another architecture: tensors are paired by name, those of equal shape are merged, no others.

    Source: Du et al. 2025, AdaMMS, arXiv:2503.23733, section 3.1.

    Attributes:
        table: pairs of a regular expression that matches a whole tensor name of the source, and the base's name, with
            backslash and number for groups. The first that matches counts; names that none matches stay as they are.
    """

    method: Literal["names"]
    table: tuple[tuple[str, str], ...] = ()

    @field_validator("table")
    @classmethod
    def _compiles(cls, table: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        for pattern, name in table:
            try:
                re.compile(f"{pattern}|").sub(name, "")  # matches the empty text: the replacement is read, too
            except (re.error, IndexError) as error:
                raise ValueError(f"a regular expression and its replacement, not {pattern!r}: {error}") from error
        return table


Align = Annotated[AlignByWeights | AlignByActivations | AlignByTransport | AlignByNames, Field(discriminator="method")]
MatchedUnits = AlignByWeights | AlignByActivations | AlignByTransport
