"""Coarse to fine searches a gradient as one value, then two, then four, then every knot alone.

Few dimensions are searched quickly; each refinement starts at the mean of the coarser search, with
a smaller step. CatCMAwM searches each stage; in 60 dimensions the stages beat CatCMAwM alone, in 20
they did not (experiments/optimizer_benchmark).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from evomerge.optimizers.checks import share_of_range, whole_number
from evomerge.optimizers.coordinates import rounded
from evomerge.optimizers.evolution.catcma import CatCma
from evomerge.optimizers.optimizer import Optimizer
from evomerge.recipe.space.dimension import Dimension, Point, Value

_SMALLER = 0.7  # ratio of a stage's first step to that of the stage before


class CoarseToFine(Optimizer):
    """Searches gradients by halves: stage k cuts each into at most 2^k pieces of equal knots.

    A gradient is what dimensions named ``…[0]``, ``…[1]``, … make together (a hole with `knots`).
    Other dimensions take part in every stage. The last stage, in which every knot is free, goes on
    for as long as it is asked; in a space without gradients there is only that.

    Args:
        sigma: First standard deviation of the first stage, as a share of each dimension's range.
        generations: Number of generations of each stage before the last.
        population: Points per generation; ``None`` means ``4 + floor(3 ln d)``.
        seed: The seed used when `start` is given none.
    """

    smallest_population = 4
    compares_generations = True  # as CatCMAwM does

    def __init__(
        self,
        sigma: float = 0.12,
        generations: int = 4,
        population: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(population=population, seed=seed)
        self._sigma = share_of_range("CoarseToFine sigma", sigma)
        self._generations = whole_number("CoarseToFine generations", generations, 1)

    @property
    def mean(self) -> Point | None:
        """The centre of the current stage's distribution."""
        self._check_started("mean")
        if not self._scored_generations:
            return self._initial
        coarse = self._inner.mean
        return None if coarse is None else self._fine(coarse)

    @property
    def stopped(self) -> str | None:
        """The reason for stopping: the last stage has converged."""
        self._check_started("stopped")
        return self._inner.stopped if self._stage == self._last else None

    def _begin(self) -> None:
        self._gradients = gradients(self._coordinates.dimensions)
        longest = max(len(members) for members in self._gradients)
        self._last = int(np.ceil(np.log2(longest)))
        self._stage, self._scored_generations = 0, 0
        self._launch(self._initial)

    def _propose(self) -> list[Point]:
        if self._stage < self._last and (
            self._stage_generations >= self._generations or self._inner.stopped is not None
        ):
            centre = self.mean
            assert centre is not None
            self._stage += 1
            self._launch(centre)
        self._coarse = self._inner.ask()
        return [self._fine(point) for point in self._coarse]

    def _learn(self, fitness: list[float | None]) -> None:
        self._inner.tell(self._coarse, fitness)
        self._stage_generations += 1
        self._scored_generations += any(value is not None for value in fitness)

    def _launch(self, centre: Point) -> None:
        """Begin a stage about a point of the whole space."""
        self._pieces = [
            [int(i) for i in piece]
            for members in self._gradients
            for piece in np.array_split(members, min(len(members), 2**self._stage))
        ]
        dimensions = self._coordinates.dimensions
        coarse = [replace(dimensions[piece[0]], initial=None) for piece in self._pieces]
        start = tuple(
            _average(d, [centre[i] for i in piece])
            for d, piece in zip(coarse, self._pieces, strict=True)
        )
        self._inner = CatCma(sigma=self._sigma * _SMALLER**self._stage)
        self._inner.start(coarse, self._seed + self._stage, start, self._population)
        self._stage_generations = 0

    def _fine(self, coarse: Point) -> Point:
        values = list(self._initial)
        for value, piece in zip(coarse, self._pieces, strict=True):
            for i in piece:
                values[i] = value
        return tuple(values)


def gradients(dimensions: tuple[Dimension, ...]) -> list[list[int]]:
    """Group the indices of dimensions: a gradient's knots together, every other one alone.

    >>> knots = [Dimension(f"w[{k}]", gradient="w", knot=k) for k in range(2)]
    >>> gradients((*knots, Dimension("density")))
    [[0, 1], [2]]
    """
    groups: dict[tuple[str | None, int | None], list[int]] = {}
    for i, dimension in enumerate(dimensions):
        is_knot = dimension.gradient is not None and dimension.kind == "float"
        groups.setdefault((dimension.gradient, None) if is_knot else (None, i), []).append(i)
    return list(groups.values())


def _average(dimension: Dimension, values: list[Value]) -> Value:
    if len(values) == 1 or dimension.kind != "float":
        return values[0]
    return rounded(dimension, float(np.mean([float(value) for value in values])))
