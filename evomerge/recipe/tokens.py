"""What a recipe says about the vocabulary of the merged model."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TokenRule(BaseModel):
    """Where the rows of one token in embedding and head come from. Without anything: the token is in the vocabulary.

    Attributes:
        model: `base` or a source's name: its row of this token, or of `token` or `token_id`, is what every model gets
            that lacks the token.
        token, token_id: another token of `model`, by its text or its number.
        fill: `zero`; the `mean` of the models that have the token; or `omp`: the first of them writes its row in few of
            its rows of common tokens, and the same combination of a model's own rows is what that model gets.
        force: also models that have the token get that row.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = None
    token: str | None = None
    token_id: int | None = Field(default=None, ge=0)
    fill: Literal["zero", "mean", "omp"] | None = None
    force: bool = False

    @model_validator(mode="after")
    def _one_place(self) -> TokenRule:
        if self.model is not None and self.fill is not None:
            raise ValueError("`model` or `fill`, not both")
        if self.model is None and (self.token is not None or self.token_id is not None):
            raise ValueError("`token` and `token_id` only with the `model` whose they are")
        if self.token is not None and self.token_id is not None:
            raise ValueError("`token` or `token_id`, not both")
        if self.fill == "omp" and self.force:
            raise ValueError("`fill: omp` without `force`: it says what models get that lack the token")
        return self
