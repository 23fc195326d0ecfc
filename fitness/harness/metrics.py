"""A task's metrics → ours of the same value on every item; or the task's own code; or why neither."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from fitness.harness.card import Mapped
from fitness.metrics import HARNESS

WeighBy = Literal["items", "bytes", "words"]
"""What an item counts in an eval set's mean. The harness's perplexities are means over bytes or words of all texts."""

CHOICE = {
    "acc": "accuracy",
    "acc_norm": "accuracy_norm",
    "acc_bytes": "accuracy_bytes",
    "acc_mutual_info": "accuracy_pmi",
}
ROLLING = {
    "bits_per_byte": ("bytes", "bits_per_byte", "mean"),
    "byte_perplexity": ("bytes", "bits_per_byte", "2^mean"),
    "word_perplexity": ("words", "nats_per_word", "exp(mean)"),
}
BOUNDED = frozenset({*CHOICE, "exact_match"})
"""Of the harness's own metrics those that lie in [0, 1]; what a task's code returns may be anything."""


def weigh_by(task: Any) -> WeighBy:
    """What the task's texts count by: words where word perplexity is all that it reports, else bytes."""
    if task.OUTPUT_TYPE != "loglikelihood_rolling" or has_own_code(task):
        return "items"
    asked = {ROLLING[name][0] for name in task.aggregation() if name in ROLLING}
    return "words" if asked == {"words"} else "bytes"


def mapped_metrics(task: Any, judged: str, by: WeighBy) -> tuple[Mapped, ...]:
    """What becomes of each of a task's metrics.

    Args:
        task: the harness's.
        judged: why the task's own code cannot judge answers later; empty where it can.
        by: what its items are weighed by.
    """
    names = [name for name in task.aggregation() if name != "bypass"]
    filters = [ensemble.name for ensemble in task._filters]
    return tuple(_mapped(task, name, f, len(filters) > 1, judged, by) for f in filters for name in names)


def has_own_code(task: Any) -> bool:
    """Whether a function of the task's makes results of answers, or the task is a class."""
    return callable(task.get_config("process_results")) if hasattr(task, "get_config") else True


def _mapped(task: Any, name: str, filter_name: str, several: bool, judged: str, by: WeighBy) -> Mapped:
    key = f"{name},{filter_name}" if several else name
    up = task.higher_is_better().get(name) is not False
    if not has_own_code(task):
        native = _native(task, name, by)
        if native is not None:
            metric, reported, why_not = native
            return Mapped(key, metric, reported, up, name in BOUNDED, why_not)
    elif task.OUTPUT_TYPE == "loglikelihood_rolling":
        return _counted(task, key, name, up)
    why_not = judged or _aggregated(task.aggregation(), name)
    bounded = name in BOUNDED and not has_own_code(task)
    return Mapped(key, "" if why_not else f"{HARNESS}{key}", "mean", up, bounded, why_not)


def _native(task: Any, name: str, by: WeighBy) -> tuple[str, str, str] | None:
    """Our metric, how the harness's number follows, and why there is none; None where only the task's code says it."""
    if task.OUTPUT_TYPE == "multiple_choice":
        if name not in CHOICE or task.multiple_target or (task.multiple_input and name != "acc"):
            return None
        return CHOICE[name], "mean", ""
    if task.OUTPUT_TYPE == "loglikelihood":
        if name == "perplexity":
            return "log_likelihood", "exp(-mean)", ""
        if name == "acc":
            return "greedy", "mean", ""
        return "", "mean", "no such measure of a continuation here"
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        if name not in ROLLING:
            return "", "mean", "no such measure of a text here"
        wanted, metric, reported = ROLLING[name]
        why_not = "" if wanted == by else f"a mean over {wanted}, and these items are weighed by {by}"
        return "" if why_not else metric, reported, why_not
    return None


def _counted(task: Any, key: str, name: str, up: bool) -> Mapped:
    """A task whose own code says how long its texts are: pairs of log-likelihood and length, each summed up."""
    from lm_eval.api.metrics import bits_per_byte, weighted_perplexity

    reported = {weighted_perplexity: "exp(-mean)", bits_per_byte: "bits(-mean)"}.get(task.aggregation()[name])
    docs = [request.doc for request in task.instances]
    pairs = [task.process_results(doc, (-1.0,)).get(name) for doc in docs]
    if reported is None or not all(isinstance(pair, tuple) and len(pair) == 2 and pair[0] == -1.0 for pair in pairs):
        return Mapped(key, "", "mean", up, False, "the task's own code makes something else of log-likelihoods")
    size = sum(float(pair[1]) for pair in pairs) / len(pairs)
    return Mapped(key, "log_likelihood", reported, up, False, "", size)


def _aggregated(aggregation: Mapping[str, Any], name: str) -> str:
    """Why a metric is not the mean of what items are worth; empty where it is."""
    from lm_eval.api.metrics import mean, nanmean

    how = aggregation[name]
    if how in (mean, nanmean):
        return ""
    return f"{getattr(how, '__name__', how)} of all answers together, not a mean of what each is worth"
