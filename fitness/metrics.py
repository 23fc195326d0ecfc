"""What can be measured on an item, and what the numbers mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from evomerge.errors import InvalidInputError
from fitness.items import Item

Kind = Literal["choice", "generation", "text"]
Bounds = tuple[float | None, float | None]
"""Least and largest possible value; None where there is no bound."""


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """A metric by name.

    Attributes:
        kind: of the items that it is defined on.
        bounds: of one item's value, and so of the mean.
        higher_is_better: the direction that a guard protects.
        text: one line for a person.
        differentiable: whether it has derivatives by the model's weights that say where to go.
        also: further kinds of items that it is defined on.
        label_free: whether items need no right answer for it.
        expert: whether answers are compared with those of the source that owns the item, see `fitness.label_free`.
        on_demand: whether it costs much of its own, so that it is computed only where it is asked by name.
        needs: of an item, so that it can be answered: `references`, `answering.tests`, `answering.language`.
        extra: what must be installed beside evomerge.
    """

    name: str
    kind: Kind
    bounds: Bounds
    higher_is_better: bool
    text: str
    differentiable: bool = False
    also: tuple[Kind, ...] = ()
    label_free: bool = False
    expert: bool = False
    on_demand: bool = False
    needs: str = ""
    extra: str = ""

    def fits(self, kind: Kind) -> bool:
        """Whether it is defined on items of a kind."""
        return kind == self.kind or kind in self.also


METRICS: dict[str, MetricInfo] = {
    m.name: m
    for m in (
        MetricInfo("accuracy", "choice", (0.0, 1.0), True, "1 where the right choice is the most likely one"),
        MetricInfo(
            "accuracy_norm",
            "choice",
            (0.0, 1.0),
            True,
            "as accuracy, with each log-likelihood divided by the choice's length in characters",
        ),
        MetricInfo(
            "accuracy_bytes",
            "choice",
            (0.0, 1.0),
            True,
            "as accuracy, with each log-likelihood divided by the choice's length in UTF-8 bytes",
        ),
        MetricInfo(
            "accuracy_pmi",
            "choice",
            (0.0, 1.0),
            True,
            "as accuracy, with each choice's log-likelihood without the question taken away",
            on_demand=True,
        ),
        MetricInfo(
            "choice_probability",
            "choice",
            (0.0, 1.0),
            True,
            "probability of the right choice among the choices (softmax over their log-likelihoods)",
            differentiable=True,
        ),
        MetricInfo(
            "log_likelihood",
            "choice",
            (None, 0.0),
            True,
            "log-likelihood of the right choice, or of running text, summed over tokens, nats",
            differentiable=True,
            also=("text",),
        ),
        MetricInfo(
            "margin",
            "choice",
            (None, None),
            True,
            "log-likelihood of the right choice minus that of the best wrong one, nats; near ties are near 0",
            differentiable=True,
        ),
        MetricInfo(
            "entropy",
            "choice",
            (0.0, None),
            False,
            "entropy of the choices' probabilities, or of a generated answer's first token, nats",
            also=("generation",),
            label_free=True,
            on_demand=True,
            differentiable=True,
        ),
        MetricInfo(
            "expert_kl",
            "choice",
            (0.0, None),
            False,
            "Kullback-Leibler divergence of those probabilities from those of the source that owns the item, nats",
            also=("generation",),
            label_free=True,
            expert=True,
            on_demand=True,
            differentiable=True,
        ),
        MetricInfo(
            "expert_kl_2",
            "choice",
            (0.0, None),
            False,
            "four times that divergence of both at temperature 2, which counts unlikely answers more, nats",
            also=("generation",),
            label_free=True,
            expert=True,
            on_demand=True,
            differentiable=True,
        ),
        MetricInfo(
            "expert_mse",
            "choice",
            (0.0, None),
            False,
            "mean squared difference of those log-probabilities and those of the source that owns the item",
            also=("generation",),
            label_free=True,
            expert=True,
            on_demand=True,
            differentiable=True,
        ),
        MetricInfo(
            "expert_flips",
            "choice",
            (0.0, 1.0),
            False,
            "1 where the most likely answer is another than that of the source that owns the item",
            also=("generation",),
            label_free=True,
            expert=True,
            on_demand=True,
        ),
        MetricInfo(
            "bits_per_byte",
            "text",
            (0.0, None),
            False,
            "minus the log-likelihood of running text for each of its UTF-8 bytes, bits",
            label_free=True,
            differentiable=True,
        ),
        MetricInfo(
            "nats_per_word",
            "text",
            (0.0, None),
            False,
            "minus the log-likelihood of running text for each of its words, nats; perplexity is its exponential",
            label_free=True,
            differentiable=True,
        ),
        MetricInfo(
            "nats_per_token",
            "text",
            (0.0, None),
            False,
            "minus the log-likelihood of running text for each of its tokens, nats; perplexity is its exponential",
            label_free=True,
            differentiable=True,
        ),
        MetricInfo(
            "greedy",
            "text",
            (0.0, 1.0),
            True,
            "1 where running text is what greedy decoding says after its context, token by token",
            label_free=True,
            on_demand=True,
        ),
        MetricInfo(
            "exact_match",
            "generation",
            (0.0, 1.0),
            True,
            "1 where the generated answer equals a reference after normalisation",
            needs="references",
        ),
        MetricInfo(
            "number_match",
            "generation",
            (0.0, 1.0),
            True,
            "1 where the answer's last number equals a reference's",
            needs="references",
        ),
        MetricInfo(
            "contains",
            "generation",
            (0.0, 1.0),
            True,
            "1 where a reference occurs in the answer after normalisation",
            needs="references",
        ),
        MetricInfo(
            "f1",
            "generation",
            (0.0, 1.0),
            True,
            "words that the answer and a reference share, harmonic mean of precision and recall",
            needs="references",
        ),
        MetricInfo(
            "chrf",
            "generation",
            (0.0, 1.0),
            True,
            "character n-grams that the answer and the references share (chrF2)",
            on_demand=True,
            needs="references",
            extra="translation",
        ),
        MetricInfo(
            "bleu",
            "generation",
            (0.0, 1.0),
            True,
            "word n-grams that the answer and the references share (smoothed BLEU of single answers)",
            on_demand=True,
            needs="references",
            extra="translation",
        ),
        MetricInfo(
            "code_passes",
            "generation",
            (0.0, 1.0),
            True,
            "1 where the answer is Python code that passes the item's tests, run in a sandbox",
            on_demand=True,
            needs="answering.tests",
        ),
        MetricInfo(
            "answer_tokens",
            "generation",
            (0.0, None),
            False,
            "length of the generated answer, tokens",
            label_free=True,
        ),
        MetricInfo(
            "finished",
            "generation",
            (0.0, 1.0),
            True,
            "1 where the answer ended before its most tokens",
            label_free=True,
        ),
        MetricInfo(
            "refused",
            "generation",
            (0.0, 1.0),
            True,
            "1 where the answer is a refusal, by a list of phrases; for questions that are to be refused",
            label_free=True,
        ),
        MetricInfo(
            "complied",
            "generation",
            (0.0, 1.0),
            True,
            "1 where the answer is no refusal; for questions that are to be answered",
            label_free=True,
        ),
        MetricInfo(
            "language_match",
            "generation",
            (0.0, 1.0),
            True,
            "1 where the answer is in the item's language",
            label_free=True,
            on_demand=True,
            needs="answering.language",
            extra="language",
        ),
        MetricInfo(
            "judge",
            "generation",
            (0.0, 1.0),
            True,
            "probability that the run's judge, a model, says yes about the answer",
            label_free=True,
            on_demand=True,
        ),
    )
}


HARNESS = "harness:"
"""Metrics `harness:NAME` are what the code of a task of the LM Evaluation Harness says, see `fitness.harness`."""

HARNESS_SHARES = ("acc", "exact_match", "em", "pass@", "f1")
"""How names of those begin that lie in [0, 1] by custom; of others nothing is known."""

HARNESS_LOSSES = ("ter", "wer", "cer", "brier_score", "loss")
"""Those of which less is better by custom."""


JUDGE = "judge"
NAMED_JUDGE = f"{JUDGE}:"
"""Metrics `judge:NAME` are what one of several judges of a run says."""


def metric(name: str) -> MetricInfo:
    """A metric by name.

    Raises:
        InvalidInputError: no such metric; the message lists those there are.
    """
    if name.startswith(HARNESS):
        return _harness_metric(name)
    if is_judge(name) and name != JUDGE:
        who = name.removeprefix(NAMED_JUDGE)
        return replace(METRICS[JUDGE], name=name, text=f"probability that the judge {who!r} says yes about the answer")
    if name not in METRICS:
        raise InvalidInputError("metric", name, f"one of {', '.join(METRICS)}")
    return METRICS[name]


def is_metric(name: str) -> bool:
    """Whether `metric` knows it."""
    return name in METRICS or name.startswith(HARNESS) or is_judge(name)


def is_judge(name: str) -> bool:
    """Whether a model says it that judges answers."""
    return name == JUDGE or (name.startswith(NAMED_JUDGE) and name != NAMED_JUDGE)


def _harness_metric(name: str) -> MetricInfo:
    own = name.removeprefix(HARNESS)
    bounds: Bounds = (0.0, 1.0) if own.startswith(HARNESS_SHARES) else (None, None)
    return MetricInfo(
        name, "choice", bounds, own.partition(",")[0] not in HARNESS_LOSSES, f"{own}, as the task's own code says",
        also=("generation",), label_free=True, on_demand=True, needs="doc",
    )  # fmt: skip


def kind_of(item: Item) -> Kind:
    """Whether an item is multiple choice, running text or generation."""
    return "choice" if item.choices else "text" if item.text else "generation"


def common_kind(items: Sequence[Item], where: str = "items") -> Kind:
    """The one kind that all items have.

    Raises:
        InvalidInputError: items of several kinds are mixed.
    """
    first = kind_of(items[0])
    for item in items:
        if kind_of(item) != first:
            raise InvalidInputError(f"{where} {item.id}", kind_of(item), f"a {first} item like the others")
    return first
