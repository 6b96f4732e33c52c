"""Log-likelihoods of continuations: one batched forward, logits only where an answer token is."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from evomerge.evaluate.likelihood.attention import model_arguments, prefix_cache
from evomerge.evaluate.likelihood.packing import PackedBatch, Row, pack
from evomerge.evaluate.likelihood.stems import Depth, pack_stems, padded_left, stem_arguments
from evomerge.evaluate.outcomes import NonFiniteError

# Logits are read in slices of at most this many numbers (a quarter of a GiB in float32).
MAX_LOGITS = 1 << 26
# A batch computes at most this many (half a GiB in float32), unless one row alone has more.
MAX_BATCH_LOGITS = 1 << 27


@dataclass(frozen=True)
class Pair:
    """A continuation to score after a context, in tokens.

    Attributes:
        owner: (task, doc_id), for messages.
        context: Tokens that are given; never empty.
        continuation: Tokens whose likelihood is wanted; never empty.
        endings: Tokens any one of which would rightly follow the continuation; their joint
            probability counts as one more token. Empty: what follows does not matter.
    """

    owner: tuple[str, int]
    context: tuple[int, ...]
    continuation: tuple[int, ...]
    endings: tuple[int, ...] = ()


@dataclass(frozen=True)
class Likelihood:
    """What the model says of a pair.

    Attributes:
        log_probabilities: Of each continuation token, then of the ending if it counts; nats.
        margins: Logit of each of these tokens minus the best other token's, in standard deviations
            of all logits at that place; positive where greedy decoding agrees.
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
    """What the model says of many pairs: one column for each predicted token.

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
        """Whether greedy decoding gives each pair's continuation, (pairs,)."""
        return self._reduced(np.minimum, self.table[2], self.starts + self.n_tokens) > 0

    def reduced(self, reduction: np.ufunc, values: np.ndarray) -> np.ndarray:
        """Reduce the values of each pair's positions, its ending's included, to one."""
        return self._reduced(reduction, values, self.stops)

    def _reduced(self, reduction: np.ufunc, values: np.ndarray, stops: np.ndarray) -> np.ndarray:
        if not len(self):
            return np.zeros(0)
        order = np.argsort(self.starts)
        edges = np.stack((self.starts[order], stops[order]), axis=1).ravel()
        found = np.empty(len(self))
        found[order] = reduction.reduceat(np.append(values, 0.0), edges)[::2]
        return found


@dataclass(frozen=True)
class Batch:
    """Rows that go through the model together; a position is one predicted token of one pair."""

    prefix: tuple[int, ...]  # tokens that all rows begin with, left out of `inputs`
    inputs: torch.Tensor  # (rows, length), right-padded with 0
    depths: torch.Tensor | None  # (rows, length), each token's place in its own input; None: causal
    last: torch.Tensor | None  # (rows, length), the column of each token's last descendant
    rows: torch.Tensor  # (positions,)
    columns: torch.Tensor  # (positions,)
    targets: torch.Tensor  # (positions, alternatives)
    absent: torch.Tensor | None  # (positions, alternatives), where an alternative is padding
    starts: np.ndarray  # (pairs,) first position of each pair
    pairs: np.ndarray  # (pairs,) their numbers in the list that was batched
    stems: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None  # as `stem_arguments` has


def make_batches(
    pairs: Sequence[Pair],
    batch_size: int,
    max_length: int,
    device: torch.device | str,
    deepest: int = 0,
    vocabulary: int = 1,
    width: int = 64,
    depth: Depth | None = None,
) -> list[Batch]:
    """Share, sort and pad.

    Pairs with the same model input (such as one-token choices after one context) share a row, and
    inputs that begin alike share their beginning where the model takes packed rows. A batch depends
    on which pairs there are, not on their order. As in lm-eval, an input longer than `max_length`
    loses its left end.

    Args:
        pairs: What to score.
        batch_size: Most rows in a batch.
        max_length: Longest input that the model takes.
        device: Where the model is.
        deepest: Longest input that the model takes in a packed row (`packed.deepest`).
        vocabulary: How many logits a position has; bounds how many positions a batch reads.
        width: Size of the model's hidden states.
        depth: What the model takes behind stems (`stems.stem_depth`), if it takes no packed rows.
    """
    sharing: dict[tuple[int, ...], list[int]] = {}
    context: dict[tuple[int, ...], int] = {}
    for number, pair in enumerate(pairs):
        row = model_input(pair, max_length)
        sharing.setdefault(row, []).append(number)
        given = len(row) - (len(pair.continuation) - (not pair.endings))
        context[row] = min(given, context.get(row, given))
    stemmed, rest = pack_stems(context, batch_size, depth or Depth())
    return [
        _make_batch(part, sharing, pairs, device)
        for packed in (*stemmed, *pack(rest, batch_size, deepest, width))
        for part in _parts(packed, sharing, pairs, MAX_BATCH_LOGITS // vocabulary)
    ]


def model_input(pair: Pair, max_length: int) -> tuple[int, ...]:
    """The tokens that a model reads to score a pair."""
    tokens = pair.context + pair.continuation
    # The last token predicts nothing that is asked for, unless an ending is.
    return tokens[-max_length:] if pair.endings else tokens[-(max_length + 1) :][:-1]


class Forward:
    """Runs batches through a model and reads off the likelihoods.

    Attributes:
        seconds: Time spent in `__call__` so far; the caller may reset it.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.seconds = 0.0

    def __call__(self, batches: Sequence[Batch], pairs: Sequence[Pair]) -> Likelihoods:
        """The likelihood of every pair.

        Raises:
            NonFiniteError: If a logit that was read is NaN or infinite.
        """
        began = time.perf_counter()
        tables = [np.zeros((3, 0))]
        prefix: tuple[tuple[int, ...], Any] = ((), None)
        with torch.inference_mode():
            for batch in batches:
                if batch.prefix != prefix[0]:
                    prefix = batch.prefix, _prefix(self.model, batch)
                tables.append(self._run(batch, pairs, prefix[1]))
        starts, stops = np.zeros(len(pairs), int), np.zeros(len(pairs), int)
        offset = 0
        for batch, table in zip(batches, tables[1:], strict=True):
            starts[batch.pairs] = batch.starts + offset
            offset += table.shape[1]
            stops[batch.pairs] = np.append(starts[batch.pairs][1:], offset)
        n_tokens = np.array([len(pair.continuation) for pair in pairs], int)
        self.seconds += time.perf_counter() - began
        return Likelihoods(np.concatenate(tables, axis=1), starts, stops, n_tokens)

    def _run(self, batch: Batch, pairs: Sequence[Pair], prefix: Any) -> np.ndarray:
        """(3, positions): log-probability, margin, whether the argmax is a target."""
        logits = selected_logits(self.model, batch, prefix)
        step = max(1, MAX_LOGITS // logits.shape[-1])
        parts = [
            _read(
                logits[i : i + step],
                batch.targets[i : i + step],
                None if batch.absent is None else batch.absent[i : i + step],
            )
            for i in range(0, len(logits), step)
        ]
        table: np.ndarray = torch.cat(parts, dim=1).double().cpu().numpy()
        broken = ~np.isfinite(table[0])
        if not broken.any():
            return table
        if batch.last is not None:
            # What is broken in one input breaks the row that it shares: look at each by itself.
            return self._alone(batch, pairs)
        place = int(np.searchsorted(batch.starts, int(broken.argmax()), side="right")) - 1
        raise NonFiniteError(*pairs[batch.pairs[place]].owner)

    def _alone(self, batch: Batch, pairs: Sequence[Pair]) -> np.ndarray:
        """The same from plain rows."""
        assert batch.depths is not None
        some = [pairs[number] for number in batch.pairs]
        rows = max(1, len(batch.inputs))
        plain = make_batches(some, rows, int(batch.depths.max()) + 1, batch.inputs.device)
        told = Forward(self.model)(plain, some)
        spans = zip(told.starts, told.stops, strict=True)
        return np.concatenate([told.table[:, start:stop] for start, stop in spans], axis=1)


def selected_logits(model: Any, batch: Batch, prefix: Any = None) -> torch.Tensor:
    """Logits at chosen positions only, through the architecture's own head.

    A hook drops the other positions just before the output embedding, so what the architecture
    does after it (soft-capping, scaling) still happens. A model that cannot be hooked so computes
    all logits.

    Args:
        model: A causal LM.
        batch: Its inputs, and the positions that are wanted.
        prefix: What the batch's rows need of their prefix (`packed.prefix_cache`).

    Returns:
        Logits in float32, (positions, vocabulary).
    """
    rows, columns = batch.rows, batch.columns
    cached = prefix is not None or batch.stems is not None
    given = {}
    if batch.stems is not None:
        given = stem_arguments(model, *batch.stems, batch.inputs.shape[1], prefix)
    elif batch.depths is not None and batch.last is not None:
        given = model_arguments(model, batch.depths, batch.last, prefix)
    head = model.get_output_embeddings()
    hook = None
    if head is not None:
        shape = batch.inputs.shape

        def keep(_: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if arguments and arguments[0].shape[:2] == shape:
                here = arguments[0].device  # the last layer's, where a model is spread
                kept = arguments[0][rows.to(here), columns.to(here)]
                return (kept.unsqueeze(0), *arguments[1:])
            return None

        hook = head.register_forward_pre_hook(keep)
    try:
        logits = model(input_ids=batch.inputs, use_cache=cached, **given).logits
    finally:
        if hook is not None:
            hook.remove()
    if logits.shape[:2] == (1, len(rows)):
        return logits[0].float()  # type: ignore[no-any-return]
    return logits[rows, columns].float()  # type: ignore[no-any-return]


def _prefix(model: Any, batch: Batch) -> Any:
    if not batch.prefix:
        return None
    return prefix_cache(model, torch.tensor(batch.prefix).to(batch.inputs.device))


def _make_batch(
    packed: PackedBatch,
    sharing: Mapping[tuple[int, ...], Sequence[int]],
    pairs: Sequence[Pair],
    device: torch.device | str,
) -> Batch:
    rows: list[int] = []
    columns: list[int] = []
    targets: list[tuple[int, ...]] = []
    starts: list[int] = []
    numbers: list[int] = []
    for number, row in enumerate(packed.rows):
        for tokens, path in row.paths.items():
            for sharer in sharing[tokens]:
                pair = pairs[sharer]
                wanted: list[tuple[int, ...]] = [(token,) for token in pair.continuation]
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
    stems = sorted({row.stem for row in packed.rows} - {()})
    shared = None
    if stems:
        stem_of = torch.tensor([stems.index(row.stem) for row in packed.rows])
        read, seen = padded_left(stems)
        shared = (read.to(device), seen.to(device), stem_of.to(device))
    causal = bool(stems) or (not packed.prefix and all(row.is_chain for row in packed.rows))
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
        stems=shared,
    )


def _parts(
    packed: PackedBatch,
    sharing: Mapping[tuple[int, ...], Sequence[int]],
    pairs: Sequence[Pair],
    most: int,
) -> Iterator[PackedBatch]:
    """Cut a batch so that no part reads more than `most` positions."""
    rows: list[Row] = []
    positions = 0
    for row in packed.rows:
        sharers = [pairs[number] for tokens in row.paths for number in sharing[tokens]]
        wanted = sum(len(pair.continuation) + bool(pair.endings) for pair in sharers)
        if rows and positions + wanted > most:
            yield replace(packed, rows=tuple(rows))
            rows, positions = [], 0
        rows.append(row)
        positions += wanted
    yield replace(packed, rows=tuple(rows))


def _padded(rows: Sequence[tuple[int, ...]]) -> torch.Tensor:
    length = len(rows[0])  # the longest: rows come sorted
    return torch.tensor([row + (0,) * (length - len(row)) for row in rows])


def _read(logits: torch.Tensor, targets: torch.Tensor, absent: torch.Tensor | None) -> torch.Tensor:
    """(3, positions): log-probability and margin of the targets, and whether one is the argmax."""
    normalizer = logits.logsumexp(dim=-1)
    greedy = (logits.argmax(dim=-1, keepdim=True) == targets).any(dim=-1)
    mine = logits.gather(1, targets)
    if absent is not None:
        mine = mine.masked_fill(absent, -torch.inf)
    others = logits.scatter(1, targets, -torch.inf).amax(dim=-1)
    spread = logits.std(dim=-1).clamp(min=torch.finfo(logits.dtype).tiny)
    margin = (mine.amax(dim=-1) - others) / spread
    return torch.stack((mine.logsumexp(dim=-1) - normalizer, margin, greedy.float()))
