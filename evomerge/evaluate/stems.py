"""Contexts read once for their choices, on models that take no block mask.

Where attention's bias is the architecture's own affair (ALiBi: Bloom, MPT, Falcon), choices cannot
share a row with their context. They can still share its keys and values: contexts go through the
model together, padded on the left, and every choice is a row of its own that looks back at its
context. Whether a model gives the logits of plain rows so is found out by trying.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from evomerge.evaluate.model import cache_argument
from evomerge.evaluate.packed import BRANCHES, CONTEXT, CONTINUATION, close, window
from evomerge.evaluate.packing import CALL_TOKENS, PackedBatch, Row, Tokens


def pack_stems(
    inputs: Mapping[Tokens, int], batch_size: int, deepest: int
) -> tuple[list[PackedBatch], dict[Tokens, int]]:
    """Lay out the inputs that share their context with others; the result depends on the set alone.

    Args:
        inputs: For each input how many of its first tokens are context.
        batch_size: Most rows in a batch.
        deepest: Longest input that is laid out so.

    Returns:
        Batches whose rows have a stem (the context but for its last token, which predicts), and
        the inputs that are better off in plain rows.
    """
    groups: dict[Tokens, list[Tokens]] = {}
    for tokens in sorted(inputs):
        if len(tokens) <= deepest:
            groups.setdefault(tokens[: inputs[tokens] - 1], []).append(tokens)
    groups = {stem: some for stem, some in groups.items() if stem and len(some) > 1}
    batches: list[PackedBatch] = []
    rows: list[Row] = []
    padding = longest = 0
    for stem in sorted(groups, key=lambda stem: (-len(stem), stem)):
        for start in range(0, len(groups[stem]), batch_size):
            some = groups[stem][start : start + batch_size]
            padding += longest - len(stem)
            if rows and (len(rows) + len(some) > batch_size or padding > CALL_TOKENS):
                batches.append(_batch(rows))
                rows = []
            if not rows:
                longest, padding = len(stem), 0
            rows += [_row(tokens, stem) for tokens in some]
    batches += [_batch(rows)] if rows else []
    saved = sum(len(stem) * (len(some) - 1) for stem, some in groups.items())
    if saved <= CALL_TOKENS * len(batches):
        return [], dict(inputs)
    shared = {tokens for some in groups.values() for tokens in some}
    return batches, {tokens: n for tokens, n in inputs.items() if tokens not in shared}


def stem_arguments(
    model: Any, stems: torch.Tensor, seen: torch.Tensor, stem_of: torch.Tensor, length: int
) -> dict[str, Any]:
    """The mask and cache that rows go through a model with, after reading their stems.

    Args:
        model: The model.
        stems: Tokens padded on the left, (stems, longest).
        seen: 1 where a stem has a token, 0 where padding, (stems, longest).
        stem_of: The stem of each row, (rows,).
        length: Of the rows.
    """
    cache = DynamicCache()
    name = cache_argument(model) or ""
    placed = "position_ids" in inspect.signature(model.forward).parameters
    places = (seen.cumsum(dim=1) - 1).clamp(min=0)
    given = {"position_ids": places} if placed else {}
    model(
        input_ids=stems,
        attention_mask=seen,
        use_cache=True,
        logits_to_keep=1,
        **{name: cache},
        **given,
    )
    cache.batch_select_indices(stem_of)
    mask = torch.cat((seen[stem_of], seen.new_ones(len(stem_of), length)), dim=1)
    if placed:
        columns = torch.arange(length, device=stems.device)
        given = {"position_ids": seen.sum(dim=1)[stem_of].unsqueeze(1) + columns}
    return {"attention_mask": mask, name: cache, **given}


def padded_left(stems: Sequence[Tokens]) -> tuple[torch.Tensor, torch.Tensor]:
    """Stems as `stem_arguments` takes them: tokens, and where there are any."""
    longest = max(map(len, stems))
    tokens = [(0,) * (longest - len(stem)) + stem for stem in stems]
    seen = [(0,) * (longest - len(stem)) + (1,) * len(stem) for stem in stems]
    return torch.tensor(tokens), torch.tensor(seen)


def deepest_with_stem(model: Any) -> int:
    """Longest input that may be laid out so; 0 if that does not give what plain rows give."""
    config = model.config.get_text_config(decoder=True)
    longest = window(config)
    if cache_argument(model) is None or longest <= CONTEXT + CONTINUATION:
        return 0
    try:
        with torch.inference_mode():
            return longest if _agrees(model, int(config.vocab_size)) else 0
    except Exception:  # whatever a model raises on arguments that it does not take
        return 0


def _agrees(model: Any, vocabulary: int) -> bool:
    """Continuations of two contexts of different length, behind their stems and plain."""
    drawn = torch.Generator().manual_seed(0)

    def some(*shape: int) -> torch.Tensor:
        return torch.randint(vocabulary, shape, generator=drawn).to(model.device)

    contexts = [some(CONTEXT), some(CONTEXT - 3)]
    tails = some(2, BRANCHES, CONTINUATION)
    expected = []
    for context, continuations in zip(contexts, tails, strict=True):
        plain = torch.cat((context.expand(BRANCHES, -1), continuations), dim=1)
        logits = model(input_ids=plain, use_cache=False).logits
        expected.append(logits[:, len(context) - 1 :].float())
    stems, seen = (
        one.to(model.device) for one in padded_left([tuple(c[:-1].tolist()) for c in contexts])
    )
    last = torch.stack([context[-1] for context in contexts])
    rows = torch.cat((last[:, None, None].expand(-1, BRANCHES, 1), tails), dim=2).flatten(0, 1)
    stem_of = torch.arange(2, device=model.device).repeat_interleave(BRANCHES)
    given = stem_arguments(model, stems, seen, stem_of, rows.shape[1])
    found = model(input_ids=rows, use_cache=True, **given).logits.float()
    return close(found, torch.cat(expected), model.dtype)


def _batch(rows: Sequence[Row]) -> PackedBatch:
    return PackedBatch((), tuple(sorted(rows, key=lambda row: (-len(row.tokens), row.stem))))


def _row(tokens: Tokens, stem: Tokens) -> Row:
    tail = tokens[len(stem) :]
    places = tuple(range(len(tail)))
    return Row(tail, places, (len(tail) - 1,) * len(tail), {tokens: places}, stem)
