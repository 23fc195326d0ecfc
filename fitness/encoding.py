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


def encode_pairs(tokenizer: PreTrainedTokenizerBase, item: Item) -> tuple[tuple[Tokens, Tokens], ...]:
    """Tokens of each choice's context and of the choice.

    Raises:
        InvalidInputError: as `encode_choices`.
    """
    if not item.contexts:
        head, tails = encode_choices(tokenizer, item)
        return tuple((head, tail) for tail in tails)
    pairs = zip(item.contexts, item.choices, strict=True)
    return tuple(encode_pair(tokenizer, context, choice, f"item {item.id!r} choices") for context, choice in pairs)


def encode_choices(tokenizer: PreTrainedTokenizerBase, item: Item) -> tuple[Tokens, tuple[Tokens, ...]]:
    """Tokens of the context that all choices share and of each choice.

    Raises:
        InvalidInputError: a choice has no token of its own, or an all-blank context meets a tokenizer without a
            beginning-of-sequence or end-of-sequence token to stand in for it.
    """
    pairs = [encode_pair(tokenizer, item.context, choice, f"item {item.id!r} choices") for choice in item.choices]
    return pairs[0][0], tuple(tail for _, tail in pairs)


def encode_pair(tokenizer: PreTrainedTokenizerBase, text: str, continuation: str, where: str) -> tuple[Tokens, Tokens]:
    """Tokens of a text and of what follows it.

    Args:
        where: the field that holds the continuation, for errors.

    Raises:
        InvalidInputError: see `encode_choices`.
    """
    context = text.rstrip()
    blanks = text[len(context) :]
    if context:
        head = encode(tokenizer, context)
        tail = encode(tokenizer, context + blanks + continuation)[len(head) :]
    else:
        head = (prefix_token(tokenizer, where),)
        tail = tuple(tokenizer.encode(blanks + continuation, add_special_tokens=False))
    if not tail:
        raise InvalidInputError(where, continuation, "a text that adds a token to the context")
    return head, tail


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> Tokens:
    """Tokens of a text with the tokenizer's own special tokens, but not a second one where the text starts with it."""
    prefix = _prefix_id(tokenizer)
    if prefix is not None and text.startswith(str(tokenizer.decode([prefix]))):
        return tuple(tokenizer.encode(text, add_special_tokens=False))
    return tuple(tokenizer.encode(text))


def _prefix_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    prefix = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return prefix if isinstance(prefix, int) else None


def prefix_token(tokenizer: PreTrainedTokenizerBase, where: str) -> int:
    """What stands before a text that nothing precedes.

    Raises:
        InvalidInputError: the tokenizer has neither a beginning-of-sequence nor an end-of-sequence token.
    """
    prefix = _prefix_id(tokenizer)
    if prefix is None:
        raise InvalidInputError(where, "", "a context of more than blanks, as the tokenizer has no first token")
    return prefix
