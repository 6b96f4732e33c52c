"""Defines requests to the model in tokens: a continuation to score, or a prompt to continue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evomerge.evaluate.outcomes import Item

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Pair:
    """A continuation to score after a context.

    Attributes:
        owner: The item that it belongs to, for messages.
        context: Tokens that are given; never empty.
        continuation: Tokens whose likelihood is wanted; never empty.
        endings: Tokens any one of which may follow the continuation; their joint probability counts
            as one more token. Empty: it does not matter what follows.
    """

    owner: Item
    context: Tokens
    continuation: Tokens
    endings: Tokens = ()


@dataclass(frozen=True)
class Prompt:
    """A text to continue.

    Attributes:
        owner: The item that it belongs to, for messages.
        tokens: The prompt.
        stops: Strings that end the answer; the answer is cut before the first of them.
        max_tokens: Longest answer.
    """

    owner: Item
    tokens: Tokens
    stops: tuple[str, ...]
    max_tokens: int


def end_tokens(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Return the tokens that end an answer, by generation settings and tokenizer."""
    ends = model.generation_config.eos_token_id
    listed = ends if isinstance(ends, list) else [ends]
    return tuple(e for e in dict.fromkeys([*listed, tokenizer.eos_token_id]) if e is not None)
