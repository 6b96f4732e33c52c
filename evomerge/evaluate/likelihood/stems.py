"""Contexts read once for their choices, on models that take no block mask.

Where attention's bias is the architecture's own affair (ALiBi: Bloom, MPT, Falcon), choices cannot
share a row with their context. They can still share its keys and values: contexts go through the
model together, padded on the left, and every choice is a row of its own that looks back at its
context. What several contexts begin with (examples, a description) is read once before them, unless
the bias counts padding as distance (MPT). What a model allows is found out by trying.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache

from evomerge.evaluate.likelihood.attention import (
    BRANCHES,
    CONTEXT,
    CONTINUATION,
    close,
    growing_cache,
    prefix_cache,
    window,
)
from evomerge.evaluate.likelihood.packing import (
    CALL_TOKENS,
    PackedBatch,
    Row,
    Tokens,
    n_tokens,
    prefix_groups,
)
from evomerge.evaluate.model import cache_argument


@dataclass(frozen=True)
class Depth:
    """How deep a model may be read behind stems.

    Attributes:
        longest: Longest input; 0 if the model does not give so what plain rows give.
        prefixes: Whether stems may follow a prefix that several of them share.
    """

    longest: int = 0
    prefixes: bool = False


def pack_stems(
    inputs: Mapping[Tokens, int], batch_size: int, depth: Depth
) -> tuple[list[PackedBatch], dict[Tokens, int]]:
    """Lay out the inputs that share their context with others; the result depends on the set alone.

    Args:
        inputs: For each input how many of its first tokens are context.
        batch_size: Most rows in a batch.
        depth: What the model allows.

    Returns:
        Batches whose rows have a stem (the context but for its last token, which predicts), and
        the inputs that are better off in plain rows.
    """
    groups: dict[Tokens, list[Tokens]] = {}
    for tokens in sorted(inputs):
        if len(tokens) <= depth.longest:
            groups.setdefault(tokens[: inputs[tokens] - 1], []).append(tokens)
    groups = {stem: some for stem, some in groups.items() if stem and len(some) > 1}
    batches: list[PackedBatch] = []
    stem_of = {tokens: inputs[tokens] - 1 for some in groups.values() for tokens in some}
    several = sorted(groups.values())
    cuts = prefix_groups(several, stem_of) if depth.prefixes else [((), several)]
    for prefix, some in cuts:  # a token of each stem is left
        stems = {group[0][len(prefix) : stem_of[group[0]]]: group for group in some}
        batches += _batches(prefix, stems, batch_size)
    if sum(map(len, stem_of)) - n_tokens(batches) <= CALL_TOKENS * len(batches):
        return [], dict(inputs)
    return batches, {tokens: n for tokens, n in inputs.items() if tokens not in stem_of}


def stem_arguments(
    model: Any,
    stems: torch.Tensor,
    seen: torch.Tensor,
    stem_of: torch.Tensor,
    length: int,
    prefix: Cache | None = None,
) -> dict[str, Any]:
    """The mask and cache that rows go through a model with, after reading their stems.

    Args:
        model: The model.
        stems: Tokens padded on the left, (stems, longest).
        seen: 1 where a stem has a token, 0 where padding, (stems, longest).
        stem_of: The stem of each row, (rows,).
        length: Of the rows.
        prefix: What `packed.prefix_cache` gave, if the stems begin with a prefix.
    """
    cache = DynamicCache() if prefix is None else growing_cache(prefix, len(stems))
    seen = torch.nn.functional.pad(seen, (cache.get_seq_length(), 0), value=1)
    name = cache_argument(model) or ""
    placed = "position_ids" in inspect.signature(model.forward).parameters
    places = (seen.cumsum(dim=1) - 1).clamp(min=0)[:, -stems.shape[1] :]
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


def stem_depth(model: Any) -> Depth:
    """What a model allows, found out by trying."""
    config = model.config.get_text_config(decoder=True)
    longest = window(config)
    if cache_argument(model) is None or longest <= CONTEXT + CONTINUATION:
        return Depth()
    try:
        with torch.inference_mode():
            alone, behind = (_agrees(model, int(config.vocab_size), skip) for skip in (0, 2))
    except Exception:  # whatever a model raises on arguments that it does not take
        return Depth()
    return Depth(longest, behind) if alone else Depth()


def _agrees(model: Any, vocabulary: int, skip: int) -> bool:
    """Continuations of two contexts of different length, behind their stems and plain.

    The contexts begin with `skip` common tokens, which are a prefix.
    """
    drawn = torch.Generator().manual_seed(0)

    def some(*shape: int) -> torch.Tensor:
        return torch.randint(vocabulary, shape, generator=drawn).to(model.device)

    common = some(skip)
    contexts = [torch.cat((common, some(n - skip))) for n in (CONTEXT, CONTEXT - 3)]
    tails = some(2, BRANCHES, CONTINUATION)
    expected = []
    for context, continuations in zip(contexts, tails, strict=True):
        plain = torch.cat((context.expand(BRANCHES, -1), continuations), dim=1)
        logits = model(input_ids=plain, use_cache=False).logits
        expected.append(logits[:, len(context) - 1 :].float())
    last = torch.stack([context[-1] for context in contexts])
    rows = torch.cat((last[:, None, None].expand(-1, BRANCHES, 1), tails), dim=2).flatten(0, 1)
    stem_of = torch.arange(2, device=model.device).repeat_interleave(BRANCHES)
    told = padded_left([tuple(context[skip:-1].tolist()) for context in contexts])
    stems, seen = (one.to(model.device) for one in told)
    prefix = prefix_cache(model, common) if skip else None
    given = stem_arguments(model, stems, seen, stem_of, rows.shape[1], prefix)
    found = model(input_ids=rows, use_cache=True, **given).logits.float()
    return close(found, torch.cat(expected), model.dtype)


def _batches(
    prefix: Tokens, groups: Mapping[Tokens, Sequence[Tokens]], batch_size: int
) -> list[PackedBatch]:
    """Stems with their inputs, the longest first; what is padded costs no more than a call."""
    batches: list[PackedBatch] = []
    rows: list[Row] = []
    padding = longest = 0
    for stem in sorted(groups, key=lambda stem: (-len(stem), stem)):
        for start in range(0, len(groups[stem]), batch_size):
            some = groups[stem][start : start + batch_size]
            padding += longest - len(stem)
            if rows and (len(rows) + len(some) > batch_size or padding > CALL_TOKENS):
                batches.append(_batch(prefix, rows))
                rows = []
            if not rows:
                longest, padding = len(stem), 0
            rows += [_row(tokens, stem, len(prefix)) for tokens in some]
    return [*batches, _batch(prefix, rows)] if rows else batches


def _batch(prefix: Tokens, rows: Sequence[Row]) -> PackedBatch:
    ordered = sorted(rows, key=lambda row: (-len(row.tokens), row.stem, row.tokens))
    return PackedBatch(prefix, tuple(ordered))


def _row(tokens: Tokens, stem: Tokens, skip: int) -> Row:
    tail = tokens[skip + len(stem) :]
    places = tuple(range(len(tail)))
    return Row(tail, places, (len(tail) - 1,) * len(tail), {tokens: places}, stem)
