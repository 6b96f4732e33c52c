"""Packs model inputs into rows so that shared prefixes are computed once.

An input is the tokens that a model reads to predict a continuation. Choices of one question share
its context, and documents of one task often share few-shot examples. A row holds several inputs as
a forest: every distinct prefix once, in depth-first order, each token seeing its ancestors alone. A
prefix that many rows share is taken out of all of them and computed once, and the rows look at its
keys and values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from evomerge.evaluate.token_requests import Tokens

# A row is filled up to this many tokens, or to the size of its largest group of inputs. Measured
# on a model 64 wide (experiments/evaluation_speed): longer rows save no more tokens, and attention
# over masked positions begins to cost. On wider models attention is a smaller part, and rows longer
# by these factors are tried: groups of like size leave gaps in a row that holds one or two.
ROW_TOKENS = 64
LONGER = (1.5, 2.0, 3.0)
# One more call of the model costs as much as this many tokens; padding less is cheaper.
CALL_TOKENS = 128
# Rows with room that are looked at, the latest first, before a new one is begun.
OPEN_ROWS = 64


@dataclass(frozen=True)
class PackedRow:
    """Inputs laid out as a forest.

    Attributes:
        tokens: In depth-first order.
        depths: Each token's position in its own input.
        last: For each token the column of its last descendant; a token at column i sees column j
            exactly if ``j <= i <= last[j]``.
        paths: For each input the columns of its tokens, without those of the prefix and `context`.
        context: Tokens that the row continues, read before it (`context_cache`); other rows of the
            batch may continue the same.
    """

    tokens: Tokens
    depths: Tokens
    last: Tokens
    paths: Mapping[Tokens, Sequence[int]]
    context: Tokens = ()

    @property
    def is_chain(self) -> bool:
        """True if plain causal attention is all that the row needs."""
        return len(self.tokens) == self.depths[-1] + 1 and self.last[0] == len(self.tokens) - 1


@dataclass(frozen=True)
class PackedBatch:
    """Rows that go through the model together, the longest first, behind a shared prefix."""

    prefix: Tokens
    rows: tuple[PackedRow, ...]

    @property
    def n_tokens(self) -> int:
        """Tokens that the batch costs, padding included and the prefix left out."""
        contexts = {row.context for row in self.rows} - {()}
        longest = max(map(len, contexts), default=0)
        return len(self.rows) * len(self.rows[0].tokens) + len(contexts) * longest


def pack(
    inputs: Mapping[Tokens, int], batch_size: int, max_packed_length: int, hidden_size: int = 64
) -> list[PackedBatch]:
    """Lay inputs out in rows and batches; the result depends on the set of inputs alone.

    Args:
        inputs: For each input the number of its first tokens that are context: only what follows
            the last of them is predicted, so only these may become a prefix.
        batch_size: A batch has at most as many rows, and no more tokens than so many rows of the
            longest input alone would have.
        max_packed_length: Longest input that may share a row; longer ones get rows of their own.
        hidden_size: Size of the model's hidden states, which sets attention's share of the cost.
    """
    ordered = sorted(inputs)
    short = [tokens for tokens in ordered if len(tokens) <= max_packed_length]
    batches = []
    for prefix, groups in prefix_groups(_groups(short, inputs), inputs):
        longest = max(len(tokens) for group in groups for tokens in group) - len(prefix)
        limits = _Limits(batch_size, batch_size * longest, max_packed_length, hidden_size)
        batches += _batches(prefix, _fewest_tokens(groups, len(prefix), limits), limits)
    long = [_row([tokens], 0) for tokens in ordered if len(tokens) > max_packed_length]
    return batches + _batches((), long, _Limits(batch_size, math.inf))


def shared_prefixes(prompts: Iterable[Tokens]) -> dict[Tokens, Tokens]:
    """Return for each prompt the prefix that is worth computing once for several; often empty.

    >>> shots = tuple(range(300))
    >>> prefixes = shared_prefixes([(*shots, 1, 2), (*shots, 7), (*shots, 5)])
    >>> [len(prefix) for prefix in prefixes.values()]
    [300, 300, 300]
    """
    ordered = sorted(set(prompts))
    context = {prompt: len(prompt) for prompt in ordered}
    prefixes = {}
    for prefix, groups in prefix_groups([[prompt] for prompt in ordered], context):
        prefixes.update({prompt: prefix for (prompt,) in groups})
    return prefixes


def n_tokens(batches: Iterable[PackedBatch]) -> int:
    """Count the tokens that go through the model, padding and each prefix included."""
    listed = list(batches)
    prefixes = {batch.prefix for batch in listed}
    return sum(batch.n_tokens for batch in listed) + sum(map(len, prefixes))


def _groups(ordered: Sequence[Tokens], context: Mapping[Tokens, int]) -> list[list[Tokens]]:
    """Group inputs that follow one context; a group does not outgrow two of its inputs."""
    groups: list[list[Tokens]] = []
    size = 0
    for tokens in ordered:
        if groups:
            first = groups[-1][0]
            shared = _common(groups[-1][-1], tokens)
            grown = size + len(tokens) - shared
            length = context[first]
            is_same = length == context[tokens] and tokens[:length] == first[:length]
            if is_same and grown <= max(ROW_TOKENS, 2 * len(tokens)):
                groups[-1].append(tokens)
                size = grown
                continue
        groups.append([tokens])
        size = len(tokens)
    return groups


@dataclass
class _Run:
    """Neighbouring groups, and the most that computing their common prefix once can save."""

    start: int
    stop: int
    common: int  # length of the prefix that all of them have and may share
    size: int  # tokens of all of them
    largest: int  # tokens of the largest
    saved: int  # tokens
    cuts: list[tuple[int, int, int]]  # (start, stop, length of the prefix)


def prefix_groups(
    groups: Sequence[list[Tokens]], context: Mapping[Tokens, int]
) -> list[tuple[Tokens, list[list[Tokens]]]]:
    """Cut sorted groups into runs with a prefix each, so that the most tokens are saved.

    Runs are joined at the longest common prefixes first; a run is either cut as its parts were or
    becomes one run with a shorter prefix, whichever saves more.

    Args:
        groups: Groups of inputs, in sorted order.
        context: For each input the number of its first tokens that are context.

    Returns:
        Each prefix with the groups that begin with it.
    """
    if not groups:
        return []
    owner: list[_Run] = []
    for i, group in enumerate(groups):
        # The last token of a context predicts the continuation, and so is never in a prefix.
        common = min(min(context[tokens], len(tokens)) for tokens in group) - 1
        size = _size(group)
        owner.append(_Run(i, i + 1, common, size, size, 0, [(i, i + 1, 0)]))
    edges = [(-_common(a[-1], b[0]), i) for i, (a, b) in enumerate(pairwise(groups))]
    for negative, i in sorted(edges):
        left, right = owner[i], owner[i + 1]
        common = min(-negative, left.common, right.common)
        size, largest = left.size + right.size, max(left.largest, right.largest)
        n_rows = size // max(ROW_TOKENS, largest)
        saved = common * (n_rows - 1) - 2 * CALL_TOKENS
        joined = _Run(left.start, right.stop, common, size, largest, saved, [])
        if saved > max(0, left.saved + right.saved):
            joined.cuts = [(joined.start, joined.stop, common)]
        else:
            joined.saved, joined.cuts = left.saved + right.saved, left.cuts + right.cuts
        owner[left.start] = owner[right.stop - 1] = joined
    by_prefix: dict[Tokens, list[list[Tokens]]] = {}
    for start, stop, length in owner[0].cuts:
        by_prefix.setdefault(groups[start][0][:length], []).extend(groups[start:stop])
    return list(by_prefix.items())


@dataclass(frozen=True)
class _Limits:
    """The most that a batch may have, and the costs of attention."""

    rows: int
    tokens: float
    row_tokens: int = 0
    hidden_size: int = 64

    def cost(self, batches: Iterable[PackedBatch]) -> float:
        """Return the cost in tokens: a layer does 24 d^2 operations each, 4 d for each key seen."""
        return sum(b.n_tokens * (1 + self.attention(len(b.rows[0].tokens))) for b in batches)

    def attention(self, length: int) -> float:
        """Return the cost of attention in rows of a length, relative to everything else."""
        return length / (6 * self.hidden_size)


def _fewest_tokens(groups: Sequence[list[Tokens]], skip: int, limits: _Limits) -> list[PackedRow]:
    """Fill rows in several ways, and keep what costs least.

    Neighbours first share prefixes, large groups first fit better; and longer rows are tried where
    the padding that they could save is more than attention would cost.
    """
    by_size = sorted(groups, key=lambda group: (-_size(group), group))
    sizes = [_size(group) - skip for group in groups]
    shortest = max(ROW_TOKENS, *sizes)
    candidates: list[tuple[float, list[PackedRow]]] = []

    def fill(capacity: int) -> None:
        for order in (groups, by_size):
            rows = _fill(order, skip, capacity)
            candidates.append((limits.cost(_batches((), rows, limits)), rows))

    fill(shortest)
    least = sum(sizes)
    for times in LONGER:
        capacity = int(times * shortest)
        best = min(cost for cost, _ in candidates)
        if capacity <= limits.row_tokens and least * (1 + limits.attention(capacity)) < best:
            fill(capacity)
    return min(candidates, key=lambda candidate: candidate[0])[1]


def _fill(groups: Sequence[list[Tokens]], skip: int, capacity: int) -> list[PackedRow]:
    """Put each group in the first open row that has room, the latest rows first."""
    sizes = [_size(group) - skip for group in groups]
    contents: list[list[Tokens]] = []
    filled: list[int] = []
    for group, size in zip(groups, sizes, strict=True):
        for row in range(len(contents) - 1, max(-1, len(contents) - 1 - OPEN_ROWS), -1):
            room = capacity - filled[row]
            if size - len(group[0]) + skip > room:
                continue
            added = size - (_common(contents[row][-1], group[0]) - skip)
            if added <= room:
                contents[row] += group
                filled[row] += added
                break
        else:
            contents.append(list(group))
            filled.append(size)
    return [_row(content, skip) for content in contents]


def _row(inputs: Sequence[Tokens], skip: int) -> PackedRow:
    """Lay inputs out depth first, without their first `skip` tokens, which all of them share."""
    tokens: list[int] = []
    depths: list[int] = []
    last: list[int] = []
    paths: dict[Tokens, Sequence[int]] = {}
    path: list[int] = []
    before: Tokens = ()
    for current in sorted(inputs):
        shared = max(_common(before, current) - skip, 0)
        for column in path[shared:]:
            last[column] = len(tokens) - 1
        added = len(current) - skip - shared
        path = path[:shared] + list(range(len(tokens), len(tokens) + added))
        tokens += current[skip + shared :]
        depths += range(skip + shared, len(current))
        last += [0] * added
        paths[current] = path
        before = current
    for column in path:
        last[column] = len(tokens) - 1
    return PackedRow(tuple(tokens), tuple(depths), tuple(last), paths)


def _batches(prefix: Tokens, rows: Sequence[PackedRow], limits: _Limits) -> list[PackedBatch]:
    """Sort rows by length; a new batch begins where padding would cost more than a call."""
    ordered = sorted(rows, key=lambda row: (-len(row.tokens), row.tokens, row.depths))
    batches: list[PackedBatch] = []
    current: list[PackedRow] = []
    padding = 0
    for row in ordered:
        if current:
            length = len(current[0].tokens)
            padding += length - len(row.tokens)
            full = len(current) == limits.rows or (len(current) + 1) * length > limits.tokens
            if full or padding > CALL_TOKENS:
                batches.append(PackedBatch(prefix, tuple(current)))
                current, padding = [], 0
        current.append(row)
    return [*batches, PackedBatch(prefix, tuple(current))] if current else batches


def _size(group: Sequence[Tokens]) -> int:
    """Return the number of tokens of a group's forest; its inputs come sorted."""
    return sum(map(len, group)) - sum(_common(a, b) for a, b in pairwise(group))


def _common(a: Tokens, b: Tokens) -> int:
    """Return the length of the common prefix, by bisection."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
