"""Computes log-likelihoods of continuations in batches, with logits only at answer tokens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from evomerge.evaluate.likelihood.attention import (
    model_arguments,
    pending_prefix,
    prefix_cache,
)
from evomerge.evaluate.likelihood.batches import Batch, make_batches, repeated
from evomerge.evaluate.likelihood.context_cache import context_cache_arguments
from evomerge.evaluate.likelihood.read import read_over_logits
from evomerge.evaluate.outcomes import NonFiniteError
from evomerge.evaluate.streamed.streamed import streamed_of, together
from evomerge.evaluate.token_requests import Pair, Tokens

# Logits are read in slices of at most this many numbers (a quarter of a GiB in float32).
MAX_LOGITS = 1 << 26


@dataclass(frozen=True)
class Likelihood:
    """The likelihood of one pair.

    Attributes:
        log_probabilities: Of each continuation token, then of the ending if it counts; nats.
        margins: Logit of each of these tokens minus the best other token's, in standard deviations
            of all logits at that position; positive where greedy decoding agrees.
        is_greedy: Whether greedy decoding gives the continuation (the ending left aside).
        n_tokens: Length of the continuation, without the ending.
    """

    log_probabilities: np.ndarray
    margins: np.ndarray
    is_greedy: bool
    n_tokens: int

    @property
    def total(self) -> float:
        """Log-likelihood of the continuation, in nats, without the ending."""
        return float(self.log_probabilities[: self.n_tokens].sum())


@dataclass(frozen=True)
class Likelihoods(Sequence[Likelihood]):
    """The likelihoods of many pairs: one column for each predicted token.

    Attributes:
        table: Log-probability, margin, and whether greedy decoding agrees, (3, positions).
        starts: First position of each pair, (pairs,).
        stops: One past its last position, the ending's included.
        n_tokens: Length of each pair's continuation.
    """

    table: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    n_tokens: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, number: Any) -> Any:
        start, stop, n_tokens = self.starts[number], self.stops[number], self.n_tokens[number]
        log_probabilities, margins, greedy = self.table[:, start:stop]
        return Likelihood(log_probabilities, margins, bool(greedy[:n_tokens].all()), int(n_tokens))

    @cached_property
    def totals(self) -> np.ndarray:
        """Log-likelihood of each pair's continuation, in nats, (pairs,)."""
        return self._reduced(np.add, self.table[0], self.starts + self.n_tokens)

    @cached_property
    def are_greedy(self) -> np.ndarray:
        """True where greedy decoding gives a pair's continuation, (pairs,)."""
        return self._reduced(np.minimum, self.table[2], self.starts + self.n_tokens) > 0

    def reduced(self, reduction: np.ufunc, values: np.ndarray) -> np.ndarray:
        """Reduce the values at each pair's positions, its ending's included, to one."""
        return self._reduced(reduction, values, self.stops)

    def _reduced(self, reduction: np.ufunc, values: np.ndarray, stops: np.ndarray) -> np.ndarray:
        if not len(self):
            return np.zeros(0)
        order = np.argsort(self.starts)
        edges = np.stack((self.starts[order], stops[order]), axis=1).ravel()
        reduced = np.empty(len(self))
        reduced[order] = reduction.reduceat(np.append(values, 0.0), edges)[::2]
        return reduced


class Forward:
    """Runs batches through a model and reads off the likelihoods.

    Attributes:
        seconds: Time spent in `__call__` so far; the caller may reset it.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.seconds = 0.0

    def __call__(self, batches: Sequence[Batch], pairs: Sequence[Pair]) -> Likelihoods:
        """Compute the likelihood of every pair.

        Raises:
            NonFiniteError: If a logit that was read is NaN or infinite.
        """
        return self.each([(batches, pairs)])[0]

    def each(self, requests: Sequence[tuple[Sequence[Batch], Sequence[Pair]]]) -> list[Likelihoods]:
        """Compute the likelihoods of several lists of pairs, in one pass of a streamed model.

        Raises:
            NonFiniteError: If a logit that was read is NaN or infinite.
        """
        began = time.perf_counter()
        with torch.inference_mode():
            run = self._one_by_one if streamed_of(self.model) is None else self._in_one_pass
            tables = run([(batch, pairs) for batches, pairs in requests for batch in batches])
        likelihoods = []
        for batches, pairs in requests:
            mine = [next(tables) for _ in batches]
            spans = _spans(batches, [table.shape[1] for table in mine], pairs)
            table = np.concatenate([np.zeros((3, 0)), *mine], axis=1)
            likelihoods.append(Likelihoods(table, *spans))
        self.seconds += time.perf_counter() - began
        return likelihoods

    def _one_by_one(self, batches: Sequence[tuple[Batch, Sequence[Pair]]]) -> Iterator[np.ndarray]:
        tables = []
        prefix: tuple[Tokens, Any] = ((), None)
        for batch, pairs in batches:
            if batch.prefix != prefix[0]:
                prefix = batch.prefix, _prefix(self.model, batch)
            tables.append(self._run(batch, pairs, prefix[1]))
        return iter(tables)

    def _in_one_pass(self, batches: Sequence[tuple[Batch, Sequence[Pair]]]) -> Iterator[np.ndarray]:
        """Run all batches together, and before them in each layer the prefixes of some.

        Contexts that are read before their rows take a pass more, and their prefixes another.
        """
        caches: dict[Tokens, Any] = {(): None}
        first: dict[Tokens, Callable[[], None]] = {}  # whole before a batch begins
        beside: dict[Tokens, Callable[[], None]] = {}
        for batch, _ in batches:
            if batch.prefix not in caches:
                tokens = torch.tensor(batch.prefix).to(batch.inputs.device)
                caches[batch.prefix], beside[batch.prefix] = pending_prefix(self.model, tokens)
            if batch.contexts is not None and batch.prefix in beside:
                first[batch.prefix] = beside.pop(batch.prefix)
        together(self.model, list(first.values()))
        runs = [partial(self._run, batch, pairs, caches[batch.prefix]) for batch, pairs in batches]
        tables: list[Any] = together(self.model, [*beside.values(), *runs])
        return iter(tables[len(beside) :])

    def side_by_side(
        self, batches: Sequence[Batch], pairs: Sequence[Pair], models: int
    ) -> list[Likelihoods | None]:
        """Compute the likelihoods of every pair under each of the models side by side.

        Args:
            batches: As for one model, without cached contexts.
            pairs: What they hold.
            models: How many there are (`side_by_side.side_by_side`).

        Returns:
            One for each model; ``None`` where a logit that was read is NaN or infinite.
        """
        began = time.perf_counter()
        tables = [np.zeros((models, 3, 0))]
        prefix: tuple[Tokens, Any] = ((), None)
        with torch.inference_mode():
            for batch in batches:
                if batch.prefix != prefix[0]:
                    prefix = batch.prefix, _prefix(self.model, batch, models)
                table = self._read(repeated(batch, models), prefix[1])
                tables.append(table.reshape(3, models, -1).swapaxes(0, 1))
        positions = [table.shape[2] for table in tables[1:]]
        spans = _spans(batches, positions, pairs)
        self.seconds += time.perf_counter() - began
        return [
            Likelihoods(table, *spans) if np.isfinite(table[0]).all() else None
            for table in np.concatenate(tables, axis=2)
        ]

    def _run(self, batch: Batch, pairs: Sequence[Pair], prefix: Any) -> np.ndarray:
        """Return `_read`'s table, with broken inputs looked at by themselves."""
        table = self._read(batch, prefix)
        broken = ~np.isfinite(table[0])
        if not broken.any():
            return table
        if batch.last is not None:
            # One broken input breaks the whole row that it shares: look at each by itself.
            return self._alone(batch, pairs)
        first = int(np.searchsorted(batch.starts, int(broken.argmax()), side="right")) - 1
        raise NonFiniteError(*pairs[batch.pairs[first]].owner)

    def _read(self, batch: Batch, prefix: Any) -> np.ndarray:
        """Return log-probability, margin, and whether the argmax is a target, (3, positions)."""
        logits = selected_logits(self.model, batch, prefix)
        step = max(1, MAX_LOGITS // logits.shape[-1])
        parts = [
            read_over_logits(
                logits[i : i + step],
                batch.targets[i : i + step],
                None if batch.absent is None else batch.absent[i : i + step],
            )
            for i in range(0, len(logits), step)
        ]
        table: np.ndarray = torch.cat(parts, dim=1).double().cpu().numpy()
        return table

    def _alone(self, batch: Batch, pairs: Sequence[Pair]) -> np.ndarray:
        """Return the same as `_run`, computed in plain rows."""
        assert batch.depths is not None
        batched = [pairs[number] for number in batch.pairs]
        rows = max(1, len(batch.inputs))
        plain = make_batches(batched, rows, int(batch.depths.max()) + 1, batch.inputs.device)
        likelihoods = Forward(self.model)(plain, batched)
        spans = zip(likelihoods.starts, likelihoods.stops, strict=True)
        return np.concatenate([likelihoods.table[:, start:stop] for start, stop in spans], axis=1)


def selected_logits(model: Any, batch: Batch, prefix: Any = None) -> torch.Tensor:
    """Compute logits at a batch's positions only, through the architecture's own head.

    A hook drops the other positions just before the output embedding, so what the architecture
    does after it (soft-capping, scaling) still happens. A model without such a head computes all
    logits.

    Args:
        model: A causal LM.
        batch: Its inputs, and the positions that are wanted.
        prefix: The `attention.prefix_cache` of the batch's prefix.

    Returns:
        Logits in float32, (positions, vocabulary).
    """
    rows, columns = batch.rows, batch.columns
    use_cache = prefix is not None or batch.contexts is not None
    arguments = {}
    if batch.contexts is not None:
        length = batch.inputs.shape[1]
        arguments = context_cache_arguments(model, batch.contexts, length, prefix)
    elif batch.depths is not None and batch.last is not None:
        arguments = model_arguments(model, batch.depths, batch.last, prefix)
    head = model.get_output_embeddings()
    hook = None
    if head is not None:
        shape, caller = batch.inputs.shape, threading.get_ident()

        def select(_: Any, hidden: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if threading.get_ident() == caller and hidden and hidden[0].shape[:2] == shape:
                here = hidden[0].device  # the last layer's, where a model is spread
                selected = hidden[0][rows.to(here), columns.to(here)]
                return (selected.unsqueeze(0), *hidden[1:])
            return None

        hook = head.register_forward_pre_hook(select)
    try:
        logits = model(input_ids=batch.inputs, use_cache=use_cache, **arguments).logits
    finally:
        if hook is not None:
            hook.remove()
    if logits.shape[:2] == (1, len(rows)):
        return logits[0].float()  # type: ignore[no-any-return]
    return logits[rows, columns].float()  # type: ignore[no-any-return]


def _prefix(model: Any, batch: Batch, models: int = 1) -> Any:
    if not batch.prefix:
        return None
    return prefix_cache(model, torch.tensor(batch.prefix).to(batch.inputs.device), models)


def _spans(
    batches: Sequence[Batch], positions: Sequence[int], pairs: Sequence[Pair]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each pair's first position, one past its last, and its continuation's length."""
    starts, stops = np.zeros(len(pairs), int), np.zeros(len(pairs), int)
    offset = 0
    for batch, count in zip(batches, positions, strict=True):
        starts[batch.pairs] = batch.starts + offset
        offset += count
        stops[batch.pairs] = np.append(starts[batch.pairs][1:], offset)
    n_tokens = np.array([len(pair.continuation) for pair in pairs], int)
    return starts, stops, n_tokens
