"""Turns pairs into batches of tensors: inputs are shared, sorted, packed and padded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from evomerge.evaluate.likelihood.context_cache import (
    CachedContexts,
    ContextCacheSupport,
    pack_by_context,
    pad_left,
)
from evomerge.evaluate.likelihood.packing import PackedBatch, PackedRow, pack
from evomerge.evaluate.token_requests import Pair, Tokens

# A batch computes at most this many logits (half a GiB in float32), unless one row alone has more.
MAX_BATCH_LOGITS = 1 << 27


@dataclass(frozen=True)
class Batch:
    """Rows that go through the model together; a position is one predicted token of one pair."""

    prefix: Tokens  # tokens that all rows begin with, left out of `inputs`
    inputs: torch.Tensor  # (rows, length), right-padded with 0
    depths: torch.Tensor | None  # (rows, length), position of each token in its input; None: causal
    last: torch.Tensor | None  # (rows, length), the column of each token's last descendant
    rows: torch.Tensor  # (positions,)
    columns: torch.Tensor  # (positions,)
    targets: torch.Tensor  # (positions, alternatives)
    absent: torch.Tensor | None  # (positions, alternatives), where an alternative is padding
    starts: np.ndarray  # (pairs,) first position of each pair
    pairs: np.ndarray  # (pairs,) their numbers in the list that was batched
    contexts: CachedContexts | None = None  # contexts that the rows continue


def make_batches(
    pairs: Sequence[Pair],
    batch_size: int,
    max_length: int,
    device: torch.device | str,
    max_packed_length: int = 0,
    vocabulary_size: int = 1,
    hidden_size: int = 64,
    context_cache: ContextCacheSupport | None = None,
) -> list[Batch]:
    """Return share, sort and pad the inputs of pairs.

    Pairs with the same model input (such as one-token choices after one context) share a row, and
    inputs share their common prefixes where the model takes packed rows. A batch depends on which
    pairs there are, not on their order. As in lm-eval, an input longer than `max_length` loses its
    left end.

    Args:
        pairs: The pairs to score.
        batch_size: Most rows in a batch.
        max_length: Longest input that the model takes.
        device: Where the model is.
        max_packed_length: Longest input that may be packed (`attention.max_packed_length`).
        vocabulary_size: Logits at each position; bounds the positions that a batch reads.
        hidden_size: Size of the model's hidden states.
        context_cache: Inputs that may follow a cached context, if the model takes no packed rows.
    """
    sharing: dict[Tokens, list[int]] = {}
    context: dict[Tokens, int] = {}
    for number, pair in enumerate(pairs):
        row = model_input(pair, max_length)
        sharing.setdefault(row, []).append(number)
        length = len(row) - (len(pair.continuation) - (not pair.endings))
        context[row] = min(length, context.get(row, length))
    cached, rest = pack_by_context(context, batch_size, context_cache or ContextCacheSupport())
    return [
        _make_batch(part, sharing, pairs, device)
        for packed in (*cached, *pack(rest, batch_size, max_packed_length, hidden_size))
        for part in _parts(packed, sharing, pairs, MAX_BATCH_LOGITS // vocabulary_size)
    ]


def sizes_of(model: Any) -> tuple[int, int]:
    """Return what batches depend on: rows of the head, and the width of the hidden states."""
    config = model.config.get_text_config(decoder=True)
    return int(config.vocab_size), int(getattr(config, "hidden_size", 64))


def model_input(pair: Pair, max_length: int) -> Tokens:
    """Return the tokens that a model reads to score a pair."""
    tokens = pair.context + pair.continuation
    # The last token predicts nothing that is asked for, unless an ending is.
    return tokens[-max_length:] if pair.endings else tokens[-(max_length + 1) :][:-1]


def repeated(batch: Batch, copies: int) -> Batch:
    """Return a batch of several times the same rows, copy after copy.

    Its positions are those of the first copy, then those of the second, and so on.
    """
    assert batch.contexts is None, "cached contexts are not repeated"
    offsets = torch.arange(copies, device=batch.rows.device).repeat_interleave(len(batch.rows))
    return replace(
        batch,
        inputs=batch.inputs.repeat(copies, 1),
        depths=None if batch.depths is None else batch.depths.repeat(copies, 1),
        last=None if batch.last is None else batch.last.repeat(copies, 1),
        rows=batch.rows.repeat(copies) + offsets * len(batch.inputs),
        columns=batch.columns.repeat(copies),
        targets=batch.targets.repeat(copies, 1),
        absent=None if batch.absent is None else batch.absent.repeat(copies, 1),
    )


def _make_batch(
    packed: PackedBatch,
    sharing: Mapping[Tokens, Sequence[int]],
    pairs: Sequence[Pair],
    device: torch.device | str,
) -> Batch:
    rows: list[int] = []
    columns: list[int] = []
    targets: list[Tokens] = []
    starts: list[int] = []
    numbers: list[int] = []
    for number, row in enumerate(packed.rows):
        for tokens, path in row.paths.items():
            for sharer in sharing[tokens]:
                pair = pairs[sharer]
                wanted: list[Tokens] = [(token,) for token in pair.continuation]
                wanted += [pair.endings] if pair.endings else []
                starts.append(len(targets))
                numbers.append(sharer)
                rows += [number] * len(wanted)
                columns += path[len(path) - len(wanted) :]
                targets += wanted
    width = max(map(len, targets))
    padded = [one + one[:1] * (width - len(one)) for one in targets]
    absent = None
    if width > 1:
        absent = torch.tensor([[k >= len(one) for k in range(width)] for one in targets])
        absent = absent.to(device)
    contexts = _contexts(packed, device)
    is_chain = not packed.prefix and all(row.is_chain for row in packed.rows)
    causal = contexts is not None or is_chain
    return Batch(
        prefix=packed.prefix,
        inputs=_padded([row.tokens for row in packed.rows]).to(device),
        depths=None if causal else _padded([row.depths for row in packed.rows]).to(device),
        last=None if causal else _padded([row.last for row in packed.rows]).to(device),
        rows=torch.tensor(rows).to(device),
        columns=torch.tensor(columns).to(device),
        targets=torch.tensor(padded).to(device),
        absent=absent,
        starts=np.array(starts),
        pairs=np.array(numbers),
        contexts=contexts,
    )


def _contexts(packed: PackedBatch, device: torch.device | str) -> CachedContexts | None:
    contexts = sorted({row.context for row in packed.rows} - {()})
    if not contexts:
        return None
    tokens, seen = pad_left(contexts)
    context_of = torch.tensor([contexts.index(row.context) for row in packed.rows])
    return CachedContexts(tokens.to(device), seen.to(device), context_of.to(device))


def _parts(
    packed: PackedBatch,
    sharing: Mapping[Tokens, Sequence[int]],
    pairs: Sequence[Pair],
    max_positions: int,
) -> Iterator[PackedBatch]:
    """Cut a batch so that no part reads more than `max_positions`, unless a single row does."""
    rows: list[PackedRow] = []
    positions = 0
    for row in packed.rows:
        sharers = [pairs[number] for tokens in row.paths for number in sharing[tokens]]
        wanted = sum(len(pair.continuation) + bool(pair.endings) for pair in sharers)
        if rows and positions + wanted > max_positions:
            yield replace(packed, rows=tuple(rows))
            rows, positions = [], 0
        rows.append(row)
        positions += wanted
    yield replace(packed, rows=tuple(rows))


def _padded(rows: Sequence[Tokens]) -> torch.Tensor:
    length = len(rows[0])  # the longest: rows come sorted
    return torch.tensor([row + (0,) * (length - len(row)) for row in rows])
