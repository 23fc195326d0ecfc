"""What a run asks of a candidate, and what it makes of the answers: items per generation, scores, values, violations.

An eval set that several objectives or constraints use is asked once, with the largest number of items that any of them
wants; all of them are then estimated from the same responses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from evomerge.candidate import Estimate, ItemAnswers
from evomerge.run.spec import Objective, RunSpec
from fitness.draws import INFORMED, Draws
from fitness.estimate import (
    Estimates,
    PairedDifference,
    combine,
    combine_paired,
    estimate_mean,
    interval,
    overall,
    paired,
)
from fitness.evaluator import Metric, Responses, Slopes
from fitness.irt.estimators import ESTIMATORS
from fitness.items import EvalSet, Item, Split
from fitness.measure import Control, Measure, answers_by_id, answers_to
from fitness.metrics import MetricInfo, metric
from fitness.racing import Lap
from fitness.subset import Subset
from fitness.targets import Target, asked, check_spec, guard_of

Asked = dict[str, tuple[str, ...]]
"""Eval set → ids of the items to score."""

BANK_SHARE = 0.1
"""All baselines' answers to all search items may cost this share, too, where no policy needs them in any case."""
CONTROL_SHARE = 0.5
"""The control's answers to all search items may cost this share of what all candidates answer, not more."""


class ObjectivePlan:
    """A run's objectives and constraints over loaded eval sets; costs, which no answer tells, are left out.

    Args:
        spec: the run; its objectives, constraints, subset policy, seed and `verify.holdout` are read.
        eval_sets: by the names that the spec uses.

    Raises:
        InvalidInputError: an unknown eval set or metric, a metric that is not defined on an eval set's items, or a
            split that is needed and empty; the message names the field of the spec.
    """

    def __init__(self, spec: RunSpec, eval_sets: Mapping[str, EvalSet]) -> None:
        check_spec(spec, eval_sets)
        self.objectives = tuple(o for o in spec.objectives if not o.is_cost)
        self._guards = tuple(guard_of(c) for c in spec.constraints if not c.is_cost)
        self.subset = spec.subset
        self.seed = spec.seed
        self.eval_sets = dict(eval_sets)
        self._laps: dict[tuple[int, float, bool], tuple[Lap, ...]] = {}
        self._targets = {o.name: Target(o.eval_sets, metric(o.metric), o.items) for o in self.objectives}
        self._targets |= {g.name: Target((g.eval_set,), g.metric, g.items) for g in self._guards}
        self._asked = asked(self._targets.values())
        self.draws = Draws(self.eval_sets, self._asked, spec.subset, spec.seed)
        baselines = 2 + len(spec.models.sources)
        needed = spec.subset.policy in INFORMED or spec.subset.screening in ESTIMATORS
        affordable = {
            name: spec.budget.candidates * n / len(self.draws.population(name))  # complete rows
            for name, n in self._asked.items()
            if n is not None
        }
        self._banked = {name for name, rows in affordable.items() if needed or baselines <= BANK_SHARE * rows}
        self._controlled = {name for name, rows in affordable.items() if rows * CONTROL_SHARE >= 1} | self._banked

    @property
    def names(self) -> tuple[str, ...]:
        """Of all objectives, then of all constraints."""
        return tuple(self._targets)

    def metric(self, name: str) -> MetricInfo:
        """The metric of an objective or constraint."""
        return self._targets[name].metric

    def metrics_by_eval_set(self) -> dict[str, set[str]]:
        """Eval set → the metrics that an answer to its items must have."""
        found: dict[str, set[str]] = {}
        for target in self._targets.values():
            for name in target.eval_sets:
                found.setdefault(name, set()).add(target.metric.name)
        return found

    # -- what is asked --------------------------------------------------------------------------------------------

    def items(self, generation: int, fidelity: float = 1.0) -> Asked:
        """The search items that every candidate of a generation and fidelity answers.

        Args:
            fidelity: so many times the usual number; those of a lower fidelity are among them. Below 1 it is one of
                the shares after which a race may end.
        """
        return {name: self.draws.subset(name, generation, fidelity).ids for name in self._asked}

    def guard_items(self) -> Asked:
        """What the base model answers once, so that a guard can compare with it in any generation: all search items
        of the constraints' eval sets."""
        guarded = {guard.eval_set for guard in self._guards}
        return {name: ids for name, ids in self.search_items().items() if name in guarded}

    def control_items(self) -> Asked:
        """What the control answers once: all search items of the eval sets where that costs at most `CONTROL_SHARE` of
        what the budget's candidates answer."""
        return {name: ids for name, ids in self.search_items().items() if name in self._controlled}

    def bank_items(self) -> Asked:
        """What every baseline answers once, so that their answers tell items apart."""
        return {name: ids for name, ids in self.search_items().items() if name in self._banked}

    def laps(
        self, generation: int, fidelity: float, shares: Sequence[float], control: Control | None
    ) -> tuple[Lap, ...]:
        """The blocks in which a candidate's items are asked: up to each of the shares that holds enough to judge by,
        then up to the usual number, then up to `fidelity` times it.

        Args:
            shares: of the usual number, in rising order.
        """
        key = (generation, fidelity, control is not None)
        if key not in self._laps:
            enough = [s for s in shares if all(self.draws.part(name, generation, s) for name in self._asked)]
            ends = sorted({*enough, 1.0, fidelity})
            laps = [self._lap(generation, start, end, control) for start, end in pairwise([0.0, *ends])]
            self._laps[key] = (*laps[:-1], replace(laps[-1], measures=()))
        return self._laps[key]

    def control(self, responses: Mapping[str, Responses]) -> Control:
        """From a model's answers to `control_items`."""
        answers: dict[str, dict[Metric, dict[str, float]]] = {}
        means: dict[str, dict[Metric, float]] = {}
        for target in self._targets.values():
            for name in self._controlled & set(target.eval_sets):
                known = target.metric.name
                answers.setdefault(name, {})[known] = answers_by_id(responses, name, known)
                everything = self.draws.everything(name, "search")
                found = self._measure(target, name, everything).estimate(responses)
                means.setdefault(name, {})[known] = found.mean
        return Control(answers, means)

    def split_items(self, split: Split) -> Asked:
        """All items of one split; an eval set without any is left out."""
        return {
            name: self.draws.everything(name, split).ids for name in self._asked if self.draws.population(name, split)
        }

    def search_items(self) -> Asked:
        """All search items."""
        return self.split_items("search")

    @property
    def num_search_items(self) -> int | None:
        """How many items a candidate answers when it answers all; None when it always does."""
        whole = {name: len(ids) for name, ids in self.search_items().items()}
        asked = {name: n for name, n in self._asked.items() if n is not None and n < whole[name]}
        return sum(whole.values()) if asked else None

    # -- what the answers say -------------------------------------------------------------------------------------

    def scores(
        self,
        responses: Mapping[str, Responses],
        generation: int,
        control: Control | None = None,
        fidelity: float = 1.0,
    ) -> dict[str, Estimate]:
        """Every objective's and constraint's estimate on all search items, from a generation's items.

        Args:
            fidelity: that the items were asked for with.
            control: what `control` made of a model's answers; with it, estimates are by difference, and generations
                that happened to get easy items can be compared with others.

        Raises:
            ValueError: a response to one of the generation's items is missing (more than those may be there).
        """
        return overall(self.estimates(responses, generation, control, fidelity))

    def estimates(
        self, responses: Mapping[str, Responses], generation: int, control: Control | None, fidelity: float
    ) -> Estimates:
        """The same for each eval set of an objective or constraint."""
        subsets = {name: self.draws.subset(name, generation, fidelity) for name in self._asked}
        return {
            name: {e: self._from(target, e, responses, subsets[e], control) for e in target.eval_sets}
            for name, target in self._targets.items()
        }

    def item_scores(self, responses: Mapping[str, Responses], generation: int) -> tuple[tuple[float, ...], ...]:
        """For each objective the answers to a generation's items, one after another; larger is better.

        These are the items of fidelity 1, whatever a candidate's: so all of a generation can be compared.
        Values of bounded metrics are brought to [0, 1]; others change their sign only, where smaller is better.
        """
        return tuple(
            tuple(value for e in o.eval_sets for value in self._graded(o, e, responses, generation))
            for o in self.objectives
        )

    def item_answers(self, responses: Mapping[str, Responses]) -> tuple[ItemAnswers, ...]:
        """For each objective the answers to all of its search items that are there, whoever asked for them and when.

        Items are numbered through an objective's eval sets, by id within each.
        """
        return tuple(self._answers(objective, responses) for objective in self.objectives)

    def _answers(self, objective: Objective, responses: Mapping[str, Responses]) -> ItemAnswers:
        sign, first = 1 if objective.direction == "maximize" else -1, 0
        places, values, shares = list[int](), list[float](), list[float]()
        for name in objective.eval_sets:
            items = self.items_by_id(name)
            known = answers_by_id(responses, name, objective.metric) if name in responses else {}
            whole = len(objective.eval_sets) * sum(item.weight for item in items)
            for place, item in enumerate(items, first):
                if item.id in known:
                    places.append(place)
                    values.append(sign * known[item.id])
                    shares.append(item.weight / whole)
            first += len(items)
        return ItemAnswers(tuple(places), tuple(values), tuple(shares))

    def slopes(self, generation: int, fidelity: float = 1.0) -> tuple[Slopes, ...]:
        """For each objective what every answer to a generation's items counts in its estimate; larger is better."""
        return tuple(self._slopes(o, generation, fidelity) for o in self.objectives)

    def _slopes(self, objective: Objective, generation: int, fidelity: float) -> Slopes:
        share = (1 if objective.direction == "maximize" else -1) / len(objective.eval_sets)
        weights = {}
        for name in objective.eval_sets:
            subset = self.draws.subset(name, generation, fidelity)
            counts = share * self.draws.design(name, "search", subset).counts
            weights[name] = dict(zip(subset.ids, counts.tolist(), strict=True))
        return Slopes(objective.metric, weights)

    def _graded(
        self, objective: Objective, eval_set: str, responses: Mapping[str, Responses], generation: int
    ) -> list[float]:
        low, high = self.metric(objective.name).bounds
        values = answers_to(responses, eval_set, objective.metric, self.draws.subset(eval_set, generation).ids)
        if low is not None and high is not None:
            values = [(value - low) / (high - low) for value in values]
            return values if objective.direction == "maximize" else [1 - value for value in values]
        return values if objective.direction == "maximize" else [-value for value in values]

    def full_scores(self, responses: Mapping[str, Responses]) -> dict[str, Estimate]:
        """The same from the answers to all items of a split (which one, the items say).

        The standard error is not 0 but that for the questions which the items were taken from: a final report is about
        the skill, not about these items.
        """
        result = {}
        for name, target in self._targets.items():
            parts = []
            for eval_set in target.eval_sets:
                split = self._split_of(responses, eval_set)
                everything = self.draws.everything(eval_set, split)
                parts.append(self._measure(target, eval_set, everything, split, finite=False).estimate(responses))
            result[name] = combine(parts)
        return result

    def violation(
        self,
        responses: Mapping[str, Responses],
        base_responses: Mapping[str, Responses],
        generation: int,
        fidelity: float = 1.0,
    ) -> float:
        """By how much the guards are missed, summed, in their metrics' units; 0 means feasible.

        A guard compares the candidate with the base on the generation's items; the paired difference is far less noisy
        than the two means.
        """
        return self._violation(responses, base_responses, lambda name: self.draws.subset(name, generation, fidelity))

    def full_violation(self, responses: Mapping[str, Responses], base_responses: Mapping[str, Responses]) -> float:
        """The same from the answers to all search items."""
        return self._violation(responses, base_responses, lambda name: self.draws.everything(name, "search"))

    def interval(self, name: str, estimate: Estimate, level: float = 0.95) -> tuple[float, float]:
        """A confidence interval of an objective's or constraint's estimate, inside the metric's bounds."""
        return interval(estimate, level, bounds=self.metric(name).bounds)

    def paired(
        self, name: str, a: Mapping[str, Responses], b: Mapping[str, Responses], level: float = 0.95
    ) -> PairedDifference:
        """a − b on the items that both answered; wins are items on which a's value is larger."""
        target, parts = self._targets[name], []
        for eval_set in target.eval_sets:
            left = answers_by_id(a, eval_set, target.metric.name)
            right = answers_by_id(b, eval_set, target.metric.name)
            ids = sorted(left.keys() & right.keys())
            weights = [i.weight for i in self.eval_sets[eval_set].pick(ids)]
            parts.append(paired([left[i] for i in ids], [right[i] for i in ids], weights=weights, level=level))
        return combine_paired(parts, level)

    # -- for screening --------------------------------------------------------------------------------------------

    @property
    def questions(self) -> tuple[tuple[str, Metric], ...]:
        """Every eval set and metric that an objective is measured by."""
        return tuple(dict.fromkeys((e, o.metric) for o in self.objectives for e in o.eval_sets))

    def items_by_id(self, eval_set: str) -> tuple[Item, ...]:
        """The search items of an eval set, sorted by id."""
        return tuple(sorted(self.draws.population(eval_set), key=lambda item: item.id))

    def complete_row(
        self, responses: Mapping[str, Responses], eval_set: str, metric_name: Metric
    ) -> list[float] | None:
        """Answers to `items_by_id`; None unless all were given."""
        if eval_set not in responses or metric_name not in responses[eval_set].values:
            return None
        ids = self.draws.everything(eval_set, "search").ids
        if len(responses[eval_set].item_ids) < len(ids):
            return None
        by_id = answers_by_id(responses, eval_set, metric_name)
        return [by_id[i] for i in ids] if len(by_id) >= len(ids) and by_id.keys() >= set(ids) else None

    # -- inside ---------------------------------------------------------------------------------------------------

    def _lap(self, generation: int, start: float, end: float, control: Control | None) -> Lap:
        ids = self.items(generation, end)
        before = self.items(generation, start) if start else {}
        new = {name: tuple(i for i in ids[name] if i not in set(before.get(name, ()))) for name in ids}
        measures = [
            (
                1.0 if o.direction == "maximize" else -1.0,
                tuple(
                    self._measure(self._targets[o.name], e, self.draws.subset(e, generation, end), control=control)
                    for e in o.eval_sets
                ),
            )
            for o in self.objectives
        ]
        return Lap(end, new, tuple(measures))

    def _split_of(self, responses: Mapping[str, Responses], eval_set: str) -> Split:
        if eval_set not in responses or not responses[eval_set].item_ids:
            raise ValueError(f"no responses to eval set {eval_set!r}; there are {sorted(responses)}")
        return self.eval_sets[eval_set].pick(responses[eval_set].item_ids[:1])[0].split

    def _measure(
        self,
        target: Target,
        eval_set: str,
        subset: Subset,
        split: Split = "search",
        *,
        control: Control | None = None,
        finite: bool = True,
    ) -> Measure:
        beside = None if control is None else control.beside(eval_set, target.metric.name, subset)
        known = self.draws.design(eval_set, split, subset)
        return Measure(eval_set, target.metric.name, target.metric.bounds, subset, known, beside, finite)

    def _from(
        self,
        target: Target,
        eval_set: str,
        responses: Mapping[str, Responses],
        subset: Subset,
        control: Control | None,
    ) -> Estimate:
        """From all search items where all were answered, else from the subset's, by difference where there is a
        control."""
        everything = self.draws.everything(eval_set, "search")
        found = responses[eval_set].item_ids if eval_set in responses else ()
        if len(found) >= len(everything.ids) and set(everything.ids) <= set(found):
            return self._measure(target, eval_set, everything).estimate(responses)
        return self._measure(target, eval_set, subset, control=control).estimate(responses)

    def _violation(
        self,
        responses: Mapping[str, Responses],
        base_responses: Mapping[str, Responses],
        subset_of: Callable[[str], Subset],
    ) -> float:
        total = 0.0
        for guard in self._guards:
            info, subset = guard.metric, subset_of(guard.eval_set)
            before = answers_to(base_responses, guard.eval_set, info.name, subset.ids)
            after = answers_to(responses, guard.eval_set, info.name, subset.ids)
            sign = 1 if info.higher_is_better else -1
            losses = [sign * (b - a) for a, b in zip(after, before, strict=True)]
            drop = estimate_mean(losses, subset, self.draws.design(guard.eval_set, "search", subset)).mean
            total += max(0.0, drop - guard.max_drop)
        return total
