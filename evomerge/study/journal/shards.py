"""Cuts items into shards, and keeps the gradients of those that the optimizer was not told yet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evomerge.study.config import StudyConfig
from evomerge.study.journal.events import OutcomesEvent

# What a gradient costs, in item evaluations of its kind: a backward pass is twice a forward one.
# With the metric, answers are written first, and differentiated then.
PRICES = {"smooth": 3, "metric": 4}
GRADIENT_SHARDS, GRADIENT_ITEMS = 4, 8  # a gradient has at most 4 parts, of 8 items or more
SHARDS = 16  # at most, for a candidate: the last ones of a generation are shared out


def shard_items(config: StudyConfig) -> int:
    """Return the number of items scored together: one batch, or more lest there be too many.

    Fixed for a study and independent of its workers, so that batches, and with them the last bits
    of a score, are the same however many workers there are.
    """
    evaluate = config.evaluate
    items = evaluate.items_per_task * len(evaluate.tasks)
    return evaluate.rows_per_batch * max(1, math.ceil(items / evaluate.rows_per_batch / SHARDS))


def shards(items: Mapping[str, Sequence[int]], size: int) -> list[dict[str, list[int]]]:
    """Cut items, in their order, into parts of at most `size`.

    Tasks with the same items go side by side, document by document: an answer that is written for
    one task is there for the other, which measures its length.

    >>> shards({"text": [4, 7], "other": [1], "length": [4, 7]}, 2)
    [{'text': [4], 'length': [4]}, {'text': [7], 'length': [7]}, {'other': [1]}]
    """
    alike: dict[tuple[int, ...], list[str]] = {}
    for task, ids in items.items():
        alike.setdefault(tuple(ids), []).append(task)
    flat = [(task, i) for ids, tasks in alike.items() for i in ids for task in tasks]
    shards = []
    for start in range(0, len(flat), size):
        shard: dict[str, list[int]] = {}
        for task, i in flat[start : start + size]:
            shard.setdefault(task, []).append(i)
        shards.append(shard)
    return shards


def gradient_shards(items: Mapping[str, Sequence[int]]) -> list[dict[str, list[int]]]:
    """Cut items into the parts whose gradients are added up, whichever workers had them."""
    count = sum(map(len, items.values()))
    return shards(items, max(GRADIENT_ITEMS, math.ceil(count / GRADIENT_SHARDS)))


@dataclass
class GradientTable:
    """Holds gradients by (recipe's digest, items), one number for each dimension, and losses."""

    _by_items: dict[tuple[str, tuple[tuple[str, int], ...]], Sequence[float]] = field(
        default_factory=dict
    )
    _losses: dict[tuple[str, tuple[tuple[str, int], ...]], float] = field(default_factory=dict)

    def note(self, event: OutcomesEvent) -> None:
        """Take in the gradient of an event that has one."""
        if event.gradient is not None:
            items = tuple((row[0], row[1]) for row in event.rows)
            if event.rescored:
                self._by_items.pop((event.digest, items), None)
                self._losses.pop((event.digest, items), None)
            self._by_items.setdefault((event.digest, items), event.gradient)
            self._losses.setdefault((event.digest, items), event.loss or 0.0)

    def of(self, digest: str, items: Mapping[str, Sequence[int]]) -> Sequence[float] | None:
        """Return a recipe's gradient over these items, in their order."""
        return self._by_items.get((digest, _flat(items)))

    def loss_of(self, digest: str, items: Mapping[str, Sequence[int]]) -> float | None:
        """Return a recipe's loss over all parts of these items; ``None`` if one is missing."""
        losses = [self._losses.get((digest, _flat(part))) for part in gradient_shards(items)]
        known = [loss for loss in losses if loss is not None]
        return math.fsum(known) if known and len(known) == len(losses) else None

    def rename(self, digests: Mapping[str, str]) -> None:
        """File gradients under the new digest of each recipe."""
        known = self._by_items.items()
        self._by_items = {(digests.get(key[0], key[0]), key[1]): value for key, value in known}
        losses = self._losses.items()
        self._losses = {(digests.get(key[0], key[0]), key[1]): value for key, value in losses}

    def drop(self) -> None:
        """Forget the gradients: the optimizer has been told, and the journal holds what it was."""
        self._by_items.clear()


def _flat(items: Mapping[str, Sequence[int]]) -> tuple[tuple[str, int], ...]:
    return tuple((task, i) for task, ids in items.items() for i in ids)
