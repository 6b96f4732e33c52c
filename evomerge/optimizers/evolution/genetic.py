"""A genetic algorithm for recipes evolves where to cut, and lets mates make up for each other.

M2N2, Abrantes 2025, https://arxiv.org/abs/2508.16204: a child takes one parent's mixture up to a
depth and the other's below it; the mate is drawn by what it solves and the parent does not; and
fitness on an item is shared among all who solve it, which keeps specialists alive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from evomerge.optimizers.checks import share_of_range
from evomerge.optimizers.coordinates import Floats
from evomerge.optimizers.evolution.moves import cloud, mutated
from evomerge.optimizers.optimizer import ItemScores, Optimizer
from evomerge.recipe.space.dimension import Dimension, Point

_EPSILON = 1e-6


@dataclass(frozen=True)
class Member:
    """A member of the archive: its position, fitness, and score on each item if known."""

    units: Floats
    fitness: float
    scores: ItemScores | None


class GeneticAlgorithm(Optimizer):
    """An archive of recipes, bred a generation at a time.

        child_j = w a_j + (1 - w) b_j   above the cut,   (1 - w) a_j + w b_j   below it
        g(a, b) = sum_i max(s_bi - s_ai, 0) / (z_i + eps)     how much b is drawn as a's mate
        f(x)    = sum_i s_xi / (z_i + eps)                     who stays in the archive

    with cut and w uniform in [0, 1], s_xi the score of x on item i, and z_i the archive's sum of
    them. Items are those that all members have seen; where there are none (items redrawn), the
    tasks' means stand for them; without scores (`tell` got none) fitness decides and mates are
    drawn evenly. The member of the highest fitness always stays. M2N2 mutates no large models, but
    a search that starts from one recipe has nothing to cross without.

    Args:
        sigma: Standard deviation of the first archive about the initial point and of mutations, as
            a share of each dimension's range.
        population: Children per generation and size of the archive; ``None`` means
            ``4 + floor(3 ln d)``.
        seed: The seed used when `start` is given none.
    """

    smallest_population = 2
    compares_generations = True
    learns_from_items = True

    def __init__(
        self, sigma: float = 0.1, population: int | None = None, seed: int | None = None
    ) -> None:
        super().__init__(population=population, seed=seed)
        self._sigma = share_of_range("GeneticAlgorithm sigma", sigma)

    def _begin(self) -> None:
        self._rng = np.random.default_rng(self._seed)
        self._steps = np.full(len(self._coordinates), self._sigma)
        self._archive: list[Member] = []
        used = [self._coordinates.dimensions[i] for i in self._coordinates.free]
        self._depths = depths(used)
        self._is_choice = np.array([dimension.kind == "categorical" for dimension in used])
        self._first = True

    def _propose(self) -> list[Point]:
        if len(self._archive) < 2:
            centre = (
                self._archive[0].units if self._archive else self._coordinates.encode(self._initial)
            )
            self._children = cloud(self._rng, centre, self._steps, self._population)
        else:
            parents = self._parents()
            self._children = np.array([self._child(*pair) for pair in parents])
        points = [self._coordinates.decode(units) for units in self._children]
        if self._first:
            points[0] = self._initial
        return points

    def _learn(self, fitness: list[float | None]) -> None:
        self._first = False
        results = zip(self._children, fitness, self._scores, strict=True)
        born = [Member(units, value, s) for units, value, s in results if value is not None]
        pool = self._archive + born
        if not pool:
            return
        scores = profiles(pool)
        worth = (
            np.array([member.fitness for member in pool])
            if scores is None
            else shared_fitness(scores)
        )
        best = max(range(len(pool)), key=lambda i: pool[i].fitness)
        worth[best] = math.inf
        survivors = np.argsort(-worth, kind="stable")[: self._population]
        self._archive = [pool[i] for i in survivors]

    def _parents(self) -> list[tuple[Member, Member]]:
        """Draw pairs: the better of two drawn, and a mate that makes up for it."""
        shared = profiles(self._archive)
        fitness = np.array([member.fitness for member in self._archive])
        pairs = []
        for _ in range(self._population):
            drawn = self._rng.integers(len(fitness), size=2)
            first = int(drawn[np.argmax(fitness[drawn])])
            attractions = np.ones(len(fitness)) if shared is None else attraction(shared, first)
            attractions[first] = 0
            if attractions.sum() <= 0:  # nobody solves what it fails
                attractions = np.ones(len(fitness))
                attractions[first] = 0
            second = self._rng.choice(len(fitness), p=attractions / attractions.sum())
            pairs.append((self._archive[first], self._archive[second]))
        return pairs

    def _child(self, a: Member, b: Member) -> Floats:
        cut, w = self._rng.random(2)
        share = shares(self._depths, cut, w)
        # what is inactive at b says nothing
        theirs = self._coordinates.fill_inactive(b.units, a.units)
        ours = self._coordinates.fill_inactive(a.units, theirs)
        blended = share * ours + (1 - share) * theirs
        taken = np.where(self._rng.random(len(share)) < share, ours, theirs)
        child = np.where(self._is_choice, taken, blended)
        moved = mutated(self._rng, child, self._steps, self._is_choice)
        return self._coordinates.fill_inactive(moved, a.units)


def shares(depths: Floats, cut: float, w: float) -> Floats:
    """Return the first parent's share of a child at each depth: w above the cut, 1 - w below.

    >>> shares(np.array([0.0, 0.5, 1.0]), 0.4, 0.75)
    array([0.75, 0.25, 0.25])
    """
    result: Floats = np.where(depths < cut, w, 1 - w)
    return result


def attraction(scores: Floats, first: int) -> Floats:
    """Return g(first, b) for each member b: how much it solves of what the first one fails.

    >>> attraction(np.array([[1.0, 1, 0], [1, 0, 0], [0, 0, 1]]), 0).round(3)
    array([0., 0., 1.])
    """
    gains = np.maximum(scores - scores[first], 0)  # (members, items)
    result: Floats = (gains / (scores.sum(axis=0) + _EPSILON)).sum(axis=1)
    return result


def shared_fitness(scores: Floats) -> Floats:
    """Return f(x) for each member: its scores, each item's shared among all who solve it.

    >>> shared_fitness(np.array([[1.0, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 1]])).round(3)
    array([0.833, 0.833, 0.333, 1.   ])
    """
    result: Floats = (scores / (scores.sum(axis=0) + _EPSILON)).sum(axis=1)
    return result


def profiles(members: Sequence[Member]) -> Floats | None:
    """Return scores of all members on what all have seen: items, else tasks' means; (members, n).

    Shifted to be at least 0 where a score is negative. ``None`` if somebody's scores are unknown.
    """
    scores = [member.scores for member in members if member.scores]
    if len(scores) < len(members):
        return None
    keys = [{(task, item) for task, items in s.items() for item in items} for s in scores]
    common = sorted(set.intersection(*keys))
    if common:
        table = np.array([[s[t][i] for t, i in common] for s in scores])
    else:
        tasks = sorted(set.intersection(*map(set, scores)))
        table = np.array([[fmean(s[t].values()) for t in tasks] for s in scores])
    shifted: Floats = table - np.minimum(table.min(axis=0), 0)
    return shifted


def depths(dimensions: Sequence[Dimension]) -> NDArray[np.float64]:
    """Return the depth in the model at which each dimension acts, from 0 (first layer) to 1.

    A block's parameter acts in the middle of the block's layers, a knot at its share of the depth;
    one that acts everywhere is spread by its index among the dimensions.

    >>> knots = [Dimension(f"w[{k}]", gradient="w", knot=k) for k in range(2)]
    >>> depths([*knots, Dimension("blocks[2:4].t", layers=(2, 4))])
    array([0.  , 1.  , 0.75])
    """
    n_layers = max((d.layers[1] for d in dimensions if d.layers), default=1)
    last_knot: dict[str | None, int] = {}
    for d in dimensions:
        last_knot[d.gradient] = max(last_knot.get(d.gradient, 0), d.knot or 0)
    positions = []
    for i, d in enumerate(dimensions):
        within = 0.5
        if d.knot is not None and last_knot[d.gradient]:
            within = d.knot / last_knot[d.gradient]
        elif d.layers is None:
            within = i / max(1, len(dimensions) - 1)
        first, end = d.layers or (0, n_layers)
        low, high = first / n_layers, end / n_layers
        positions.append(low + within * (high - low))
    return np.array(positions, dtype=np.float64)
