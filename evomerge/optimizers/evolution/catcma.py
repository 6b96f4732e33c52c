"""CatCMA with margin searches floats, integers and true categories by one joint distribution.

Hamano 2025, https://arxiv.org/abs/2504.07884. The only door to the `cmaes` package.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from cmaes import CatCMAwM

from evomerge.optimizers.checks import share_of_range
from evomerge.optimizers.coordinates import Floats, Mask
from evomerge.optimizers.evolution.inactive import correct_inactive
from evomerge.optimizers.evolution.start_watch import StartWatch
from evomerge.optimizers.optimizer import Optimizer, ranks
from evomerge.recipe.space.dimension import Point

# A deviation below this share of its range moves no coefficient that a merge could tell apart.
_CONVERGED = 1e-6

_DRAWN_ANEW = 8  # of a first candidate's choices, on average

# An integer with more values than this is searched as a continuum and rounded.
_MOST_VALUES = 32


class CatCma(Optimizer):
    """CatCMAwM over the unit cube: a normal distribution and one probability table per category.

    Integers keep a margin: a smallest probability of leaving the current value. So do choices,
    whose table starts half-way between even and certain of the initial choice. Samples outside
    the bounds are clipped to them and pay for the distance in their rank. The first point of all is
    the initial one; while it is better than the better halves of the last three generations, it is
    what `mean` says.

    Args:
        sigma: First standard deviation, as a share of each dimension's range (see `CmaEs`).
        population: Points per generation; ``None`` means ``4 + floor(3 ln d)``.
        seed: The seed used when `start` is given none.
    """

    smallest_population = 4
    compares_generations = True  # the start with the last ones

    def __init__(
        self, sigma: float = 0.08, population: int | None = None, seed: int | None = None
    ) -> None:
        super().__init__(population=population, seed=seed)
        self._sigma = share_of_range("CatCma sigma", sigma)

    @property
    def mean(self) -> Point | None:
        """The centre of the normal distribution, with the likeliest choice of each category."""
        self._check_started("mean")
        if self._strategy.generation == 0 or self._watch.leads:
            return self._initial
        units = np.empty(len(self._coordinates))
        if self._gaussian:
            units[self._gaussian] = self._strategy._mean
        if self._choices:
            likeliest = self._strategy._q.argmax(axis=1)
            units[self._choices] = (likeliest + 0.5) / self._n_choices
        return self._coordinates.decode(units)

    @property
    def stopped(self) -> str | None:
        """The reason for stopping: every float converged; integers and choices never do."""
        self._check_started("stopped")
        if not self._continuous:
            return None
        deviations = self._strategy.deviations[: len(self._continuous)]
        if self._inactive is not None:
            deviations = deviations[~self._inactive[:, self._continuous].all(axis=0)]
        if deviations.max(initial=0.0) < _CONVERGED:
            return f"converged: every standard deviation is below {_CONVERGED:g} of its range"
        return None

    def _begin(self) -> None:
        self._watch, self._is_first = StartWatch(), True
        self._sort_coordinates()
        units = self._coordinates.encode(self._initial)
        generator = np.random.SeedSequence(self._seed)
        self._strategy = _Strategy(
            x_space=[[0.0, 1.0]] * len(self._continuous) or None,
            z_space=[self._coordinates.midpoints(i) for i in self._integers] or None,
            c_space=self._n_choices.tolist() or None,
            population_size=self._population,
            mean=units[self._gaussian] if self._gaussian else None,
            sigma=self._sigma,
            # The first deviation is sigma in every coordinate. Without `cov`, cmaes would take one
            # that depends on the initial point's distance to the bounds, and so other trials.
            cov=np.eye(len(self._gaussian)) if self._gaussian else None,
            cat_param=self._first_probabilities(units) if self._choices else None,
            seed=int(generator.generate_state(1)[0]),
        )

    def _propose(self) -> list[Point]:
        self._solutions = [self._strategy.ask() for _ in range(self._population)]
        if self._is_first:
            self._solutions[0] = self._solution(self._coordinates.encode(self._initial))
        points = [self._coordinates.decode(self._units(solution)) for solution in self._solutions]
        if self._is_first:
            points[0] = self._initial
        return points

    def _learn(self, fitness: list[float | None]) -> None:
        self._watch.learn(fitness)
        self._is_first = False
        ranked = ranks(fitness)
        if ranked is None:
            return
        solutions = self._solutions
        if self._inactive is not None:
            solutions = [
                self._strategy.without_inactive(
                    solution, inactive[self._gaussian], inactive[self._choices]
                )
                for solution, inactive in zip(solutions, self._inactive, strict=True)
            ]
        ranked_solutions = list(zip(solutions, ranked.tolist(), strict=True))
        with np.errstate(divide="ignore", invalid="ignore"):  # rows that its margin masks out
            self._strategy.tell(ranked_solutions)  # which sorts this list

    def _sort_coordinates(self) -> None:
        """Sort the coordinates into the kinds that CatCMAwM keeps apart, in its order."""
        dimensions = self._coordinates.dimensions
        kinds: dict[str, list[int]] = {"float": [], "int": [], "categorical": []}
        for i, (j, cells) in enumerate(
            zip(self._coordinates.free, self._coordinates.cells, strict=True)
        ):
            kind = dimensions[j].kind
            if kind == "int" and cells == 2:  # its authors' advice for binary variables
                kind = "categorical"
            if kind == "int" and cells > _MOST_VALUES:
                kind = "float"
            kinds[kind].append(i)
        self._continuous, self._integers, self._choices = kinds.values()
        self._gaussian = self._continuous + self._integers
        self._n_choices = np.array([self._coordinates.cells[i] for i in self._choices], dtype=int)

    def _units(self, solution: CatCMAwM.Solution) -> Floats:
        units = np.empty(len(self._coordinates))
        if self._gaussian:
            parts = [part for part in (solution.x, solution.z) if part is not None]
            units[self._gaussian] = np.concatenate(parts)
        if self._choices:
            units[self._choices] = (solution.c.argmax(axis=1) + 0.5) / self._n_choices
        return units

    def _solution(self, units: Floats) -> CatCMAwM.Solution:
        """Return the solution whose units these are."""
        x = units[self._continuous] if self._continuous else None
        z = units[self._integers] if self._integers else None
        c = None
        if self._choices:
            c = np.zeros((len(self._choices), self._n_choices.max()), dtype=bool)
            chosen = (units[self._choices] * self._n_choices).astype(int)
            c[np.arange(len(self._choices)), chosen] = True
        return CatCMAwM.Solution(x, z, c, units[self._gaussian] if self._gaussian else None)

    def _first_probabilities(self, units: Floats) -> Floats:
        """Return one row per category: half of it even, half of it on the initial choice.

        More than half where there are many, as the slots of a path: of the first candidates no more
        than about eight choices are drawn anew, since most changes at once are nobody's neighbours.
        """
        table = np.zeros((len(self._choices), self._n_choices.max()))
        drawn = min(0.5, _DRAWN_ANEW / len(self._choices))
        for row, coordinate, n in zip(table, self._choices, self._n_choices, strict=True):
            row[:n] = drawn / n
            row[int(units[coordinate] * n)] += 1 - drawn
        return table


@dataclass(frozen=True)
class _PartlyInactive(CatCMAwM.Solution):  # type: ignore[misc]  # the package has no type information
    """A solution with a mask of the normal distribution's coordinates that are inactive at it."""

    inactive: Mask | None = None


class _Strategy(CatCMAwM):  # type: ignore[misc]
    """CatCMAwM that draws with the symmetric root of C and learns nothing of inactive coordinates.

    Its own B D z takes B from C's eigenvectors, which for equal eigenvalues (all of them, at
    first) are whatever rounding makes them: another processor then draws other points from the
    second generation on. B D B^T z is as normal, continuous in C, and the same everywhere.
    """

    @property
    def deviations(self) -> Floats:
        """The standard deviations of the normal distribution, before the margin; (d,)."""
        deviations: Floats = self._sigma * np.sqrt(np.diag(self._C))
        return deviations

    def without_inactive(
        self, solution: CatCMAwM.Solution, numbers: Mask, choices: Mask
    ) -> _PartlyInactive:
        """Return a solution that teaches nothing about inactive numbers and choices.

        An inactive choice becomes the probabilities that it was drawn from, a gradient of 0. An
        inactive number is put within its bounds, where it costs no rank.
        """
        c, v = solution.c, solution._v_raw
        if c is not None:
            c = np.where(choices[:, None], self._q, c)
        if v is not None:
            v = np.where(numbers, np.clip(v, 0.0, 1.0), v)
        return _PartlyInactive(solution.x, solution.z, c, v, numbers)

    def tell(self, solutions: list[tuple[CatCMAwM.Solution, float]]) -> None:
        """Update the distribution; sorts `solutions`, best first."""
        self._ranked_solutions = solutions
        super().tell(solutions)

    def _update_gaussian(self, sv: Floats) -> None:
        best = [solution for solution, _ in self._ranked_solutions[: self._mu]]
        self._never_active: Mask = np.zeros(self._Nmi, dtype=bool)  # in all that is learnt from
        steps, before = (sv[: self._mu] - self._mean) / self._A, self.deviations
        super()._update_gaussian(sv)
        if isinstance(best[0], _PartlyInactive):
            inactive = np.array([solution.inactive for solution in best])
            weights = self._weights[: self._mu]
            shift, scale = correct_inactive(steps, weights, inactive, before, self.deviations)
            self._mean += shift
            self._C *= np.outer(scale, scale)
            self._pc *= scale
            self._B, self._D = None, None  # to be computed again
            self._never_active[:] = inactive.all(axis=0)

    def _margin_correction(self) -> None:
        mean, widths, rates = self._mean.copy(), self._A.copy(), self._pmut.copy()
        super()._margin_correction()
        unchanged = self._never_active
        self._mean[unchanged] = mean[unchanged]
        self._A[unchanged] = widths[unchanged]
        integers = unchanged[self._discrete_idx]
        self._pmut[integers] = rates[integers]

    def _sample_from_gaussian(self) -> Floats:
        b, d = self._eigen_decomposition()  # B, diag(D)
        z = self._rng.randn(self._Nmi)  # ~ N(0, I), Hansen 2016 eq. 38
        y = b @ (d * (b.T @ z))  # ~ N(0, C), eq. 39 with B D B^T for B D
        x: Floats = self._mean + self._sigma * self._A * y  # eq. 40, scaled by the margin's A
        return x
