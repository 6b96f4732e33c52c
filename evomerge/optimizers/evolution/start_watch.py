"""Remembers whether the point at which a search started is better than where it went.

The mean of a distribution learns from ranks within a generation: on a start better than all about
it, such as the bottom of a narrow valley, it walks away and never learns what it left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

_GENERATIONS = 3  # of 24 functions of bbob, fewer keep the start by chance, more give up less


class StartWatch:
    """Compares the fitness of the start, the first point of all, with that of the last generations.

    Fitness has to mean the same in every generation: an optimizer that uses it sets
    `compares_generations`.
    """

    def __init__(self) -> None:
        self._start: float | None = None
        self._latest: deque[float | None] = deque(maxlen=_GENERATIONS)
        self._is_first = True

    def learn(self, fitness: Sequence[float | None]) -> None:
        """Take in a generation's fitness; of the first one, the first point is the start."""
        others = list(fitness)
        if self._is_first:
            self._start, self._is_first = others.pop(0), False
        known = [value for value in others if value is not None]
        self._latest.append(max(known) if known else None)

    @property
    def leads(self) -> bool:
        """Whether the start was better than every other point of the last three generations.

        >>> watch = StartWatch()
        >>> watch.learn([0.5, 0.1, 0.3])
        >>> watch.leads
        True
        >>> watch.learn([None, 0.6])
        >>> watch.leads
        False
        """
        known = [value for value in self._latest if value is not None]
        return self._start is not None and bool(known) and self._start > max(known)
