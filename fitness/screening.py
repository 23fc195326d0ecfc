"""What optimizers are told of candidates, and which items a bank of complete answers suggests to ask.

Reported scores are unbiased by the way items were drawn, whatever candidates are like. With few items they are noisy,
and a model that knows how items go together is closer, as long as candidates are like those it was fitted on. So models
serve for screening only: where cross-validation on the bank finds that a model ranks no worse (`fitness.irt.gate`),
an optimizer is told a combination of the unbiased score u and the model's score m, weighed by their errors. m is first
moved by the mean of u − m over the latest candidates, for models are wrong together about candidates that are better
than everything in the bank (Zhang, Dorner and Hardt 2025); by less where that mean may be noise (James and Stein 1961).
Candidates of one generation share their items, so that its noise is told by the means of generations.

A run may ask for a published estimator instead, to compare with what its authors' tools do: its score is told as it is.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np

from evomerge.candidate import Estimate
from evomerge.seeds import derive
from fitness.estimate import Estimates, combine
from fitness.evaluator import Metric, Responses
from fitness.irt.contracts import Bank, Rule, Selection
from fitness.irt.estimators import ESTIMATORS
from fitness.irt.fits import Fits
from fitness.irt.gate import ITERATIONS, Gate, gate
from fitness.irt.model_based import Blup, Eap, Model
from fitness.irt.selection import Policy, Rotation, Stream, select
from fitness.irt.strata import MOST, NAMES, observed_deviations, parents_pattern, quantile_strata
from fitness.matrix import Floats, make_matrix
from fitness.measure import Control, answers_to
from fitness.metrics import metric
from fitness.objectives import ObjectivePlan
from fitness.subset import CERTAIN, Subset

Question = tuple[str, Metric]
"""An eval set and a metric."""

WINDOW = 32
"""Latest candidates whose mean of u − m moves the model's scores."""
LEAST = 8
"""Candidates without which a model's bias is not known, and it is not used."""
LEAST_GENERATIONS = 3
"""And generations."""
GROWTH = 1.25
"""Models are fitted and judged anew when the bank has so many times the merges: whoever answers everything would else
cost a run's controller as much as a hundred candidates."""
MODELS: dict[str, Callable[[Fits], Model]] = {"eap": Eap, "blup": Blup}

Role = Literal["merge", "parent", "control", "base"]
"""What a subject of the bank is in this run: one of the models that are merged, the model that others are compared
with, the base, or any other."""

Differences = dict[str, dict[str, float]]
"""Objective → eval set → u − m of one candidate."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Items of one eval set that everybody is asked.

    Attributes:
        policy: `hybrid` or `adaptive`; models err otherwise on items that were chosen otherwise.
        ids: of items, without repetition.
    """

    policy: str
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Told:
    """What is made of one candidate's answers for the optimizer.

    Attributes:
        scores: objective → estimate; those that no model knows more of are left out.
        differences: of every objective that a model has a score of, whether it is used yet or not.
    """

    scores: dict[str, Estimate]
    differences: Differences


@dataclass(frozen=True, slots=True)
class Verdict:
    """A gate, and what it is about.

    Attributes:
        rows: subjects in the bank by whom it was judged.
        n: items that a candidate answers.
    """

    eval_set: str
    metric: Metric
    rows: int
    n: int
    gate: Gate


class Screening:
    """The banks of a run's objectives, and what they say.

    Args:
        plan: the run's.
        policy: of the run's items.
        exposure: share of the latest ten generations in which an item may be asked because it was chosen.
        published: the estimator that is believed whatever cross-validation says of it, as the run's spec names it.
    """

    def __init__(self, plan: ObjectivePlan, policy: str, exposure: float, published: str | None = None) -> None:
        self._plan, self._policy, self._exposure, self._published = plan, policy, exposure, published
        self._rows: dict[Question, dict[str, Floats]] = {}
        self._roles: dict[str, Role] = {}
        self._fits: dict[Question, Fits] = {}
        self._gates: dict[tuple[Question, int, str], Gate] = {}
        self._errors: dict[tuple[Question, Subset, str], tuple[Selection, float]] = {}
        self._seen: dict[tuple[str, str], deque[tuple[int, float]]] = {}
        self._asked: dict[str, deque[Selection]] = {}
        self._policies: dict[tuple[str, int], str] = {}  # by which a draw's items were chosen

    # -- what is known ------------------------------------------------------------------------------------------

    def learn(self, subject: str, responses: Mapping[str, Responses], role: Role = "merge") -> None:
        """Add a subject to the bank of every question of which it answered all search items."""
        if role != "merge":
            self._roles[subject] = role
        for question in self._plan.questions:
            row = self._plan.complete_row(responses, *question)
            if row is None:
                continue
            before, is_new = self._settled(question), subject not in self._rows.get(question, {})
            self._rows.setdefault(question, {})[subject] = np.asarray(row)
            if role == "merge" and is_new and self._settled(question) == before:
                continue  # models wait for more
            self._fits.pop(question, None)
            self._gates = {key: found for key, found in self._gates.items() if key[0] != question}
            self._errors = {key: found for key, found in self._errors.items() if key[0] != question}

    def bank(self, question: Question) -> Bank:
        """All subjects that answered everything, in the order in which they came."""
        return self._bank(question, self._rows.get(question, {}))

    def _settled(self, question: Question) -> tuple[str, ...]:
        """The subjects by whom models are fitted: this run's baselines, and the first merges; how many of these follows
        from how many there are, so that a run that resumes has the same models."""
        names = self._rows.get(question, {})
        merges = [name for name in names if self._roles.get(name, "merge") == "merge"]
        taken = 0
        while (step := max(taken + 1, math.floor(GROWTH * taken))) <= len(merges):
            taken = step
        waiting = set(merges[taken:])
        return tuple(name for name in names if name not in waiting)

    def _settled_bank(self, question: Question) -> Bank:
        rows = self._rows.get(question, {})
        return self._bank(question, {name: rows[name] for name in self._settled(question)})

    def _bank(self, question: Question, rows: Mapping[str, Floats]) -> Bank:
        items = self._plan.items_by_id(question[0])
        matrix = make_matrix(
            np.array(list(rows.values())).reshape(len(rows), len(items)),
            list(rows),
            [item.id for item in items],
            groups=[item.group for item in items],
            weights=[item.weight for item in items],
        )
        return Bank(matrix, tuple(k for k, name in enumerate(rows) if self._roles.get(name) == "parent"))

    def verdict(self, question: Question, n: int, policy: str) -> Gate:
        """Whether a model may screen candidates that answer n items so chosen."""
        key = (question, n, policy)
        if key not in self._gates:
            usable: Policy = policy if policy in ("hybrid", "adaptive") else "random"  # type: ignore[assignment]
            bank = self._settled_bank(question)
            if usable != "random" and len(bank.matrix.subjects) - len(bank.parents) < LEAST:
                usable = "random"
            self._gates[key] = gate(bank, n, usable, derive(self._plan.seed, "gate", *question))
        return self._gates[key]

    def verdicts(self) -> tuple[Verdict, ...]:
        """The gate of every question whose items are not all asked anyway."""
        found = []
        for question in self._plan.questions:
            n = self._plan.draws.asked[question[0]]
            if n is not None:
                policy = self._choice(question, n) or "random"
                rows = len(self._settled(question))
                found.append(Verdict(*question, rows, n, self.verdict(question, n, policy)))
        return tuple(found)

    def stratify(self) -> None:
        """From generation 1 on, draw items by how those in the bank answered them: their parents' pattern, and how hard
        they are (the first metric of an eval set counts); with `parent_neyman` by the pattern alone, and most items
        where candidates differ most."""
        for name, question in self._sampled().items():
            bank = self.bank(question)
            if self._by_neyman(question):
                labels = [NAMES[pattern] for pattern in parents_pattern(bank).tolist()]
                self._plan.draws.stratify(
                    name, dict(zip(bank.matrix.items, labels, strict=True)), self._deviations(question)
                )
                continue
            n = self._plan.draws.asked[name]
            assert n is not None, "a part is asked"
            strata = quantile_strata(bank, max(1, min(n // 2, MOST)))
            self._plan.draws.stratify(name, dict(zip(bank.matrix.items, map(str, strata.tolist()), strict=True)))

    def deviations(self) -> dict[str, dict[str, float]]:
        """Eval set → stratum → standard deviation of a candidate's differences to the control, for items that are
        shared out by Neyman's rule; from everybody who answered everything."""
        return {name: self._deviations(q) for name, q in self._sampled().items() if self._by_neyman(q)}

    def _sampled(self) -> dict[str, Question]:
        """Eval set of which a part is asked → the first question about it, where the bank knows anything of it."""
        first: dict[str, Question] = {}
        for question in self._plan.questions:
            if self._plan.draws.asked[question[0]] is not None and question in self._rows:
                first.setdefault(question[0], question)
        return first

    def _by_neyman(self, question: Question) -> bool:
        """Whether answers are right or wrong, or in between: of others no pattern is known."""
        return self._policy == "parent_neyman" and metric(question[1]).bounds == (0.0, 1.0)

    def _deviations(self, question: Question) -> dict[str, float]:
        bank = self.bank(question)
        roles = [self._roles.get(name, "merge") for name in bank.matrix.subjects]
        merges = bank.matrix.values[[role == "merge" for role in roles]]
        control = bank.matrix.values[[role == "control" for role in roles]]
        places = np.arange(len(bank.matrix.items))
        pattern = parents_pattern(bank)
        whole = Selection(places, pattern, {}, np.ones(len(places), dtype=np.bool_))
        seen = [(whole, merges - control)] if len(control) else []
        return {NAMES[stratum]: found for stratum, found in observed_deviations(seen).items()}

    # -- what is asked ------------------------------------------------------------------------------------------

    def choose(self, generation: int) -> dict[str, Chosen]:
        """Eval set → items that every candidate of a generation is asked because they tell most; the others are drawn.

        None where the policy draws all, or where the bank does not show that a model ranks by them no worse than the
        unbiased score does by as many items drawn.
        """
        chosen: dict[str, Chosen] = {}
        for question in self._plan.questions:
            name, n = question[0], self._plan.draws.asked[question[0]]
            policy = None if n is None or name in chosen else self._choice(question, n)
            if policy is not None and n is not None:
                chosen[name] = Chosen(policy, self._chosen(question, n, policy, generation))
        self.asked(generation, chosen)
        return chosen

    def _choice(self, question: Question, n: int) -> str | None:
        if self._policy not in ("auto", "hybrid", "adaptive"):
            return None
        tried = ("hybrid", "adaptive") if self._policy == "auto" else (self._policy,)
        open_ = [(found.tau_m, p) for p in tried if (found := self.verdict(question, n, p)).open and found.policy == p]
        return max(open_)[1] if open_ else None

    def _chosen(self, question: Question, n: int, policy: str, generation: int) -> tuple[str, ...]:
        name, bank = question[0], self.bank(question)
        stream = Stream(self._plan.seed, generation, name)
        rotation = Rotation(self._exposure, recent=tuple(self._asked.get(name, ())))
        if policy == "hybrid":
            found = select(bank, n, "hybrid", stream, rotation=rotation)
        else:
            curves = self._fitted(question).items
            found = select(bank, max(1, round(0.6 * n)), "adaptive", stream, rotation=rotation, curves=curves)
        return tuple(bank.matrix.items[i] for i in found.places[~found.random])

    def asked(self, generation: int, chosen: Mapping[str, Chosen]) -> None:
        """Remember what a generation was asked for certain: items that come often are left out for a while."""
        for name, found in chosen.items():
            self._policies[name, self._plan.draws.number(generation)] = found.policy
            subset = Subset(found.ids, (CERTAIN,) * len(found.ids))
            self._asked.setdefault(name, deque(maxlen=10)).append(self._selection(name, subset, found.policy))

    # -- what is told -------------------------------------------------------------------------------------------

    def told(
        self,
        responses: Mapping[str, Responses],
        generation: int,
        fidelity: float,
        control: Control | None,
        estimates: Estimates | None = None,
    ) -> Told:
        """What to tell of a candidate that answered all items of its generation and fidelity.

        Args:
            control: as for `ObjectivePlan.scores`.
            estimates: what `ObjectivePlan.estimates` says of these, where that is known.
        """
        known = estimates or self._plan.estimates(responses, generation, control, fidelity)
        scores: dict[str, Estimate] = {}
        differences: Differences = {}
        for objective in self._plan.objectives:
            parts: list[Estimate] = []
            for name in objective.eval_sets:
                unbiased = known[objective.name][name]
                if self._plan.complete_row(responses, name, objective.metric) is not None:
                    parts.append(unbiased)  # which is exact
                    continue
                policy = self._policies.get((name, self._plan.draws.number(generation)), "random")
                subset = self._plan.draws.subset(name, generation, fidelity)
                asked = ((name, objective.metric), subset, responses, policy)
                if self._published is not None:
                    parts.append(replace(unbiased, mean=self._as_published(unbiased.mean, *asked)))
                    continue
                found = self._modelled(*asked)
                if found is not None:
                    differences.setdefault(objective.name, {})[name] = unbiased.mean - found[0]
                parts.append(self._combined((objective.name, name), unbiased, found))
            if self._published is not None or objective.name in differences:
                scores[objective.name] = combine(parts)
        return Told(scores, differences)

    def note(self, generation: int, differences: Differences) -> None:
        """Remember how far a candidate's unbiased scores lay from the model's."""
        for objective, found in differences.items():
            for name, difference in found.items():
                self._seen.setdefault((objective, name), deque(maxlen=WINDOW)).append((generation, difference))

    def _modelled(
        self, question: Question, subset: Subset, responses: Mapping[str, Responses], policy: str
    ) -> tuple[float, float] | None:
        """A model's score and its mean square error on subjects that it was not fitted on, if a model may screen."""
        if question not in self._rows or not self.verdict(question, len(subset.ids), policy).open:
            return None
        model = MODELS[self.verdict(question, len(subset.ids), policy).method](self._fitted(question))
        key = (question, subset, policy)
        if key not in self._errors:  # once for all who answer these
            asked = self._selection(question[0], subset, policy)
            self._errors[key] = asked, float((model.residuals(asked) ** 2).mean())
        selection, error = self._errors[key]
        values = answers_to(responses, *question, subset.ids)
        return float(model.means(selection, np.array([values]))[0]), error

    def _as_published(
        self, unbiased: float, question: Question, subset: Subset, responses: Mapping[str, Responses], policy: str
    ) -> float:
        """The published estimator's score; the unbiased one while the bank is too small to fit it."""
        assert self._published is not None, "who asks has one"
        info, bank = ESTIMATORS[self._published], self._settled_bank(question)
        if len(bank.matrix.subjects) < info.rows or (info.parents and not bank.parents):
            return unbiased
        fits = self._fitted(question)
        estimator = fits.remember(info.name, lambda: info.make(fits))
        selection = self._selection(question[0], subset, policy)
        values = answers_to(responses, *question, subset.ids)
        return float(estimator.estimate(selection, np.array([values])).means[0])

    def _combined(self, place: tuple[str, str], unbiased: Estimate, found: tuple[float, float] | None) -> Estimate:
        """(1 − w) u + w (m + mean of u − m), w = var u / (var u + mse m + that mean's variance)."""
        offset = self._offset(place)
        if found is None or offset is None or unbiased.se == 0:
            return unbiased
        model, mse = found
        mse += offset[1]
        w = unbiased.se**2 / (unbiased.se**2 + mse)
        mean = (1 - w) * unbiased.mean + w * (model + offset[0])
        error = (1 - w) * unbiased.se + w * math.sqrt(mse)  # an upper bound: both rest on the same answers
        return Estimate(mean, min(error, unbiased.se), unbiased.n)

    def _offset(self, place: tuple[str, str]) -> tuple[float, float] | None:
        """The mean of u − m, drawn to 0 as far as it may be noise, and its variance; None while too little is known."""
        seen, generations = self._seen.get(place, ()), dict[int, list[float]]()
        for generation, difference in seen:
            generations.setdefault(generation, []).append(difference)
        if len(seen) < LEAST or len(generations) < LEAST_GENERATIONS:
            return None
        means = [_mean(tuple(generations[one])) for one in sorted(generations)]
        found = np.array(means)
        mean, variance = float(found.mean()), float(found.var(ddof=1)) / len(means)
        share = max(0.0, 1 - variance / mean**2) if mean else 0.0
        return share * mean, variance

    def _fitted(self, question: Question) -> Fits:
        if question not in self._fits:
            self._fits[question] = Fits(self._settled_bank(question), iterations=ITERATIONS)
        return self._fits[question]

    def _selection(self, eval_set: str, subset: Subset, policy: str) -> Selection:
        place = {item.id: k for k, item in enumerate(self._plan.items_by_id(eval_set))}
        places = np.array([place[i] for i in subset.ids], dtype=np.intp)
        random = np.array([stratum != CERTAIN for stratum in subset.strata], dtype=np.bool_)
        rule: Rule = "adaptive" if policy == "adaptive" else "greedy"
        return Selection(places, np.zeros_like(places), {0: len(place)}, random, rule=rule)


@lru_cache(maxsize=256)
def _mean(differences: tuple[float, ...]) -> float:
    """Of one generation: most of the latest ones are as they were a candidate before."""
    return sum(differences) / len(differences) if len(differences) < 3 else float(np.mean(differences))
