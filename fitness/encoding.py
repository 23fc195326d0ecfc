"""Text to tokens, exactly as the LM Evaluation Harness does it, so that our numbers are the ones people know.

The harness (Gao et al., lm-evaluation-harness, `TemplateLM._encode_pair` of 0.4.13) moves blanks at the context's end
to the continuation, encodes the whole text, and cuts it at the length of the encoded context. So all choices of an
item stand behind the same context tokens, even where a tokenizer would have merged over the border.
"""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from evomerge.errors import InvalidInputError
from fitness.items import Item

Tokens = tuple[int, ...]


def encode_choices(tokenizer: PreTrainedTokenizerBase, item: Item) -> tuple[Tokens, tuple[Tokens, ...]]:
    """Tokens of the context and of each choice.

    Raises:
        InvalidInputError: a choice has no token of its own, or an all-blank context meets a tokenizer without a
            beginning-of-sequence or end-of-sequence token to stand in for it.
    """
    context = item.context.rstrip()
    blanks = item.context[len(context) :]
    if context:
        head = encode(tokenizer, context)
        tails = tuple(encode(tokenizer, context + blanks + choice)[len(head) :] for choice in item.choices)
    else:
        head = (_prefix_token(tokenizer, item),)
        tails = tuple(tuple(tokenizer.encode(blanks + choice, add_special_tokens=False)) for choice in item.choices)
    for choice, tail in zip(item.choices, tails, strict=True):
        if not tail:
            raise InvalidInputError(f"item {item.id!r} choices", choice, "a choice that adds a token to the context")
    return head, tails


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> Tokens:
    """Tokens of a text with the tokenizer's own special tokens, but not a second one where the text starts with it."""
    prefix = _prefix_id(tokenizer)
    if prefix is not None and text.startswith(str(tokenizer.decode([prefix]))):
        return tuple(tokenizer.encode(text, add_special_tokens=False))
    return tuple(tokenizer.encode(text))


def _prefix_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    prefix = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return prefix if isinstance(prefix, int) else None


def _prefix_token(tokenizer: PreTrainedTokenizerBase, item: Item) -> int:
    prefix = _prefix_id(tokenizer)
    if prefix is None:
        raise InvalidInputError(
            f"item {item.id!r} context", item.context, "more than blanks, as the tokenizer has no first token"
        )
    return prefix
