"""Stages of pipelines by name: `STAGES`. A module per kind; each lists its own in a tuple `STAGES`."""

from __future__ import annotations

from evomerge.merge.stage import Stage
from evomerge.merge.stages import post, sparsify, sums

STAGES: dict[str, Stage] = {stage.name: stage for module in (sparsify, sums, post) for stage in module.STAGES}
