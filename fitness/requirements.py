"""What metrics need of items, of this machine and of those who run it: checked before the first candidate."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from importlib.util import find_spec

from evomerge.errors import InvalidInputError
from fitness.answer_metrics import lacking
from fitness.items import EvalSet
from fitness.language import LANGUAGES
from fitness.metrics import JUDGE, NAMED_JUDGE, MetricInfo, is_judge
from fitness.sandbox import SETTING, Sandbox

EXTRAS = {"translation": "sacrebleu", "language": "py3langid"}
"""Extra → the package that it is for."""


def check_engine(field: str, name: str) -> None:
    """Whether what is to write answers is installed.

    Raises:
        InvalidInputError: it is not.
    """
    if name == "vllm" and find_spec("vllm") is None:
        allowed = "transformers; or install vLLM beside evomerge, as docs/scoring-generation.md says"
        raise InvalidInputError(field, name, allowed)


def check_needs(field: str, info: MetricInfo, eval_set: EvalSet) -> None:
    """Whether a metric can be measured on all items of an eval set, here.

    Raises:
        InvalidInputError: items lack what it needs, a package is missing, or a language is none that can be told.
    """
    without = lacking(info, eval_set.items)
    if without:
        allowed = (
            f"a metric without {info.needs}, which {len(without)} items of {eval_set.name!r} lack ({without[0]!r})"
        )
        raise InvalidInputError(field, info.name, allowed)
    if info.extra and find_spec(EXTRAS[info.extra]) is None:
        raise InvalidInputError(
            field, info.name, f"a metric that needs no extra (pip install 'evomerge[{info.extra}]')"
        )
    if info.name == "language_match":
        for item in eval_set.items:
            asked = item.answering.language if item.answering else ""
            if asked.lower() not in LANGUAGES:
                where = f"eval set {eval_set.name!r} item {item.id!r} answering.language"
                raise InvalidInputError(where, asked, f"one of {', '.join(LANGUAGES)}")


def check_allowed(metrics: Iterable[tuple[str, str]], *, allow_code: bool, judges: Collection[str]) -> None:
    """Whether the metrics of a run may be measured.

    Args:
        metrics: pairs of a field of the run and the metric that it names.
        allow_code: whether the operator lets code run that models wrote.
        judges: metrics of the models that judge in the run.

    Raises:
        InvalidInputError: code may not run or cannot be isolated here, or there is no judge.
    """
    for field, name in metrics:
        if name == "code_passes" and not allow_code:
            allowed = f"a metric that runs no code: an operator lets Python run that models wrote with {SETTING}=true"
            raise InvalidInputError(field, name, allowed)
        if name == "code_passes":
            Sandbox()
        if is_judge(name) and name not in judges:
            place = "`judge`" if name == JUDGE else f"`judges.{name.removeprefix(NAMED_JUDGE)}`"
            known = f"{', '.join(judges)}, " if judges else ""
            allowed = f"{known}a metric without a judge, or name a model that judges under {place}"
            raise InvalidInputError(field, name, allowed)
