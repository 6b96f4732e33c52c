"""Runs packed rows through a model with block masks, positions and shared prefixes.

In a row packed by `packing`, each token must see its ancestors alone, at its own position. Most
causal models take a ready-made 4-D mask and position ids. `packing_support` tries out whether a
model does, and gives the logits of plain rows; a model that does not is scored in plain rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from evomerge.evaluate.likelihood.agreement import Agreement, agreement
from evomerge.evaluate.model import cache_argument
from evomerge.evaluate.streamed.streamed import together

# Lengths of the contexts and continuations in the trial, and the continuations of each context.
CONTEXT, CONTINUATION, BRANCHES = 7, 3, 3


class _PrefixLayer(DynamicLayer):  # type: ignore[no-untyped-call]  # its base has no hints
    """Keys and values of a prefix, which any number of rows read and none adds to.

    Where several models run side by side each has its own: rows are in the models' order.
    """

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.keys is not None
        assert self.values is not None
        rows = len(key_states)
        keys, values = (_for_rows(one, rows) for one in (self.keys, self.values))
        return torch.cat((keys, key_states), dim=-2), torch.cat((values, value_states), dim=-2)


def _for_rows(states: torch.Tensor, rows: int) -> torch.Tensor:
    """Give each row the states of its model, (models, heads, length, size)."""
    if len(states) == 1:
        return states.expand(rows, -1, -1, -1)
    return states.repeat_interleave(rows // len(states), dim=0)


def prefix_cache(model: Any, prefix: torch.Tensor, copies: int = 1) -> Cache:
    """Compute the keys and values of `prefix` (length,) once, for all rows that begin with it.

    Args:
        model: The model, or several side by side (`side_by_side`).
        prefix: The tokens.
        copies: How many models run side by side.
    """
    cache = DynamicCache()  # no windows: a row that is longer than a window is never packed
    arguments: dict[str, Any] = {cache_argument(model) or "": cache, "logits_to_keep": 1}
    model(input_ids=prefix.expand(copies, -1), use_cache=True, **arguments)
    computed: Any
    layers: list[Any] = []
    for computed in cache.layers:
        layer = _PrefixLayer()  # type: ignore[no-untyped-call]
        layer.lazy_initialization(computed.keys, computed.values)
        layer.keys, layer.values = computed.keys, computed.values
        layers.append(layer)
    return Cache(layers=layers)


class _PendingLayer(_PrefixLayer):  # type: ignore[no-untyped-call]  # its base has no hints
    """A layer of a prefix that passes each layer of the model just before the rows behind it."""

    def __init__(self, computed: DynamicCache, number: int, length: int):
        super().__init__()  # type: ignore[no-untyped-call]
        self._computed, self._number, self._length = computed, number, length

    def get_seq_length(self) -> int:
        return self._length

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *more: Any, **named: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        computed: Any = self._computed.layers[self._number]
        self.keys, self.values = computed.keys, computed.values
        return super().update(key_states, value_states, *more, **named)


def pending_prefix(model: Any, prefix: torch.Tensor) -> tuple[Cache, Callable[[], None]]:
    """Return the `prefix_cache` of a prefix, and the call that computes it.

    Rows may go behind it once that call has passed the layer that they are in: both go through a
    streamed model in one pass.
    """
    computed = DynamicCache()
    n_layers = model.config.get_text_config(decoder=True).num_hidden_layers
    length = len(prefix)
    cache = Cache(layers=[_PendingLayer(computed, number, length) for number in range(n_layers)])
    arguments: dict[str, Any] = {cache_argument(model) or "": computed, "logits_to_keep": 1}

    def compute() -> None:
        model(input_ids=prefix.unsqueeze(0), use_cache=True, **arguments)

    return cache, compute


def growing_cache(prefix: Cache, rows: int) -> DynamicCache:
    """Make a cache for `rows` rows that begin with a prefix and go on, as decoding does."""
    cache = DynamicCache()
    computed: Any
    for number, computed in enumerate(prefix.layers):
        keys, values = (one.expand(rows, -1, -1, -1) for one in (computed.keys, computed.values))
        cache.update(keys, values, number)
    return cache


def model_arguments(
    model: Any, depths: torch.Tensor, last: torch.Tensor, prefix: Cache | None
) -> dict[str, Any]:
    """Make the mask, positions and cache that packed rows go through a model with.

    Args:
        model: The model.
        depths: Each token's position in its own input, (rows, length).
        last: The column of each token's last descendant, (rows, length).
        prefix: The `prefix_cache` of the rows, if they begin with a prefix.
    """
    columns = torch.arange(depths.shape[1], device=depths.device)
    # (rows, query, key): keys at or before the query whose descendants reach it. A padding token
    # sees itself, so that no row of the softmax is empty.
    seen = (columns[:, None] >= columns[None, :]) & (columns[:, None] <= last[:, None, :])
    seen |= columns[:, None] == columns[None, :]
    dtype = model.dtype
    lowest = torch.finfo(dtype).min
    mask = torch.zeros(seen.shape, dtype=dtype, device=depths.device).masked_fill_(~seen, lowest)
    if prefix is not None:
        mask = torch.nn.functional.pad(mask, (prefix.get_seq_length(), 0))
    arguments: dict[str, Any] = {"attention_mask": mask.unsqueeze(1), "position_ids": depths}
    if prefix is not None:
        arguments[cache_argument(model) or ""] = prefix
    return arguments


@dataclass(frozen=True)
class PackingSupport:
    """The longest input that may be packed, 0 if none may, and the reason in words."""

    max_length: int
    why_not: str = ""


def packing_support(model: Any) -> PackingSupport:
    """Try out whether packed rows leave a model's logits as they are.

    Inputs longer than an attention window are left alone: the mask of packed rows has no window.
    """
    config = model.config.get_text_config(decoder=True)
    longest = attention_window(config)
    if longest <= CONTEXT + CONTINUATION:
        return PackingSupport(0, f"its attention window has {longest} tokens")
    try:
        with torch.inference_mode():
            agreed = _try_packed_rows(model, int(config.vocab_size), longest)
    except Exception as error:  # whatever a model raises on arguments that it does not take
        return PackingSupport(0, f"it takes no block mask: {type(error).__name__}")
    return PackingSupport(longest) if agreed else PackingSupport(0, f"logits differ by {agreed}")


def max_packed_length(model: Any) -> int:
    """Return the longest input that may be packed; 0 if packed rows change the model's logits."""
    return packing_support(model).max_length


def attention_window(config: Any) -> int:
    """Return the longest length at which every token of an input sees all those before it."""
    names = ("sliding_window", "attention_chunk_size", "window_size", "local_attention")
    windows = [getattr(config, name, None) for name in names]
    longest = getattr(config, "max_position_embeddings", None) or 1 << 30
    return int(min(size for size in (*windows, longest) if isinstance(size, int) and size > 0))


def _try_packed_rows(model: Any, vocabulary_size: int, longest: int) -> Agreement:
    """Compare two contexts with continuations: both in one row, one behind a prefix, and plain.

    Continuations differ from each other, so a mask that leaks between them shows.
    """
    device = model.device
    length = CONTEXT + BRANCHES * CONTINUATION
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocabulary_size, (2, length), generator=generator).to(device)
    starts = range(CONTEXT, length, CONTINUATION)
    branches = [[*range(CONTEXT), *range(start, start + CONTINUATION)] for start in starts]
    plain = torch.stack([row[branch] for row in tokens for branch in branches])
    positions = [*range(CONTEXT), *[CONTEXT + i for i in range(CONTINUATION)] * BRANCHES]
    ends = [length - 1] * CONTEXT
    for start in starts:
        ends += [start + CONTINUATION - 1] * CONTINUATION
    depths = torch.tensor([positions], device=device)
    last = torch.tensor([ends], device=device)

    forest = model_arguments(
        model, torch.cat((depths, depths), dim=1), torch.cat((last, last + length), dim=1), None
    )
    packed_rows = partial(_logits, model, tokens.reshape(1, -1), **forest)
    expected, logits = together(model, [partial(_logits, model, plain), packed_rows])
    expected, logits = expected[:, CONTEXT - 1 :], logits[0]
    columns = [[row * length + c for c in branch] for row in range(2) for branch in branches]
    packed = torch.stack([logits[c] for c in columns])[:, CONTEXT - 1 :]

    skip = CONTEXT - 1  # the last token of a context stays in its row: it predicts
    behind = model_arguments(
        model, depths[:, skip:], last[:, skip:] - skip, prefix_cache(model, tokens[0, :skip])
    )
    logits = model(input_ids=tokens[:1, skip:], use_cache=True, **behind).logits[0]
    shared = torch.stack([logits[[c - skip for c in branch[skip:]]] for branch in branches])

    computed = torch.cat((packed, shared)), torch.cat((expected, expected[:BRANCHES]))
    return agreement(model, *computed, plain, longest)


def _logits(model: Any, inputs: torch.Tensor, **arguments: Any) -> Any:
    return model(input_ids=inputs, use_cache=False, **arguments).logits
