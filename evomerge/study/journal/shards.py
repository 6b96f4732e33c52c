"""Shares items out in shards, which are scored together in batches of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from evomerge.study.config import StudyConfig

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
    """Cut items, in their order, into parts of at most `size`."""
    flat = [(task, i) for task, ids in items.items() for i in ids]
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
