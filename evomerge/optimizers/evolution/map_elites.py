"""MAP-Elites keeps an archive of specialists: for each task the best recipe of every cell.

Mouret 2015, https://arxiv.org/abs/1504.04909; the cycled tasks of CycleQD, Kuroki 2025,
https://arxiv.org/abs/2410.14735: one generation improves quality on one task, with cells made of
the scores on the other tasks; the next generation takes the next task.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

import numpy as np

from evomerge.optimizers.checks import share_of_range, whole_number
from evomerge.optimizers.coordinates import Floats
from evomerge.optimizers.evolution.moves import cloud, mutated
from evomerge.optimizers.optimizer import Optimizer
from evomerge.recipe.space.dimension import Point


@dataclass(frozen=True)
class Elite:
    """The best of a cell: its coordinates, its quality on the cell's task, and its fitness."""

    units: Floats
    quality: float
    fitness: float


class MapElites(Optimizer):
    """One archive per task, cycled; cells are the other tasks' scores cut into `bins`.

    Children are lines between two elites, a + t (b - a) with t normal about ½, and Gaussian
    mutations of them. Without scores of items there is one archive, whose quality is fitness and
    whose cells are bins of the first two coordinates. The elite of the highest fitness is always
    among the parents, so the weighted objective is searched too.

    Args:
        sigma: Standard deviation of the first generation about the initial point and of mutations,
            as a share of each dimension's range.
        bins: Parts into which each describing score in [0, 1] is cut (CycleQD: 15).
        population: Points per generation; ``None`` means ``4 + floor(3 ln d)``.
        seed: The seed used when `start` is given none.
    """

    smallest_population = 2
    compares_generations = True
    learns_from_items = True

    def __init__(
        self,
        sigma: float = 0.1,
        bins: int = 15,
        population: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(population=population, seed=seed)
        self._sigma = share_of_range("MapElites sigma", sigma)
        self._bins = whole_number("MapElites bins", bins, 1)

    def _begin(self) -> None:
        self._rng = np.random.default_rng(self._seed)
        self._steps = np.full(len(self._coordinates), self._sigma)
        self._archives: dict[str, dict[tuple[int, ...], Elite]] = {}
        self._best: Elite | None = None
        self._generation = 0
        used = [self._coordinates.dimensions[i] for i in self._coordinates.free]
        self._is_choice = np.array([dimension.kind == "categorical" for dimension in used])

    def _propose(self) -> list[Point]:
        if self._best is None:
            centre = self._coordinates.encode(self._initial)
            self._children = cloud(self._rng, centre, self._steps, self._population)
        else:
            tasks = sorted(self._archives)
            archive = self._archives[tasks[self._generation % len(tasks)]]
            elites = [archive[cell] for cell in sorted(archive)]
            self._children = np.array([self._child(elites) for _ in range(self._population)])
        points = [self._coordinates.decode(units) for units in self._children]
        if self._generation == 0:
            points[0] = self._initial
        return points

    def _learn(self, fitness: list[float | None]) -> None:
        self._generation += 1
        for units, value, scores in zip(self._children, fitness, self._scores, strict=True):
            if value is None:
                continue
            if self._best is None or value > self._best.fitness:
                self._best = Elite(units, value, value)
            means = {t: fmean(items.values()) for t, items in (scores or {}).items()}
            if len(means) < 2:
                cell = tuple(self._bin(unit) for unit in units[:2])
                self._enter("fitness", cell, Elite(units, value, value))
            for task in means:
                cell = tuple(self._bin(means[other]) for other in sorted(means) if other != task)
                self._enter(task, cell, Elite(units, means[task], value))

    def _enter(self, task: str, cell: tuple[int, ...], elite: Elite) -> None:
        archive = self._archives.setdefault(task, {})
        if cell not in archive or elite.quality > archive[cell].quality:
            archive[cell] = elite

    def _bin(self, score: float) -> int:
        return min(max(int(score * self._bins), 0), self._bins - 1)

    def _child(self, elites: list[Elite]) -> Floats:
        assert self._best is not None
        # parents in proportion to how far their fitness is above the worst elite's
        fitness = np.array([elite.fitness for elite in elites])
        above = fitness - fitness.min() + 1e-12
        a, b = self._rng.choice(len(elites), size=2, p=above / above.sum())
        first = self._best.units if self._rng.random() < 0.5 else elites[a].units
        second = self._coordinates.fill_inactive(elites[b].units, first)
        t = self._rng.normal(0.5, 0.25)
        line = first + t * (second - first)  # a + t (b - a)
        taken = np.where(self._rng.random(len(line)) < 0.5, first, second)
        child = np.where(self._is_choice, taken, np.clip(line, 0, 1))
        moved = mutated(self._rng, child, self._steps, self._is_choice)
        return self._coordinates.fill_inactive(moved, first)
