"""Keeps scores of items on disk by content, so that no item is paid for twice, whatever its name.

There is one journal for each set of weights (and what else decides a score beside the tasks), in a
folder of its own. A key is a hash of everything that decides an item's score beside them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from evomerge.core.errors import UserError
from evomerge.evaluate.outcomes import OutcomeRow
from evomerge.study.journal.frames import Event
from evomerge.study.journal.journal import JOURNAL, Journal

_SCORED = "items"


class ItemScore(NamedTuple):
    """One item's score by its task's metric; the rest as in `OutcomeRow`."""

    metric: float
    truncated: int = 0
    extracted: int = 1
    degenerate: int = 0

    @classmethod
    def of(cls, row: OutcomeRow) -> ItemScore:
        """Return the score of an outcome that has one."""
        assert row.metric is not None
        return cls(row.metric, row.truncated, row.extracted, row.degenerate)


class ItemStore:
    """One model's scores, open for writing until `close`.

    Args:
        folder: Its folder; made if there is none.

    Raises:
        UserError: It is damaged, or another process is writing it.
    """

    def __init__(self, folder: Path) -> None:
        self._scores: dict[str, ItemScore] = {}
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._journal = Journal.open(folder / JOURNAL, create=True, replay=self._replay)

    def get(self, key: str) -> ItemScore | None:
        """Return the score of an item; ``None`` if it was never scored."""
        return self._scores.get(key)

    def add(self, scores: Mapping[str, ItemScore]) -> None:
        """Write scores down; when this returns, they are on the disk."""
        rows = [[key, *score] for key, score in scores.items()]
        self._journal.append({"event": _SCORED, "rows": rows})
        self._scores.update(scores)

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()

    def _replay(self, event: Event) -> None:
        if event["event"] != _SCORED:
            return
        rows = event.get("rows")
        if not isinstance(rows, list) or not all(map(_is_row, rows)):
            raise UserError(
                f"{self._folder}: it holds something that evomerge did not write: delete the folder"
            )
        self._scores.update((row[0], ItemScore(*row[1:])) for row in rows)


def _is_row(row: object) -> bool:
    if not isinstance(row, Sequence) or len(row) != 5 or not isinstance(row[0], str):
        return False
    numeric = isinstance(row[1], int | float) and math.isfinite(row[1])
    return numeric and all(flag in (0, 1) for flag in row[2:])
