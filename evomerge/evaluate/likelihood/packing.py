"""Which model inputs share a row: what begins alike is computed once.

An input is the tokens that a model reads to predict a continuation. Choices of one question share
its context, documents of one task often share their beginning. A row holds several inputs as a
forest: every distinct beginning once, in depth-first order, each token seeing its ancestors alone.
A beginning that many rows share (few-shot examples, a description) is taken out of all of them and
computed once, as a prefix whose keys and values the rows look at.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

Tokens = tuple[int, ...]

# A row is filled up to this many tokens, or to the size of its largest group of inputs. Measured
# on a model 64 wide (experiments/evaluation_speed): longer rows save no more tokens, and attention
# over masked places begins to cost. On wider models attention is a smaller part, and rows of as
# many times that length are tried: groups of like size leave gaps in a row that holds one or two.
ROW_TOKENS = 64
LONGER = (1.5, 2.0, 3.0)
# What one more call of the model is worth, in tokens; padding or repeating less is cheaper.
CALL_TOKENS = 128
# How many rows with room are looked at, the latest first, before a new one is begun.
OPEN_ROWS = 64


@dataclass(frozen=True)
class Row:
    """Inputs laid out as a forest.

    Attributes:
        tokens: In depth-first order.
        depths: Each token's place in its own input.
        last: For each token the column of its last descendant; a token at column i sees column j
            exactly if ``j <= i <= last[j]``.
        paths: For each input the columns of its tokens (those of prefix and stem left out).
        stem: Tokens before these, which other rows of the batch may have too (`stems`).
    """

    tokens: Tokens
    depths: Tokens
    last: Tokens
    paths: Mapping[Tokens, Sequence[int]]
    stem: Tokens = ()

    @property
    def is_chain(self) -> bool:
        """Whether plain causal attention is all that the row needs."""
        return len(self.tokens) == self.depths[-1] + 1 and self.last[0] == len(self.tokens) - 1


@dataclass(frozen=True)
class PackedBatch:
    """Rows that go through the model together, the longest first, behind a shared prefix."""

    prefix: Tokens
    rows: tuple[Row, ...]

    @property
    def n_tokens(self) -> int:
        """Tokens that the batch costs, padding included and the prefix left out."""
        stems = {row.stem for row in self.rows} - {()}
        return len(self.rows) * len(self.rows[0].tokens) + len(stems) * max(
            map(len, stems), default=0
        )


def pack(
    inputs: Mapping[Tokens, int], batch_size: int, deepest: int, width: int = 64
) -> list[PackedBatch]:
    """Lay inputs out in rows and batches; the result depends on the set of inputs alone.

    Args:
        inputs: For each input how many of its first tokens are context: only what follows the
            last of them is predicted, so only these may become a prefix.
        batch_size: A batch has at most as many rows, and no more tokens than so many rows of the
            longest input alone would have.
        deepest: Longest input that may share a row; longer ones, or all with 0, get their own.
        width: Size of the model's hidden states, which says how much of a token is attention.
    """
    ordered = sorted(inputs)
    short = [tokens for tokens in ordered if len(tokens) <= deepest]
    batches = []
    for prefix, groups in prefix_groups(_groups(short, inputs), inputs):
        longest = max(len(tokens) for group in groups for tokens in group) - len(prefix)
        limits = _Limits(batch_size, batch_size * longest, deepest, width)
        batches += _batches(prefix, _fewest_tokens(groups, len(prefix), limits), limits)
    long = [_row([tokens], 0) for tokens in ordered if len(tokens) > deepest]
    return batches + _batches((), long, _Limits(batch_size, math.inf))


def shared_prefixes(prompts: Iterable[Tokens]) -> dict[Tokens, Tokens]:
    """For each prompt the beginning that is worth computing once for several; often none.

    >>> shots = tuple(range(300))
    >>> found = shared_prefixes([(*shots, 1, 2), (*shots, 7), (*shots, 5)])
    >>> [len(prefix) for prefix in found.values()]
    [300, 300, 300]
    """
    ordered = sorted(set(prompts))
    context = {prompt: len(prompt) for prompt in ordered}
    found = {}
    for prefix, groups in prefix_groups([[prompt] for prompt in ordered], context):
        found.update({prompt: prefix for (prompt,) in groups})
    return found


def minimum_tokens(inputs: Iterable[Tokens]) -> int:
    """How many tokens there are if each distinct beginning is computed once.

    >>> minimum_tokens([(1, 2, 3), (1, 2, 4), (5,)])
    5
    """
    ordered = sorted(set(inputs))
    return sum(map(len, ordered)) - sum(_common(a, b) for a, b in pairwise(ordered))


def n_tokens(batches: Iterable[PackedBatch]) -> int:
    """How many tokens go through the model, padding and each prefix included."""
    told = list(batches)
    prefixes = {batch.prefix for batch in told}
    return sum(batch.n_tokens for batch in told) + sum(map(len, prefixes))


def _groups(ordered: Sequence[Tokens], context: Mapping[Tokens, int]) -> list[list[Tokens]]:
    """Inputs that follow one context, together; a group does not outgrow two of its inputs."""
    groups: list[list[Tokens]] = []
    size = 0
    for tokens in ordered:
        if groups:
            first = groups[-1][0]
            shared = _common(groups[-1][-1], tokens)
            grown = size + len(tokens) - shared
            stem = context[first]
            alike = stem == context[tokens] and tokens[:stem] == first[:stem]
            if alike and grown <= max(ROW_TOKENS, 2 * len(tokens)):
                groups[-1].append(tokens)
                size = grown
                continue
        groups.append([tokens])
        size = len(tokens)
    return groups


@dataclass
class _Run:
    """Neighbouring groups, and what computing their common beginning once saves at best."""

    start: int
    stop: int
    common: int  # tokens that all of them begin with and may share
    size: int  # tokens of all of them
    largest: int  # tokens of the largest
    saved: int
    cuts: list[tuple[int, int, int]]  # (start, stop, length of the prefix)


def prefix_groups(
    groups: Sequence[list[Tokens]], context: Mapping[Tokens, int]
) -> list[tuple[Tokens, list[list[Tokens]]]]:
    """Cut sorted groups into runs with a prefix each, so that the most tokens are saved.

    Runs are joined at the longest common beginnings first; a run is either cut as its parts were
    or becomes one run with a shorter prefix, whichever saves more.
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
    found: dict[Tokens, list[list[Tokens]]] = {}
    for start, stop, length in owner[0].cuts:
        found.setdefault(groups[start][0][:length], []).extend(groups[start:stop])
    return list(found.items())


@dataclass(frozen=True)
class _Limits:
    """How large a batch may be, and what it costs."""

    rows: int
    tokens: float
    row_tokens: int = 0
    width: int = 64

    def cost(self, batches: Iterable[PackedBatch]) -> float:
        """In tokens: a layer does 24 width^2 operations for each, and 4 width for each key seen."""
        return sum(b.n_tokens * (1 + self.attention(len(b.rows[0].tokens))) for b in batches)

    def attention(self, length: int) -> float:
        """What attention costs in rows of a length, next to everything else."""
        return length / (6 * self.width)


def _fewest_tokens(groups: Sequence[list[Tokens]], skip: int, limits: _Limits) -> list[Row]:
    """Fill rows in several ways, and keep what costs least.

    Neighbours first, which share beginnings, or large groups first, which fit better; and longer
    rows where all that padding could save is more than attention would cost.
    """
    by_size = sorted(groups, key=lambda group: (-_size(group), group))
    sizes = [_size(group) - skip for group in groups]
    shortest = max(ROW_TOKENS, *sizes)
    found: list[tuple[float, list[Row]]] = []

    def fill(capacity: int) -> None:
        for order in (groups, by_size):
            rows = _fill(order, skip, capacity)
            found.append((limits.cost(_batches((), rows, limits)), rows))

    fill(shortest)
    least = sum(sizes)
    for times in LONGER:
        capacity = int(times * shortest)
        best = min(cost for cost, _ in found)
        if capacity <= limits.row_tokens and least * (1 + limits.attention(capacity)) < best:
            fill(capacity)
    return min(found, key=lambda one: one[0])[1]


def _fill(groups: Sequence[list[Tokens]], skip: int, capacity: int) -> list[Row]:
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


def _row(inputs: Sequence[Tokens], skip: int) -> Row:
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
    return Row(tuple(tokens), tuple(depths), tuple(last), paths)


def _batches(prefix: Tokens, rows: Sequence[Row], limits: _Limits) -> list[PackedBatch]:
    """Rows sorted by length; a new batch begins where padding would cost more than a call."""
    ordered = sorted(rows, key=lambda row: (-len(row.tokens), row.tokens, row.depths))
    batches: list[PackedBatch] = []
    current: list[Row] = []
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
    """Tokens of a group's forest; its inputs come sorted."""
    return sum(map(len, group)) - sum(_common(a, b) for a, b in pairwise(group))


def _common(a: Tokens, b: Tokens) -> int:
    """Length of the common beginning, by bisection."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
