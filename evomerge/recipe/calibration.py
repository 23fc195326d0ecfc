"""The calibration section of a recipe: which texts a method that reads statistics of the models may look at."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _by_name(files: dict[str, FileRef]) -> dict[str, FileRef]:
    return dict(sorted(files.items()))


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FileRef(_Frozen):
    """A file by place and content.

    Attributes:
        location: a path; a relative one starts at the recipe's directory.
        sha256: of the file's bytes. Reading refuses a mismatch; without it, whatever lies there is taken.
    """

    location: str = Field(min_length=1, max_length=4096)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")


FilesBySource = Annotated[dict[str, FileRef], AfterValidator(_by_name)]


class Calibration(_Frozen):
    """What statistics are collected from.

    Attributes:
        items: JSONL file of items for all sources that have none of their own.
        sources: source → its own items.
        number: most items that are used of a file; more are drawn by `seed`. Holdout items are never used.
        max_tokens: an item longer than this is cut.
        seed: of that draw, and of sampled labels.
        labels: whether gradients are those of the items' own continuation, or of one sampled from the model.
        dtype: in which the models run.
        moments: source → safetensors file with Adam's `exp_avg_sq`, under the names of the tensors.
        without_moments: for a source that has no such file: refuse, or take the diagonal Fisher in its place.
    """

    items: FileRef | None = None
    sources: FilesBySource = Field(default_factory=dict)
    number: int = Field(default=256, ge=1, le=1_000_000)
    max_tokens: int = Field(default=512, ge=2, le=1_000_000)
    seed: int = Field(default=0, ge=0, lt=2**63)
    labels: Literal["empirical", "sampled"] = "empirical"
    dtype: Literal["float32", "bfloat16"] = "float32"
    moments: FilesBySource = Field(default_factory=dict)
    without_moments: Literal["refuse", "fisher"] = "refuse"

    def items_of(self, source: str) -> FileRef | None:
        """The items of a source: its own, or those for all."""
        return self.sources.get(source, self.items)

    @property
    def files(self) -> dict[str, FileRef]:
        """Every file that is named, by its field."""
        found = {"items": self.items} if self.items is not None else {}
        found |= {f"sources.{name}": file for name, file in self.sources.items()}
        return found | {f"moments.{name}": file for name, file in self.moments.items()}
