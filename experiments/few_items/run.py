"""How well full scores follow from few items: every selection with every estimator, on nine real benchmarks.

python experiments/few_items/run.py [data set ...]    (all by default; what results/ has already is left alone)

Two settings. interpolation: three quarters of the models, at random, are the bank, the others are scored.
top_quartile: the weakest three quarters are the bank and the best quarter is scored, as in a search that beats its
sources. Results go to results/NAME-SETTING.json; `table.py` makes the README's tables and the figure.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from load import load, names  # noqa: E402

from evomerge.seeds import derive, generator  # noqa: E402
from fitness.irt.accuracy import Accuracy, accuracy  # noqa: E402
from fitness.irt.anchors import anchors, chosen, embeddings, top_disagreement  # noqa: E402
from fitness.irt.contracts import Bank, Places, Scores, Selection  # noqa: E402
from fitness.irt.cross_validation import ask, ask_for_each, estimate_each  # noqa: E402
from fitness.irt.estimators import make_estimator  # noqa: E402
from fitness.irt.fits import Fits  # noqa: E402
from fitness.irt.selection import Stream  # noqa: E402
from fitness.matrix import Floats, ResponseMatrix  # noqa: E402

SEED = 0
NUMBERS = (10, 20, 30, 50, 100)
SPLITS, DRAWS = 20, 2
"""Of models, and of items for each split where they are drawn: 20 draws of what the split settles, 40 of what it does
not, 20 for the published estimators."""

TOP_DRAWS = 40
ITERATIONS = 12
"""Of the EM: .02 points of error more than 25 on arc_challenge, half of the time."""

OURS: dict[str, tuple[str, ...]] = {
    "random": ("mean", "greg", "shrunk", "doubly_robust", "eap", "blup", "recentred_eap", "recentred_blup",
               "combined_eap", "combined_blup"),
    "stratified": ("stratified", "greg", "eap", "recentred_eap"),
    "greedy": ("mean", "eap", "blup"),
    "hybrid": ("greg", "eap", "blup", "recentred_eap", "recentred_blup", "combined_eap", "combined_blup"),
    "adaptive": ("eap", "blup"),
    "each": ("eap",),
}  # fmt: skip
PUBLISHED: dict[str, tuple[str, ...]] = {
    "random": ("p_irt", "gp_irt", "ridge", "aipw"),
    "anchors by correctness": ("anchor_correctness",),
    "anchors by IRT": ("anchor_irt", "p_irt", "gp_irt"),
    "disagreement": ("ridge",),
}
DETERMINED = ("greedy", "adaptive", "each", "anchors by correctness", "anchors by IRT", "disagreement")
Cells = dict[str, list[Accuracy]]


def select(fits: Fits, answers: Floats, policy: str, n: int, stream: Stream) -> Selection:
    """Ours and the published ones."""
    if policy == "disagreement":
        return chosen(top_disagreement(fits.bank, n), answers.shape[1])
    if policy.startswith("anchors"):
        return chosen(anchor_points(fits, policy, n), answers.shape[1])
    return ask(fits, answers, policy, n, stream)  # type: ignore[arg-type]


def anchor_points(fits: Fits, policy: str, n: int) -> Places:
    """Places; remembered where the estimators of the same name look for them."""
    name, items = "anchor_correctness", None
    if policy == "anchors by IRT":
        name, items = "anchor_irt", fits.multidimensional
    return fits.remember((name, n), lambda: anchors(embeddings(fits.bank, items), fits.matrix.weights, n))[0]


def score(fits: Fits, answers: Floats, draws: int, seed: int) -> Iterator[tuple[str, str, int, list[Scores]]]:
    """Selection, estimator, n, and the scores for each draw; all estimators of a selection see the same items."""
    policies = {policy: (*OURS.get(policy, ()), *PUBLISHED.get(policy, ())) for policy in (OURS | PUBLISHED)}
    makers = {name: make_estimator(name, fits) for names in policies.values() for name in names}
    for n in (n for n in NUMBERS if n < answers.shape[1]):
        for policy, estimators in policies.items():
            streams = [Stream(seed, draw) for draw in range(1 if policy in DETERMINED else draws)]
            if policy == "each":
                yield policy, "eap", n, [estimate_each(fits, ask_for_each(fits, answers, n), answers)]
                continue
            found: dict[str, list[Scores]] = {name: [] for name in estimators}
            for draw, stream in enumerate(streams):
                one = select(fits, answers, policy, n, stream)
                for name in estimators:
                    if name not in PUBLISHED.get(policy, ()) or draw < published(draws):
                        found[name].append(makers[name].estimate(one, answers[:, one.places]))
            for name in estimators:
                yield policy, name, n, found[name]


def published(draws: int) -> int:
    """Draws of the published estimators, some of which take long."""
    return max(1, min(draws // 2, 10))


def measure(bank: ResponseMatrix, tested: ResponseMatrix, draws: int, seed: int, cells: Cells) -> None:
    """Add the accuracy of one split to every cell."""
    fits = Fits(Bank(bank), iterations=ITERATIONS)
    random = generator(seed, "picks")
    for policy, name, n, found in score(fits, tested.values, draws, seed):
        cells.setdefault(f"{policy} | {name} | {n}", []).append(accuracy(tested.full_scores, found, random))


def summary(cells: Cells) -> dict[str, dict[str, float | None]]:
    """Means over splits, and the standard error of the mean absolute error over them."""
    found: dict[str, dict[str, float | None]] = {}
    for key, values in cells.items():
        rows = [asdict(one) for one in values]
        means = {field: _mean([row[field] for row in rows]) for field in rows[0]}
        maes = np.array([row["mae"] for row in rows])
        means["mae_se"] = float(maes.std(ddof=1) / np.sqrt(len(maes))) if len(maes) > 1 else None
        found[key] = means
    return found


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if not np.isnan(value)]
    return round(float(np.mean(known)), 6) if known else None


def interpolation(name: str) -> dict[str, object]:
    """Models like those of the bank."""
    matrix, start = load(name), time.process_time()
    rows, found = np.arange(len(matrix.subjects)), {}
    for split in range(SPLITS):
        order = generator(SEED, "split", name, split).permutation(rows)
        number = round(0.75 * len(rows))
        measure(matrix.of(order[:number]), matrix.of(order[number:]), DRAWS, derive(SEED, name, split), found)
        print(name, "split", split, f"{time.process_time() - start:.0f} s", flush=True)
    return about(matrix, SPLITS, DRAWS, start) | {"cells": summary(found)}


def top_quartile(name: str) -> dict[str, object]:
    """Models better than the bank."""
    matrix, start, found = load(name), time.process_time(), {}
    ranked, number = np.argsort(matrix.full_scores, kind="stable"), round(0.75 * len(matrix.subjects))
    seed = derive(SEED, name, "top")
    measure(matrix.of(ranked[:number]), matrix.of(ranked[number:]), TOP_DRAWS, seed, found)
    return about(matrix, 1, TOP_DRAWS, start) | {"cells": summary(found)}


def about(matrix: ResponseMatrix, splits: int, draws: int, start: float) -> dict[str, object]:
    """What was run, and what it took."""
    return {
        "models": len(matrix.subjects), "items": len(matrix.items), "splits": splits, "draws": draws,
        "published_draws": published(draws), "seed": SEED, "cpu_s": round(time.process_time() - start),
    }  # fmt: skip


def main(asked: Sequence[str]) -> None:
    """Make what is missing."""
    (HERE / "results").mkdir(exist_ok=True)
    for setting in (interpolation, top_quartile):
        for name in asked or names():
            path = HERE / "results" / f"{name}-{setting.__name__}.json"
            if path.exists():
                continue
            found = json.dumps(setting(name), indent=1)
            path.with_suffix(".part").write_text(found + "\n")
            path.with_suffix(".part").replace(path)


if __name__ == "__main__":
    main(sys.argv[1:])
