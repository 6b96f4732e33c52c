"""CMA-ES learns a normal distribution: its centre, its step length and its axes.

Hansen 2016, https://arxiv.org/abs/1604.00772, by `cma`; restarts after Auger 2005,
https://doi.org/10.1109/CEC.2005.1554902. The only door to the `cma` package.
"""

from __future__ import annotations

import math
from typing import Any

import cma
import numpy as np

from evomerge.core.errors import UserError
from evomerge.optimizers.checks import share_of_range, whole_number
from evomerge.optimizers.coordinates import Floats
from evomerge.optimizers.evolution.inactive import correct_inactive
from evomerge.optimizers.evolution.start_watch import StartWatch
from evomerge.optimizers.optimizer import Optimizer, ranks
from evomerge.recipe.space.dimension import Point

# Standard deviations below this share of a dimension's range move no coefficient that bfloat16
# (8 bits of mantissa) could tell apart: the search has converged.
_CONVERGED = 1e-6

# First deviation of a choice's coordinate, in sigmas. On a toy of nine mixed dimensions the mean
# loss over 40 seeds was .085 with 1, .025 with 1.5, .023 with 2 (pycma's own limit is near).
_WIDER_IN_CHOICES = 2.0

# What pycma would do by default: stop on flat fitness or elapsed time, write files,
# read a file from the working directory, seed numpy's global generator.
_QUIET: dict[str, Any] = {
    "verbose": -9,
    "verb_log": 0,
    "verb_disp": 0,
    "signals_filename": "",
    "seed": math.nan,  # leaves np.random alone; all numbers come from the `randn` option
    "tolfun": 0,
    "tolfunhist": 0,
    "tolfunrel": 0,
    "tolflatfitness": math.inf,
    "tolstagnation": 0,
    "tolxstagnation": False,
    "tolx": 0,
    "tolfacupx": math.inf,
    "tolupsigma": math.inf,
    "maxiter": math.inf,
    "AdaptSigma": cma.sigma_adaptation.CMAAdaptSigmaCSA,  # also from 300 dimensions on
    "CMA_mirrors": 0,  # mirrored samples (populations below 6) need their fitness, flat or not
}


class CmaEs(Optimizer):
    """CMA-ES over the unit cube.

    Bounds are kept by pycma's smooth transformation into them, so `mean` is feasible and no point
    piles up on a bound. An integer is searched as a continuum cut into cells, with a smallest
    standard deviation that keeps neighbouring values in reach; a choice is searched by its index
    in the list, which suits ordered choices (`catcma` treats choices as categories). The first
    point of all is the initial one; while it is better than the better halves of the last three
    generations, it is what `mean` says.

    Args:
        sigma: First standard deviation, as a share of each dimension's range. For a few hundred
            evaluations 0.08 was best where the optimum lies 0.15 to 0.3 of the range away, 0.04
            where it is as near as 0.05 (experiments/optimizer_smoke).
        population: Points per generation; ``None`` means ``4 + floor(3 ln d)``.
        restarts: Number of restarts from the initial point, each with twice the population, after
            the search has converged.
        diagonal: If true, learn only a step length per dimension and no correlations
            (sep-CMA-ES, Ros 2008, https://doi.org/10.1007/978-3-540-87700-4_30): d numbers
            instead of d²/2, learnt faster, for hundreds of dimensions.
        seed: The seed used when `start` is given none.
    """

    smallest_population = 4
    compares_generations = True  # the start with the last ones

    def __init__(
        self,
        sigma: float = 0.08,
        population: int | None = None,
        restarts: int = 4,
        diagonal: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__(population=population, seed=seed)
        self._sigma = share_of_range("CmaEs sigma", sigma)
        if not isinstance(diagonal, bool):
            raise UserError(f"CmaEs diagonal: expected true or false, but got {diagonal!r}")
        self._diagonal = diagonal
        self._restarts = whole_number("CmaEs restarts", restarts, 0)

    @property
    def mean(self) -> Point | None:
        """The centre of the distribution, mapped into the bounds."""
        self._check_started("mean")
        if self._strategy.countiter == 0 or self._watch.leads:
            return self._initial
        return self._decode(self._strategy.result.xfavorite)

    @property
    def stopped(self) -> str | None:
        """The reason for stopping: the last restart has converged, too."""
        self._check_started("stopped")
        return self._reason if self._restarted == self._restarts else None

    def _begin(self) -> None:
        self._restarted = 0
        self._reason: str | None = None
        self._watch, self._is_first = StartWatch(), True
        # pycma does not support one dimension: it gets a second one, on which nothing depends
        self._idle = 1 if len(self._coordinates) == 1 else 0
        self._launch()

    def _propose(self) -> list[Point]:
        if self._reason is not None and self._restarted < self._restarts:
            self._restarted += 1
            self._population *= 2
            self._launch()
        if self._is_first:  # the mean is the start
            self._strategy.inject([self._strategy.mean], force=True)
        self._units = self._strategy.ask()  # population arrays of d unit coordinates
        points = [self._decode(units) for units in self._units]
        if self._is_first:
            points[0] = self._initial
        return points

    def _learn(self, fitness: list[float | None]) -> None:
        self._watch.learn(fitness)
        self._is_first = False
        ranked = ranks(fitness)
        if ranked is None:
            self._strategy._injected_solutions_archive.clear()  # it warns of those it never sees
            return
        before = self._strategy.stds
        self._strategy.tell(self._units, ranked.tolist())
        if self._inactive is not None:
            self._correct_inactive(ranked, before)
        self._reason = self._converged()

    def _correct_inactive(self, ranked: Floats, before: Floats) -> None:
        strategy = self._strategy
        weights = strategy.sp.weights.positive_weights
        best = np.argsort(ranked)[: len(weights)]
        # in the coordinates in which pycma keeps its mean
        steps = strategy.pop_sorted[: len(weights)] - strategy.mean_old
        assert self._inactive is not None
        inactive = np.pad(self._inactive[best], ((0, 0), (0, self._idle)))
        shift, scale = correct_inactive(steps, weights, inactive, before, strategy.stds)
        strategy.mean = strategy.mean + shift
        strategy.sigma_vec *= scale

    def _launch(self) -> None:
        generator = np.random.default_rng([self._seed, self._restarted])

        def randn(rows: int, columns: int) -> Floats:
            # pycma forms B D z (eq. 39). With z = B^T z' that is C^(1/2) z': as normal as before,
            # but continuous in C, where B alone is not: rounding errors that differ between
            # processors stay at 1e-15 instead of turning the axes of equal eigenvalues.
            z: Floats = generator.standard_normal((rows, columns))
            return z if self._diagonal else z @ self._strategy.sm.B

        options = {
            **_QUIET,
            "bounds": [0.0, 1.0],
            "popsize": self._population,
            "randn": randn,
            "CMA_diagonal": self._diagonal,
            "minstd": self._smallest_deviations(),
            "CMA_stds": self._relative_deviations(),
        }
        start = np.append(self._coordinates.encode(self._initial), [0.5] * self._idle)
        self._strategy = cma.CMAEvolutionStrategy(start, self._sigma, options)
        self._reason = None

    def _decode(self, units: Floats) -> Point:
        return self._coordinates.decode(units[: len(self._coordinates)])

    def _smallest_deviations(self) -> Floats:
        """Keep the neighbours of an integer or a choice in reach (LB of Marty 2024, PPSN)."""
        weights = cma.recombination_weights.RecombinationWeights(self._population)
        share_of_cell = min(0.2, weights.mueff / len(self._coordinates))
        smallest = [share_of_cell / n if n else 0.0 for n in self._coordinates.cells]
        return np.array(smallest + [0.0] * self._idle)

    def _relative_deviations(self) -> Floats:
        """Start wider in choices, whose order means little, so that all of them are tried."""
        kinds = [self._coordinates.dimensions[i].kind for i in self._coordinates.free]
        wider = [_WIDER_IN_CHOICES if kind == "categorical" else 1.0 for kind in kinds]
        return np.append(np.array(wider), [1.0] * self._idle)

    def _converged(self) -> str | None:
        deviations = np.asarray(self._strategy.stds)[: len(self._coordinates)]
        continuous = np.array([count == 0 for count in self._coordinates.cells])
        if self._inactive is not None:
            continuous &= ~self._inactive.all(axis=0)
        if continuous.any() and deviations[continuous].max() < _CONVERGED:
            return f"converged: every standard deviation is below {_CONVERGED:g} of its range"
        numerical = self._strategy.stop()  # only what _QUIET leaves on
        return f"numerical limit: {', '.join(sorted(numerical))}" if numerical else None
