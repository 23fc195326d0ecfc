"""All ways to full scores by name: what tables compare, gates judge and settings offer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from evomerge.errors import InvalidInputError
from fitness.irt.anchors import embeddings
from fitness.irt.contracts import Bank, Estimator
from fitness.irt.design_based import DoublyRobust, Mean, Stratified, difference, regression
from fitness.irt.fits import Fits
from fitness.irt.model_based import Blup, Combined, Eap, Recentred
from fitness.irt.published import BLEND, Aipw, Anchor, PIrt, Ridge, gp_irt, mp_irt
from fitness.irt.shrinkage import shrunk


@dataclass(frozen=True, slots=True)
class EstimatorInfo:
    """An estimator by name.

    Attributes:
        make: from what was learnt from a bank.
        rows: least complete rows of the bank with which it is defined; how many it takes to be of use, a gate finds
            out.
        parents: whether the bank must know the parents.
        bounded: whether answers must be in [0, 1].
        unbiased: whether its scores are free of bias where items were drawn at random.
        drawn: whether it needs items of which a part was drawn at random.
        published: made as in its paper, for comparison.
        text: one line for a person.
    """

    name: str
    make: Callable[[Fits], Estimator]
    text: str
    rows: int = 0
    parents: bool = False
    bounded: bool = False
    unbiased: bool = False
    drawn: bool = False
    published: bool = False


_ALL = (
    EstimatorInfo("mean", Mean, "the mean of the answers", unbiased=True),
    EstimatorInfo("stratified", Stratified, "the mean of the strata's means", unbiased=True),
    EstimatorInfo(
        "difference", difference, "the parents' score, and the mean difference to them",
        rows=1, parents=True, unbiased=True,
    ),
    EstimatorInfo("greg", regression, "the bank's score, and the mean difference to it", rows=1, unbiased=True),
    EstimatorInfo(
        "doubly_robust", DoublyRobust, "what item curves predict, and the mean of what they miss",
        rows=2, bounded=True, unbiased=True,
    ),
    EstimatorInfo("shrunk", shrunk, "differences drawn to the parents' score, or to the bank's", rows=1),
    EstimatorInfo("eap", Eap, "answers, and what item curves expect of the others", rows=2, bounded=True),
    EstimatorInfo("blup", Blup, "best linear prediction from the bank's covariances", rows=2),
    EstimatorInfo(
        "recentred_eap", lambda fits: Recentred(fits, Eap(fits), "recentred_eap"),
        "eap, moved to the population's unbiased mean", rows=2, bounded=True, drawn=True,
    ),
    EstimatorInfo(
        "recentred_blup", lambda fits: Recentred(fits, Blup(fits), "recentred_blup"),
        "blup, moved to the population's unbiased mean", rows=2, drawn=True,
    ),
    EstimatorInfo(
        "combined_eap", lambda fits: Combined(fits, Eap(fits), "combined_eap"),
        "the unbiased score and recentred eap, weighed by their errors", rows=2, bounded=True, drawn=True,
    ),
    EstimatorInfo(
        "combined_blup", lambda fits: Combined(fits, Blup(fits), "combined_blup"),
        "the unbiased score and recentred blup, weighed by their errors", rows=2, drawn=True,
    ),
    EstimatorInfo(
        "p_irt", lambda fits: PIrt(fits, fits.multidimensional),
        "answers, and what the most likely ability predicts for the others", rows=2, bounded=True, published=True,
    ),
    EstimatorInfo(
        "gp_irt", gp_irt, "p_irt and the anchors' mean, by a formula", rows=2, bounded=True, published=True
    ),
    EstimatorInfo(
        "mp_irt", lambda fits: mp_irt(fits, 0.0, "mp_irt"), "p_irt with abilities between the parents'",
        rows=2, parents=True, bounded=True, published=True,
    ),
    EstimatorInfo(
        "gmp_irt", lambda fits: mp_irt(fits, BLEND, "gmp_irt"), "half mp_irt, half the mean",
        rows=2, parents=True, bounded=True, published=True,
    ),
    EstimatorInfo(
        "anchor_correctness", lambda fits: Anchor(fits, embeddings(fits.bank), "anchor_correctness"),
        "anchor points by the bank's answers, weighed by their clusters", rows=1, published=True,
    ),
    EstimatorInfo(
        "anchor_irt",
        lambda fits: Anchor(
            fits, embeddings(fits.bank, fits.multidimensional), "anchor_irt"
        ),
        "anchor points by item curves, weighed by their clusters", rows=2, bounded=True, published=True,
    ),
    EstimatorInfo("ridge", Ridge, "ridge regression of the bank's scores on its answers", rows=2, published=True),
    EstimatorInfo(
        "aipw", Aipw, "ridge regression of a subject's answers on the bank's, and the mean of what it misses",
        rows=2, published=True,
    ),
)  # fmt: skip

ESTIMATORS: Mapping[str, EstimatorInfo] = {info.name: info for info in _ALL}


def make_estimator(name: str, bank: Bank | Fits) -> Estimator:
    """An estimator fitted on a bank; give several the same `Fits` and they share what they learn.

    Raises:
        InvalidInputError: an unknown name, or a bank that has too few rows, gaps, or no parents.
    """
    if name not in ESTIMATORS:
        raise InvalidInputError("estimator", name, f"one of {', '.join(ESTIMATORS)}")
    info, fits = ESTIMATORS[name], bank if isinstance(bank, Fits) else Fits(bank)
    if len(fits.matrix.subjects) < info.rows:
        raise InvalidInputError("bank", len(fits.matrix.subjects), f"{info.rows} complete rows or more, for {name!r}")
    if info.parents and not fits.bank.parents:
        raise InvalidInputError("bank.parents", "none", f"the parents' rows, for {name!r}")
    return info.make(fits)
