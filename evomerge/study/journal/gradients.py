"""Keeps the gradients that the optimizer was not told yet: a kill loses none that was paid for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evomerge.study.journal.events import OutcomesEvent

# What a gradient costs, in item evaluations of its kind: a backward pass is twice a forward one.
# With the metric, answers are written first, and differentiated then.
PRICES = {"smooth": 3, "metric": 4}


@dataclass
class GradientTable:
    """Holds gradients by (recipe's digest, items): one number for each dimension."""

    _by_items: dict[tuple[str, tuple[tuple[str, int], ...]], Sequence[float]] = field(
        default_factory=dict
    )

    def note(self, event: OutcomesEvent) -> None:
        """Take in the gradient of an event that has one."""
        if event.gradient is not None:
            items = tuple((row[0], row[1]) for row in event.rows)
            if event.rescored:
                self._by_items.pop((event.digest, items), None)
            self._by_items.setdefault((event.digest, items), event.gradient)

    def of(self, digest: str, items: Mapping[str, Sequence[int]]) -> Sequence[float] | None:
        """Return a recipe's gradient over these items, in their order."""
        flat = tuple((task, i) for task, ids in items.items() for i in ids)
        return self._by_items.get((digest, flat))

    def rename(self, digests: Mapping[str, str]) -> None:
        """File gradients under the new digest of each recipe."""
        known = self._by_items.items()
        self._by_items = {(digests.get(key[0], key[0]), key[1]): value for key, value in known}

    def drop(self) -> None:
        """Forget all of them: the optimizer has been told, and the journal holds what it was."""
        self._by_items.clear()
