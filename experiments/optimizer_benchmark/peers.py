"""Two peers by their published settings, behind the ask/tell of evomerge's optimizers.

mergekit-evolve: `cma.fmin2` as it calls it: start 1/n for every weight, step 1/6, pycma's defaults
for everything else, no bounds, the absolute value of what is drawn.
Mergenetic: pymoo's GA as in its end2end.py: whole numbers 0 to 10 drawn at first, SBX and
polynomial mutation at their defaults, tenths in [0, 1]; population 10, its command line's default.
"""

from collections.abc import Sequence

import cma
import numpy as np

Point = tuple[float, ...]


class MergekitEvolve:
    """pycma at its defaults."""

    def __init__(self, dimensions: int, models: int, seed: int, start: Point | None = None) -> None:
        first = [1.0 / models] * dimensions if start is None else list(start)
        options = {"seed": seed + 1, "verbose": -9, "verb_log": 0, "verb_disp": 0}
        self._strategy = cma.CMAEvolutionStrategy(first, 1 / 6, options)

    @property
    def population(self) -> int:
        return int(self._strategy.popsize)

    def ask(self) -> list[Point]:
        self._drawn = self._strategy.ask()
        return [tuple(round(abs(float(x)), 6) for x in drawn) for drawn in self._drawn]

    def tell(self, _points: Sequence[Point], fitness: Sequence[float]) -> None:
        self._strategy.tell(self._drawn, [-value for value in fitness])


class Mergenetic:
    """pymoo's genetic algorithm; needs the package `pymoo`."""

    population = 10

    def __init__(self, dimensions: int, seed: int) -> None:
        from pymoo.algorithms.soo.nonconvex.ga import GA
        from pymoo.core.problem import Problem
        from pymoo.operators.crossover.sbx import SBX
        from pymoo.operators.mutation.pm import PM
        from pymoo.operators.sampling.rnd import IntegerRandomSampling

        self._algorithm = GA(
            pop_size=self.population,
            sampling=IntegerRandomSampling(),
            crossover=SBX(),
            mutation=PM(),
            eliminate_duplicates=True,
        )
        problem = Problem(n_var=dimensions, n_obj=1, xl=0, xu=10)
        self._algorithm.setup(problem, termination=("n_iter", 10**9), seed=seed, verbose=False)

    def ask(self) -> list[Point]:
        self._asked = self._algorithm.ask()
        return [tuple(round(float(x) / 10, 6) for x in one) for one in self._asked.get("X")]

    def tell(self, points: Sequence[Point], fitness: Sequence[float]) -> None:
        self._asked.set("F", -np.array(fitness, dtype=float)[:, None])
        for individual in self._asked:
            individual.evaluated.update({"F", "G", "H"})
        self._algorithm.evaluator.n_eval += len(points)
        self._algorithm.tell(infills=self._asked)
