"""Log-likelihoods of continuations: one batched forward, logits only where an answer token is."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from evomerge.evaluate.outcomes import NonFiniteError

# Logits are read in slices of at most this many numbers (a quarter of a GiB in float32).
MAX_LOGITS = 1 << 26


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
class Batch:
    """Rows that go through the model together; a position is one predicted token of one pair."""

    inputs: torch.Tensor  # (rows, length), right-padded with 0
    rows: torch.Tensor  # (positions,)
    columns: torch.Tensor  # (positions,)
    targets: torch.Tensor  # (positions, alternatives)
    absent: torch.Tensor | None  # (positions, alternatives), where an alternative is padding
    starts: np.ndarray  # (pairs,) first position of each pair
    pairs: tuple[int, ...]  # their numbers in the list that was batched


def make_batches(
    pairs: Sequence[Pair], batch_size: int, max_length: int, device: torch.device | str
) -> list[Batch]:
    """Sort, share and pad.

    Pairs with the same model input (such as one-token choices after one context) share a row. Rows
    are sorted by length and content, so a batch depends on which pairs there are, not on their
    order. As in lm-eval, an input longer than `max_length` loses its left end.
    """
    sharing: dict[tuple[int, ...], list[int]] = {}
    for number, pair in enumerate(pairs):
        tokens = pair.context + pair.continuation
        # The last token predicts nothing that is asked for, unless an ending is.
        row = tokens[-max_length:] if pair.endings else tokens[-(max_length + 1) :][:-1]
        sharing.setdefault(row, []).append(number)
    ordered = sorted(sharing, key=lambda row: (-len(row), row))
    return [
        _make_batch(chunk, [sharing[row] for row in chunk], pairs, device)
        for chunk in (ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size))
    ]


class Forward:
    """Runs batches through a model and reads off the likelihoods.

    Attributes:
        seconds: Time spent in `__call__` so far; the caller may reset it.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.seconds = 0.0

    def __call__(self, batches: Iterable[Batch], pairs: Sequence[Pair]) -> list[Likelihood]:
        """The likelihood of every pair.

        Raises:
            NonFiniteError: If a logit that was read is NaN or infinite.
        """
        found: list[Likelihood | None] = [None] * len(pairs)
        began = time.perf_counter()
        with torch.inference_mode():
            for batch in batches:
                for number, likelihood in self._run(batch, pairs):
                    found[number] = likelihood
        self.seconds += time.perf_counter() - began
        assert all(one is not None for one in found)
        return [one for one in found if one is not None]

    def _run(self, batch: Batch, pairs: Sequence[Pair]) -> Iterable[tuple[int, Likelihood]]:
        logits = selected_logits(self.model, batch.inputs, batch.rows, batch.columns)
        step = max(1, MAX_LOGITS // logits.shape[-1])
        parts = [
            _read(
                logits[i : i + step],
                batch.targets[i : i + step],
                None if batch.absent is None else batch.absent[i : i + step],
            )
            for i in range(0, len(logits), step)
        ]
        # (3, positions): log-probability, margin, whether the argmax is a target
        table = torch.cat(parts, dim=1).double().cpu().numpy()
        stops = np.append(batch.starts[1:], table.shape[1])
        broken = ~np.isfinite(table[0])
        for number, start, stop in zip(batch.pairs, batch.starts, stops, strict=True):
            pair = pairs[number]
            if broken[start:stop].any():
                raise NonFiniteError(*pair.owner)
            n_tokens = len(pair.continuation)
            yield (
                number,
                Likelihood(
                    log_probabilities=table[0, start:stop],
                    margins=table[1, start:stop],
                    is_greedy=bool(table[2, start : start + n_tokens].all()),
                    n_tokens=n_tokens,
                ),
            )


def selected_logits(
    model: Any, inputs: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """Logits at chosen positions only, through the architecture's own head.

    A hook drops the other positions just before the output embedding, so what the architecture
    does after it (soft-capping, scaling) still happens. A model that cannot be hooked so computes
    all logits.

    Args:
        model: A causal LM.
        inputs: Token ids, (batch, length).
        rows: Which row each wanted position is in, (positions,).
        columns: Where in that row, (positions,).

    Returns:
        Logits in float32, (positions, vocabulary).
    """
    head = model.get_output_embeddings()
    hook = None
    if head is not None:
        shape = inputs.shape

        def keep(_: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if arguments and arguments[0].shape[:2] == shape:
                return (arguments[0][rows, columns].unsqueeze(0), *arguments[1:])
            return None

        hook = head.register_forward_pre_hook(keep)
    try:
        logits = model(input_ids=inputs, use_cache=False).logits
    finally:
        if hook is not None:
            hook.remove()
    if logits.shape[:2] == (1, len(rows)):
        return logits[0].float()  # type: ignore[no-any-return]
    return logits[rows, columns].float()  # type: ignore[no-any-return]


def _make_batch(
    inputs: Sequence[tuple[int, ...]],
    sharing: Sequence[Sequence[int]],
    pairs: Sequence[Pair],
    device: torch.device | str,
) -> Batch:
    length = len(inputs[0])  # the longest: rows come sorted
    rows: list[int] = []
    columns: list[int] = []
    targets: list[tuple[int, ...]] = []
    starts: list[int] = []
    numbers: list[int] = []
    for row, (tokens, sharers) in enumerate(zip(inputs, sharing, strict=True)):
        for number in sharers:
            pair = pairs[number]
            wanted: list[tuple[int, ...]] = [(token,) for token in pair.continuation]
            wanted += [pair.endings] if pair.endings else []
            starts.append(len(targets))
            numbers.append(number)
            rows += [row] * len(wanted)
            columns += range(len(tokens) - len(wanted), len(tokens))
            targets += wanted
    width = max(map(len, targets))
    padded = [one + one[:1] * (width - len(one)) for one in targets]
    absent = None
    if width > 1:
        absent = torch.tensor([[k >= len(one) for k in range(width)] for one in targets])
        absent = absent.to(device)
    return Batch(
        inputs=torch.tensor([row + (0,) * (length - len(row)) for row in inputs]).to(device),
        rows=torch.tensor(rows).to(device),
        columns=torch.tensor(columns).to(device),
        targets=torch.tensor(padded).to(device),
        absent=absent,
        starts=np.array(starts),
        pairs=tuple(numbers),
    )


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
