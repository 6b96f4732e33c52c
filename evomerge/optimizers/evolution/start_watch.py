"""Remembers whether the point at which a search started is better than where it went.

The mean of a distribution learns from ranks within a generation: on a start better than all about
it, such as the bottom of a narrow valley, it walks away and never learns what it left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from statistics import fmean

_GENERATIONS = 3


class StartWatch:
    """Compares the fitness of the start, the first point of all, with that of the last generations.

    These count by the mean of their better halves, from which the distribution learns: where all
    is as good as the start, noise puts that above it, and the start is left. On COCO's bbob (144
    searches of 240 noisy evaluations) it kept 12 of the 17 starts that searches ended worse than,
    and no other; the best point of three generations, as a bar, kept 5 (experiments/LOG.md).

    Fitness has to mean the same in every generation: an optimizer that uses it sets
    `compares_generations`.
    """

    def __init__(self) -> None:
        self._start: float | None = None
        self._latest: deque[float] = deque(maxlen=_GENERATIONS)
        self._is_first = True

    def learn(self, fitness: Sequence[float | None]) -> None:
        """Take in a generation's fitness; of the first one, the first point is the start."""
        others = list(fitness)
        if self._is_first:
            self._start, self._is_first = others.pop(0), False
        known = sorted((value for value in others if value is not None), reverse=True)
        if known:
            self._latest.append(fmean(known[: (len(others) + 1) // 2]))

    @property
    def leads(self) -> bool:
        """Whether the start was better than the better halves of the last three generations.

        >>> watch = StartWatch()
        >>> watch.learn([0.5, 0.1, 0.3])
        >>> watch.leads
        True
        >>> watch.learn([0.6, 0.9, 0.1])  # 0.75; with the 0.3 of before a mean of 0.525
        >>> watch.leads
        False
        """
        return self._start is not None and bool(self._latest) and self._start > fmean(self._latest)
