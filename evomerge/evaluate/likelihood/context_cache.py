"""Reads a context once for all its choices, on models that take no block mask.

Where the architecture computes attention biases by itself (ALiBi: Bloom, MPT, Falcon), choices
cannot share a row with their context. They can still share its keys and values: contexts go through
the model together, padded on the left, and every choice is a row of its own behind the cache of its
context. A prefix that several contexts share (few-shot examples, a description) is read once before
them, unless the bias counts padding as distance (MPT). `context_cache_support` tries out what a
model allows. On Bloom this is 2.7 times as fast as plain rows (experiments/LOG.md).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache

from evomerge.evaluate.likelihood.agreement import agreement
from evomerge.evaluate.likelihood.attention import (
    BRANCHES,
    CONTEXT,
    CONTINUATION,
    attention_window,
    growing_cache,
    prefix_cache,
)
from evomerge.evaluate.likelihood.packing import (
    CALL_TOKENS,
    PackedBatch,
    PackedRow,
    n_tokens,
    prefix_groups,
)
from evomerge.evaluate.model import cache_argument
from evomerge.evaluate.token_requests import Tokens


@dataclass(frozen=True)
class ContextCacheSupport:
    """Limits of a model behind cached contexts.

    Attributes:
        max_length: Longest input; 0 if cached contexts change the model's logits.
        prefixes: Whether contexts may themselves follow a prefix that several of them share.
    """

    max_length: int = 0
    prefixes: bool = False


@dataclass(frozen=True)
class CachedContexts:
    """The contexts that a batch's rows continue, as tensors.

    Attributes:
        tokens: Padded on the left, (contexts, longest).
        seen: 1 where a context has a token, 0 where padding, (contexts, longest).
        context_of: The context of each row, (rows,).
    """

    tokens: torch.Tensor
    seen: torch.Tensor
    context_of: torch.Tensor


def pack_by_context(
    inputs: Mapping[Tokens, int], batch_size: int, support: ContextCacheSupport
) -> tuple[list[PackedBatch], dict[Tokens, int]]:
    """Lay out the inputs that share a context with others; the result depends on the set alone.

    Args:
        inputs: For each input the number of its first tokens that are context.
        batch_size: Most rows in a batch.
        support: What the model allows.

    Returns:
        Batches whose rows continue a context (without its last token, which predicts and so stays
        in the row), and the inputs that are better off in plain rows.
    """
    groups: dict[Tokens, list[Tokens]] = {}
    for tokens in sorted(inputs):
        if len(tokens) <= support.max_length:
            groups.setdefault(tokens[: inputs[tokens] - 1], []).append(tokens)
    groups = {context: group for context, group in groups.items() if context and len(group) > 1}
    batches: list[PackedBatch] = []
    cached_length = {tokens: inputs[tokens] - 1 for group in groups.values() for tokens in group}
    ordered = sorted(groups.values())
    cuts = prefix_groups(ordered, cached_length) if support.prefixes else [((), ordered)]
    for prefix, behind in cuts:  # at least one token of each context is not in the prefix
        contexts = {group[0][len(prefix) : cached_length[group[0]]]: group for group in behind}
        batches += _batches(prefix, contexts, batch_size)
    if sum(map(len, cached_length)) - n_tokens(batches) <= CALL_TOKENS * len(batches):
        return [], dict(inputs)
    return batches, {tokens: n for tokens, n in inputs.items() if tokens not in cached_length}


def context_cache_arguments(
    model: Any, contexts: CachedContexts, length: int, prefix: Cache | None = None
) -> dict[str, Any]:
    """Read the contexts, and make the mask and cache that their rows go through the model with.

    Args:
        model: The model.
        contexts: The contexts, and which of them each row continues.
        length: Length of the rows.
        prefix: The `prefix_cache` of the contexts, if they begin with a prefix.
    """
    tokens, context_of = contexts.tokens, contexts.context_of
    cache = DynamicCache() if prefix is None else growing_cache(prefix, len(tokens))
    seen = torch.nn.functional.pad(contexts.seen, (cache.get_seq_length(), 0), value=1)
    name = cache_argument(model) or ""
    takes_positions = "position_ids" in inspect.signature(model.forward).parameters
    positions = (seen.cumsum(dim=1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
    extra = {"position_ids": positions} if takes_positions else {}
    model(
        input_ids=tokens,
        attention_mask=seen,
        use_cache=True,
        logits_to_keep=1,
        **{name: cache},
        **extra,
    )
    cache.batch_select_indices(context_of)
    mask = torch.cat((seen[context_of], seen.new_ones(len(context_of), length)), dim=1)
    if takes_positions:
        columns = torch.arange(length, device=tokens.device)
        extra = {"position_ids": seen.sum(dim=1)[context_of].unsqueeze(1) + columns}
    return {"attention_mask": mask, name: cache, **extra}


def pad_left(contexts: Sequence[Tokens]) -> tuple[torch.Tensor, torch.Tensor]:
    """Make the `tokens` and `seen` of `CachedContexts`."""
    longest = max(map(len, contexts))
    tokens = [(0,) * (longest - len(context)) + context for context in contexts]
    seen = [(0,) * (longest - len(context)) + (1,) * len(context) for context in contexts]
    return torch.tensor(tokens), torch.tensor(seen)


def context_cache_support(model: Any) -> ContextCacheSupport:
    """Try out what a model allows behind cached contexts."""
    config = model.config.get_text_config(decoder=True)
    longest = attention_window(config)
    if cache_argument(model) is None or longest <= CONTEXT + CONTINUATION:
        return ContextCacheSupport()
    try:
        with torch.inference_mode():
            alone, behind_prefix = (
                _takes_cached_contexts(model, int(config.vocab_size), longest, skip)
                for skip in (0, 2)
            )
    except Exception:  # whatever a model raises on arguments that it does not take
        return ContextCacheSupport()
    return ContextCacheSupport(longest, behind_prefix) if alone else ContextCacheSupport()


def _takes_cached_contexts(model: Any, vocabulary_size: int, longest: int, skip: int) -> bool:
    """Compare continuations of two contexts of different length: behind their cache, and plain.

    The contexts begin with `skip` common tokens, which are a prefix.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randint(vocabulary_size, shape, generator=generator).to(model.device)

    common = draw(skip)
    contexts = [torch.cat((common, draw(n - skip))) for n in (CONTEXT, CONTEXT - 3)]
    tails = draw(2, BRANCHES, CONTINUATION)
    expected = []
    for context, continuations in zip(contexts, tails, strict=True):
        plain = torch.cat((context.expand(BRANCHES, -1), continuations), dim=1)
        logits = model(input_ids=plain, use_cache=False).logits
        expected.append(logits[:, len(context) - 1 :])
    last = torch.stack([context[-1] for context in contexts])
    rows = torch.cat((last[:, None, None].expand(-1, BRANCHES, 1), tails), dim=2).flatten(0, 1)
    tokens, seen = pad_left([tuple(context[skip:-1].tolist()) for context in contexts])
    cached = CachedContexts(
        tokens.to(model.device),
        seen.to(model.device),
        torch.arange(2, device=model.device).repeat_interleave(BRANCHES),
    )
    prefix = prefix_cache(model, common) if skip else None
    arguments = context_cache_arguments(model, cached, rows.shape[1], prefix)
    logits = model(input_ids=rows, use_cache=True, **arguments).logits
    plain = torch.cat((contexts[0].expand(BRANCHES, -1), tails[0]), dim=1)
    return bool(agreement(model, logits, torch.cat(expected), plain, longest))


def _batches(
    prefix: Tokens, groups: Mapping[Tokens, Sequence[Tokens]], batch_size: int
) -> list[PackedBatch]:
    """Batch contexts with their inputs, longest first; padding never costs more than a call."""
    batches: list[PackedBatch] = []
    rows: list[PackedRow] = []
    padding = longest = 0
    for context in sorted(groups, key=lambda context: (-len(context), context)):
        for start in range(0, len(groups[context]), batch_size):
            inputs = groups[context][start : start + batch_size]
            padding += longest - len(context)
            if rows and (len(rows) + len(inputs) > batch_size or padding > CALL_TOKENS):
                batches.append(_batch(prefix, rows))
                rows = []
            if not rows:
                longest, padding = len(context), 0
            rows += [_row(tokens, context, len(prefix)) for tokens in inputs]
    return [*batches, _batch(prefix, rows)] if rows else batches


def _batch(prefix: Tokens, rows: Sequence[PackedRow]) -> PackedBatch:
    ordered = sorted(rows, key=lambda row: (-len(row.tokens), row.context, row.tokens))
    return PackedBatch(prefix, tuple(ordered))


def _row(tokens: Tokens, context: Tokens, skip: int) -> PackedRow:
    tail = tokens[skip + len(context) :]
    columns = tuple(range(len(tail)))
    return PackedRow(tail, columns, (len(tail) - 1,) * len(tail), {tokens: columns}, context)
