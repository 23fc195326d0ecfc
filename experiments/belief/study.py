"""How far off is what a search says of its winner? Simulated searches: prints the README's table, writes results.json.

python experiments/belief/study.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evomerge.candidate import Evaluation
from evomerge.optimizers import make
from evomerge.optimizers.domain import real
from evomerge.run.belief import Believed, Scored, believe
from evomerge.seeds import generator

HERE = Path(__file__).parent
SEEDS = range(20)
NOISE, SHARED = 0.06, 0.5
"""Standard error of a score, and the share of its square that all candidates of a generation have in common."""
BEST, SLOPE = 0.7, 0.25 / 0.3
"""The worth of a genome: so much at the peak, and less by the slope times the root mean square distance to it."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Setting:
    """An optimizer, genes, candidates."""

    optimizer: str
    genes: int
    candidates: int


SETTINGS = (
    Setting("cma_es", 6, 100), Setting("cma_es", 10, 190), Setting("nsga2", 10, 150), Setting("m2n2", 10, 150),
    Setting("random", 10, 100),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Searched:
    """One search: what was scored, and what candidates are worth [candidates]."""

    scores: list[Scored]
    worth: Floats


def search(setting: Setting, seed: int) -> Searched:
    """The optimizer is told scores as they are, with their errors."""
    rng = generator(seed, "luck", setting.optimizer, setting.genes)
    optimizer = make(setting.optimizer, real((0.5,) * setting.genes, 1), seed=seed)
    peak, luck = rng.uniform(0.2, 0.8, setting.genes), dict[int, float]()
    scores, worth = [], []
    for number in range(setting.candidates):
        (proposal,) = optimizer.ask(1)
        common = luck.setdefault(proposal.generation, float(rng.standard_normal()))
        error = NOISE * (np.sqrt(SHARED) * common + np.sqrt(1 - SHARED) * rng.standard_normal())
        worth.append(BEST - SLOPE * float(np.sqrt(((np.array(proposal.genome) - peak) ** 2).mean())))
        score = Scored(str(number), proposal.genome, proposal.generation, worth[-1] + float(error), NOISE, 20)
        optimizer.tell([Evaluation(proposal.trial, (score.mean,), errors=(score.se,))])
        scores.append(score)
    return Searched(scores, np.array(worth))


def as_scored(found: Searched) -> list[Believed]:
    """The scores themselves."""
    return [Believed(score.mean, score.se) for score in found.scores]


def as_believed(found: Searched) -> list[Believed]:
    """What a run makes of them."""
    beliefs = believe(found.scores)
    return [beliefs[score.recipe] for score in found.scores]


WAYS: dict[str, Callable[[Searched], list[Believed]]] = {"score": as_scored, "belief": as_believed}


def measure(setting: Setting) -> dict[str, dict[str, list[float]]]:
    """Way → seeds' inflation of the one picked, its standard error, its worth, and the error over all candidates."""
    found: dict[str, dict[str, list[float]]] = {}
    for seed in SEEDS:
        searched = search(setting, seed)
        for way, judge in WAYS.items():
            said = judge(searched)
            means = np.array([one.mean for one in said])
            picked = int(np.argmax(means))
            numbers = {
                "inflation": means[picked] - searched.worth[picked], "se": said[picked].se,
                "worth": searched.worth[picked], "error": np.sqrt(np.mean((means - searched.worth) ** 2)),
            }  # fmt: skip
            for name, value in numbers.items():
                found.setdefault(way, {}).setdefault(name, []).append(float(value))
    return found


def main() -> None:
    """Every setting."""
    results = {}
    print("| search | picked by | inflation ± error (in standard errors) | worth of the one picked | error of all |")
    print("|---|---|---|---|---|")
    for setting in SETTINGS:
        label = f"{setting.optimizer}, {setting.genes} genes, {setting.candidates} candidates"
        results[label] = measure(setting)
        for way, numbers in results[label].items():
            rows = {name: 100 * np.array(values) for name, values in numbers.items()}
            over, worth = rows["inflation"], rows["worth"]
            print(f"| {label} | {way} | {over.mean():+.1f} ± {over.std(ddof=1) / np.sqrt(len(over)):.1f} "
                  f"({over.mean() / rows['se'].mean():+.1f}) | {worth.mean():.1f} ± {worth.std():.1f} | "
                  f"{rows['error'].mean():.1f} |", flush=True)  # fmt: skip
    (HERE / "results.json").write_text(json.dumps(results, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
