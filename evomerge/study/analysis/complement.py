"""Measures how far parents make up for each other, by what each got right, item by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from evomerge.evaluate.outcomes import OutcomeRow
from evomerge.study.journal.record import Record
from evomerge.study.statistics.outcome import Tasks, sign


def complement(record: Record) -> dict[str, Any] | None:
    """Measure how much better a perfect choice among the parents would be than the best of them.

    An item counts at its metric, in the direction in which more is better; the anchors' items are
    looked at, which all parents have seen.

    Returns:
        ``items``; ``best`` {name, score}, the best parent; ``oracle``, the mean of each item's best
        parent (for right and wrong: what at least one gets right); ``pairs`` [{a, b, oracle,
        discordance}] by falling oracle, where discordance is the share of items on which two
        parents differ. ``None`` if parents were not scored item by item.
    """
    if not record.asks or record.asks[0].items is None:
        return None
    items = record.asks[0].items
    scored = {}
    for number in record.asks[0].trials:
        trial = record.trials[number]
        if trial.kind != "parent" or record.outcomes.missing(trial.digest, "metric", items):
            continue
        scored[trial.name] = record.outcomes.rows(trial.digest, "metric", items)
    return complementarity(scored, record.tasks)


def complementarity(
    scored: Mapping[str, Sequence[OutcomeRow]], tasks: Tasks
) -> dict[str, Any] | None:
    """Compare parents' outcomes by name, all of them on the same items in the same order."""
    names, columns = [], []
    for name, rows in scored.items():
        values = [sign(tasks[row.task]) * row.metric for row in rows if row.metric is not None]
        if len(values) == len(rows):
            names.append(name)
            columns.append(values)
    if len(names) < 2:
        return None
    table = np.array(columns)  # (parents, items)
    means = table.mean(axis=1)
    best = int(means.argmax())
    pairs = [
        {
            "a": names[i],
            "b": names[j],
            "oracle": float(np.maximum(table[i], table[j]).mean()),
            "discordance": float((table[i] != table[j]).mean()),
        }
        for i, j in combinations(range(len(names)), 2)
    ]
    return {
        "items": table.shape[1],
        "best": {"name": names[best], "score": float(means[best])},
        "oracle": float(table.max(axis=0).mean()),
        "pairs": sorted(pairs, key=lambda pair: -float(str(pair["oracle"]))),
    }
