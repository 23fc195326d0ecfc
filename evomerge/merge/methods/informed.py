"""Averages weighed by what people know of the sources: losses, metrics, purposes."""

from __future__ import annotations

from evomerge.merge.stage import compose
from evomerge.merge.stages.sums import SUM
from evomerge.merge.stages.weigh import LOSSES, METRICS, PURPOSES

LM_COCKTAIL = compose(
    "lm_cocktail",
    "LM-Cocktail",
    "Xiao et al. 2023, LM-Cocktail: Resilient Tuning of Language Models via Model Merging, arXiv:2311.13534; on safety "
    "data: Hammoud et al. 2024, Model Merging and Safety Alignment: One Bad Model Spoils the Bunch, arXiv:2406.14563",
    (LOSSES, SUM),
    fixed={"normalize": False},
)
MWA = compose(
    "mwa",
    "Metrics-weighted averaging (our reading)",
    "our reading of: Yu and Choi 2025, Parameter-Efficient Checkpoint Merging via Metrics-Weighted Averaging, "
    "arXiv:2504.18580; the form of its penalty is not verified",
    (METRICS, SUM),
    fixed={"normalize": False},
)
INSTRUCT_VECTOR = compose(
    "instruct_vector",
    "Instruction vector on a domain model",
    "Hirano and Imajo 2024, The Construction of Instruction-tuned LLMs for Finance without Instruction Data Using "
    "Continual Pretraining and Model Merging, arXiv:2409.19854",
    (PURPOSES, SUM),
    fixed={"domain_scale": 1.0, "normalize": False},
    num_sources=(2, None),
)
RE_ADAPT = compose(
    "re_adapt",
    "RE-Adapt",
    "Fleshman and Van Durme 2024, RE-Adapt: Reverse Engineered Adaptation of Large Language Models, arXiv:2405.15007",
    (PURPOSES, SUM),
    fixed={"normalize": False},
    num_sources=(2, None),
)

METHODS = (LM_COCKTAIL, MWA, INSTRUCT_VECTOR, RE_ADAPT)
