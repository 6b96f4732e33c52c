"""Checks that models can be merged: the same tensors, shapes and token ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.core.errors import UserError

MOST_MEGABYTES = 160  # of two vocabularies that are compared token by token


def check_compatible(
    base: Checkpoint, other: Checkpoint, ignored: Callable[[str], bool] | None = None
) -> None:
    """Refuse a pair whose tensors differ, naming the first of them.

    Args:
        base: The one.
        other: The other.
        ignored: Says of a tensor's name that it may differ.

    Raises:
        UserError: A tensor is missing or of another shape.
    """
    wrong = []
    for name, info in base.tensors.items():
        counterpart = other.tensors.get(other.stored_name(name) or "")
        if counterpart is None:
            wrong.append(f"{name} is missing")
        elif counterpart.shape != info.shape:
            wrong.append(f"{name} is {list(counterpart.shape)}, expected {list(info.shape)}")
    wrong += [
        f"{name} is not in the base" for name in other.tensors if base.stored_name(name) is None
    ]
    if ignored is not None:
        wrong = [text for text in wrong if not ignored(text.partition(" ")[0])]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise UserError(
            f"{other.folder}: does not match {base.folder}: {'; '.join(wrong[:5])}{more}"
        )


def unties(base: Checkpoint, others: Mapping[str, Checkpoint]) -> bool:
    """Return whether a model holds by itself what the base ties to another tensor."""
    return any(name not in base.tensors for other in others.values() for name in other.tensors)


def check_same_kind(base: Checkpoint, other: Checkpoint) -> None:
    """Refuse a pair of two model types, whose equal names are not the same thing.

    Raises:
        UserError: Both declare their kind, and the kinds differ.
    """
    ours, theirs = base.config.get("model_type"), other.config.get("model_type")
    if ours != theirs and None not in (ours, theirs):
        raise UserError(
            f"{other.folder}: its model_type is {theirs!r}, that of {base.folder} {ours!r}; models "
            "of two architectures are not merged"
        )


def check_same_tokens(base: Checkpoint, other: Checkpoint) -> None:
    """Refuse a pair whose token ids differ; a model without a tokenizer goes with any.

    Raises:
        UserError: Names the first tokens that differ.
    """
    first, second = base.tokens, other.tokens
    if first is None or second is None or first.digest == second.digest:
        return
    differ = f"{other.folder}: its tokenizer differs from that of {base.folder}"
    remedy = (
        "merging would mix the rows of different tokens: name a tokenizer_source (union, base or "
        "a model), which brings them together"
    )
    if first.megabytes + second.megabytes > MOST_MEGABYTES:
        raise UserError(f"{differ} ({first.size:,} and {second.size:,} tokens); {remedy}")
    ours, theirs = base.vocabulary or {}, other.vocabulary or {}
    tokens = [token for token, number in ours.items() if theirs.get(token) != number]
    tokens += [token for token in theirs if token not in ours]
    if not tokens:
        return
    tokens.sort()
    differences = [
        f"{token!r}={theirs[token]} is not there"
        if token not in ours
        else f"{token!r}={ours[token]} there is missing"
        if token not in theirs
        else f"{token!r}={theirs[token]} is {ours[token]} there"
        for token in tokens[:5]
    ]
    raise UserError(f"{differ}, in {len(tokens)} tokens: {', '.join(differences)}; {remedy}")
