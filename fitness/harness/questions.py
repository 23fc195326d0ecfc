"""A task's requests → items: its prompts, examples, delimiters, choices and stop strings as they are."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evomerge.errors import InvalidInputError
from fitness.harness.metrics import WeighBy
from fitness.items import Answering, Item, check_item

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHARED = 10
"""A question that more documents than this have in common is an instruction: their choices tell them apart."""

DEFAULT_MAX_TOKENS = 256
"""The harness's, for tasks that name none."""


@dataclass(frozen=True, slots=True)
class Prompting:
    """How questions are put to a model.

    Attributes:
        limit: the first so many documents; None is all.
        system_instruction: before everything.
        tokenizer: whose chat template is applied; None: none is.
        multiturn: whether examples are turns of their own under a chat template.
    """

    limit: int | None = None
    system_instruction: str | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    multiturn: bool = True

    @property
    def template_sha256(self) -> str:
        """Of the chat template; empty without one."""
        found = self.tokenizer.chat_template if self.tokenizer is not None else None
        return hashlib.sha256(str(found).encode()).hexdigest() if found else ""

    def chat(self, messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Messages as a tokenizer writes them; the last one is left open where no answer begins. As in the harness, a
        template that knows no system message gets none."""
        from jinja2 import TemplateError

        assert self.tokenizer is not None, "only asked with a tokenizer"
        how: dict[str, Any] = {
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": not add_generation_prompt,
        }
        try:
            found = self.tokenizer.apply_chat_template(messages, tokenize=False, **how)
        except TemplateError:
            told = [message for message in messages if message["role"] != "system"]
            found = self.tokenizer.apply_chat_template(told, tokenize=False, **how)
        return str(found)


def build_requests(task: Any, prompting: Prompting) -> None:
    """Let a task make its requests, as the harness's evaluator does.

    Raises:
        InvalidInputError: it cannot; names it.
    """
    try:
        task.build_all_requests(
            limit=prompting.limit, system_instruction=prompting.system_instruction,
            apply_chat_template=prompting.tokenizer is not None, fewshot_as_multiturn=prompting.multiturn,
            chat_template=prompting.chat if prompting.tokenizer is not None else None,
        )  # fmt: skip
    except Exception as error:  # templates and functions of a task may raise anything
        allowed = f"a task whose requests can be built: {type(error).__name__}: {error}"
        raise InvalidInputError("task", task.task_name, allowed) from error


def questions(
    task: Any, *, by: WeighBy, weight: float, judge: Mapping[str, Any] | None
) -> tuple[list[Item], list[InvalidInputError]]:
    """The items of a task, in its order, all for `search`; and why some documents are none.

    Args:
        task: the harness's, with its requests built.
        by: what an item's weight is its number of.
        weight: of every item beside that.
        judge: what the judge finds the task by, kept in every item with its document; None: nothing is kept.

    Raises:
        InvalidInputError: no document can be an item; names the first.
    """
    by_doc: dict[int, list[Any]] = {}
    for request in task.instances:
        by_doc.setdefault(request.doc_id, []).append(request)
    docs = {number: requests[0].doc for number, requests in by_doc.items()}
    asked = _questions(task, docs)
    found, left_out = [], []
    for number, requests in by_doc.items():
        where = f"task {task.task_name!r} document {number}"
        try:
            parts = _parts(task, docs[number], sorted(requests, key=lambda r: int(r.idx)), where)
            parts["weight"] = weight * _size(parts.get("text", ""), by)
            if asked[number] not in (parts.get("context", ""), ""):
                parts["question"] = asked[number]
            if judge is not None:
                parts["doc"] = _doc(judge, docs[number], where)
            item = Item(id=f"{task.task_name}/{number}", **({"context": "", "group": task.task_name} | parts))
            check_item(item, where)
        except InvalidInputError as error:
            left_out.append(error)
        else:
            found.append(item)
    if not found:
        raise left_out[0]
    return found, left_out


def _parts(task: Any, doc: Mapping[str, Any], requests: Sequence[Any], where: str) -> dict[str, Any]:
    for request in requests:
        if not all(isinstance(text, str) for text in request.args[:1]):
            raise InvalidInputError(where, type(request.args[0]).__name__, "text; images and sound are not scored here")
    kinds: dict[str, Callable[..., dict[str, Any]]] = {
        "multiple_choice": _choice, "loglikelihood": _continuation, "loglikelihood_rolling": _rolling,
        "generate_until": _generation,
    }  # fmt: skip
    if task.OUTPUT_TYPE not in kinds or any(r.request_type != _requested(task.OUTPUT_TYPE) for r in requests):
        found = sorted({str(r.request_type) for r in requests})
        raise InvalidInputError(where, found, "requests of one of the harness's four kinds")
    return kinds[task.OUTPUT_TYPE](task, doc, requests, where)


def _requested(output_type: str) -> str:
    return "loglikelihood" if output_type == "multiple_choice" else output_type


def _choice(task: Any, doc: Mapping[str, Any], requests: Sequence[Any], where: str) -> dict[str, Any]:
    inner = task.doc_to_choice(doc)
    arguments = [request.args for request in requests[: len(inner)]]  # behind them: the same without a context
    choices = tuple(continuation for _, continuation in arguments)
    parts: dict[str, Any] = {"choices": choices, "label": _label(task, doc, inner, where)}
    if task.multiple_input:
        parts |= {"contexts": tuple(context for context, _ in arguments)}
    else:
        parts |= {"context": arguments[0][0], "delimiter": choices[0].removesuffix(inner[0])}
    if len(requests) > len(inner):
        parts["unconditioned"] = ""
    return parts


def _label(task: Any, doc: Mapping[str, Any], choices: Sequence[str], where: str) -> int | None:
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    if isinstance(gold, list):
        return None  # several right choices: the task's own code judges them
    if isinstance(gold, str) and gold in choices:
        return list(choices).index(gold)
    if isinstance(gold, int) and 0 <= gold < len(choices):
        return int(gold)
    raise InvalidInputError(f"{where} target", gold, f"one of the {len(choices)} choices")


def _continuation(task: Any, doc: Mapping[str, Any], requests: Sequence[Any], where: str) -> dict[str, Any]:
    context, text = requests[0].args
    if not text:
        raise InvalidInputError(f"{where} target", text, "a text that is not empty")
    return {"context": context, "text": text}


def _rolling(task: Any, doc: Mapping[str, Any], requests: Sequence[Any], where: str) -> dict[str, Any]:
    (text,) = requests[0].args
    if not text:
        raise InvalidInputError(f"{where} target", text, "a text that is not empty")
    return {"text": text}


def _extract(task: Any) -> str:
    """The first of the task's filters that an extractor of ours is; all of an answer without any."""
    for filters in task.get_config("filter_list") or ():
        for step in filters["filter"]:
            pattern, group = step.get("regex_pattern"), step.get("group_select", 0)
            if step["function"] == "regex" and pattern and group in (0, -1):
                return f"{'last_' if group else ''}regex:{pattern}"
    return "whole"


def _generation(task: Any, doc: Mapping[str, Any], requests: Sequence[Any], where: str) -> dict[str, Any]:
    context, settings = requests[0].args
    until = settings.get("until") or []
    stops = [until] if isinstance(until, str) else until
    most = next((settings[k] for k in ("max_gen_toks", "max_new_tokens", "max_tokens") if settings.get(k)), None)
    answering = Answering(
        extract=_extract(task), stop=tuple(s for s in stops if s), max_new_tokens=int(most or DEFAULT_MAX_TOKENS)
    )
    return {"context": context, "references": _references(task, doc), "answering": answering}


def _references(task: Any, doc: Mapping[str, Any]) -> tuple[str, ...]:
    target = task.doc_to_target(doc)
    if task.get_config("doc_to_choice") is not None and isinstance(target, int):
        target = task.doc_to_choice(doc)[target]
    found = [str(t) for t in (target if isinstance(target, list | tuple) else [target])]
    for pattern in _ignored(task):
        found = [re.sub(pattern, "", text) for text in found]
    return tuple(dict.fromkeys(t for t in found if t))


def _ignored(task: Any) -> list[str]:
    """Patterns that the task's exact match takes out of answers and references."""
    for one in task.get_config("metric_list") or ():
        if one["metric"] == "exact_match":
            return list(one.get("regexes_to_ignore") or ())
    return []


def _questions(task: Any, docs: Mapping[int, Any]) -> dict[int, str]:
    """What each document asks, without examples and instructions."""
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return dict.fromkeys(docs, "")
    found = {number: _question(task, doc) for number, doc in docs.items()}
    shared = {text for text, times in Counter(found.values()).items() if not text.strip() or times > SHARED}
    for number, doc in docs.items():
        if found[number] in shared:
            target = task.doc_to_choice(doc) if task.get_config("doc_to_choice") else [str(task.doc_to_target(doc))]
            found[number] = "\n".join([found[number], *target]).strip()
    return found


def _question(task: Any, doc: Any) -> str:
    if getattr(task, "multiple_input", 0):
        return "\n".join(task.doc_to_choice(doc))
    return str(task.doc_to_text(doc))


def _size(text: str, by: WeighBy) -> float:
    if by == "bytes":
        return len(text.encode())
    return len(re.split(r"\s+", text)) if by == "words" else 1.0


def _doc(judge: Mapping[str, Any], doc: Any, where: str) -> str:
    try:
        return json.dumps({**judge, "row": doc}, sort_keys=True, ensure_ascii=False)
    except TypeError as error:
        raise InvalidInputError(f"{where}", str(error), "a document of text, numbers, lists and mappings") from error
