"""The output section of a recipe: a merged model written as an adapter of its base."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Output(BaseModel):
    """What a merge writes, where that is not a whole model.

    Attributes:
        kind: `adapter`: a LoRA adapter of the base, in PEFT's format.
        rank: most ranks of one matrix; None: as many as `energy` needs.
        energy: share of each task vector's squared norm that its ranks hold at least; None: as many ranks as allowed.
            With neither, every matrix keeps all the ranks that it has.
        alpha: lora_alpha of the adapter (its scale α/r is made up for in the factors); None: r, so that the scale is 1.
        others: what becomes of changed tensors that an adapter cannot hold (norms, embeddings, biases): `error`, or
            `drop`: they stay as in the base, and the report lists them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["adapter"] = "adapter"
    rank: int | None = Field(default=None, ge=1)
    energy: float | None = Field(default=None, gt=0, le=1)
    alpha: float | None = Field(default=None, gt=0)
    others: Literal["error", "drop"] = "error"
