"""Should a generation be asked before the last one was told, so that no worker waits for its tail?

    python experiments/overlap/measure_overlap.py efficiency [SEEDS]
    python experiments/overlap/measure_overlap.py busy

Efficiency: the landscapes of optimizer_smoke, "gap closed" as there. Asked ahead, generation g + 1
comes from what generation g - 1 taught; its steps count from where the mean is by then. Busy: the
real scheduler in the simulator's virtual time, shards of log-normal duration.
"""

from __future__ import annotations

import collections
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cmaes import CatCMAwM

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "experiments" / "optimizer_smoke"), str(ROOT)]
from run import Landscape  # noqa: E402

from evomerge import optimizers  # noqa: E402
from evomerge.study.journal.events import AskedEvent, SearchEndedEvent  # noqa: E402
from evomerge.study.workers.requests import Evaluate, Request  # noqa: E402
from tests.simulator import cluster  # noqa: E402
from tests.study.small_study import stub_config  # noqa: E402

SETTINGS = [
    ("sphere", 32, 0, 0.1),
    ("ellipsoid", 56, 0, 0.05),
    ("coupled", 56, 0, 0.05),
    ("ellipsoid", 28, 4, 0.05),
]


class Ahead:
    """Asks `catcma` or `cmaes` for generations before they learn of the one before."""

    def __init__(self, name: str, landscape: Landscape, seed: int, population: int) -> None:
        self.search: Any = optimizers.create(name)
        self.search.start(landscape.dimensions, seed, population=population)
        self.is_catcma = name == "catcma"

    def ask(self) -> tuple[list, Any, np.ndarray]:
        points = self.search._propose()
        self.search._is_first = False  # so that only one generation has the start
        drawn = self.search._solutions if self.is_catcma else self.search._units
        return points, (self.search._strategy, drawn), self._mean()

    def _mean(self) -> np.ndarray:
        strategy = self.search._strategy
        return (strategy._mean if self.is_catcma else strategy.mean).copy()

    def tell(self, drawn: Any, mean: np.ndarray, fitness: list[float]) -> None:
        strategy, solutions = drawn
        if strategy is not self.search._strategy:  # asked before a restart
            return
        moved = self._mean() - mean
        if self.is_catcma:
            if moved.any():
                solutions = [CatCMAwM.Solution(s.x, s.z, s.c, s._v_raw + moved) for s in solutions]
            self.search._solutions = solutions
        else:
            if moved.any():
                gp = strategy.gp
                solutions = [np.clip(gp.pheno(gp.geno(u) + moved), 0, 1) for u in solutions]
            self.search._units, strategy._flgtelldone = solutions, False
        self.search._learn(fitness)


def gap_closed(
    landscape: Landscape, name: str, seed: int, ahead: int, trials: int, population: int
) -> float:
    """Run one search that asks so many generations ahead."""
    search = Ahead(name, landscape, seed, population)
    pending: collections.deque[Any] = collections.deque()
    asked = 0
    while True:
        while len(pending) <= ahead and asked + search.search.population <= trials:
            pending.append(search.ask())
            asked += search.search.population
        if not pending:
            return 100 * (1 - landscape.loss(search.search.mean) / landscape.start)
        points, drawn, mean = pending.popleft()
        search.tell(drawn, mean, [landscape.fitness(point) for point in points])


def efficiency(seeds: int = 6) -> None:
    """Generations one by one, one ahead, and one ahead with half as many trials again."""
    print("population trials landscape optimizer | one by one, ahead, 1.5 x trials | differences")
    for population, trials in ((16, 240), (32, 480), (64, 960)):
        for kind, d, choices, noise in SETTINGS:
            for name in ("catcma", "cmaes"):
                closed = np.empty((3, seeds))
                for way, (ahead, budget) in enumerate(
                    [(0, trials), (1, trials), (1, 3 * trials // 2)]
                ):
                    for seed in range(seeds):
                        landscape = Landscape(kind, d, choices, 0.15, noise, seed)
                        closed[way, seed] = gap_closed(
                            landscape, name, seed, ahead, budget, population
                        )
                about = [
                    f"{one.mean():+.1f} ± {one.std(ddof=1) / seeds**0.5:.1f}"
                    for one in (closed[1] - closed[0], closed[2] - closed[0])
                ]
                means = " ".join(f"{mean:.1f}" for mean in closed.mean(axis=1))
                print(population, trials, kind, d, choices, name, "|", means, "|", *about)


class Timed(cluster.SimulatedPool):
    """Notes how long workers are busy."""

    spans: list[tuple[float, float]]

    def submit(self, worker: int, request: Request) -> None:
        shards = len(request.shards) if isinstance(request, Evaluate) else 1
        seconds = sum(self._weather._draw.lognormvariate(0.0, 1.0) for _ in range(shards))
        self._weather.seconds = lambda: seconds  # type: ignore[method-assign]
        Timed.spans.append((self._clock.now, self._clock.now + seconds))
        super().submit(worker, request)


def busy() -> None:
    """Four generations without faults; a shard takes 1 on average, σ 1."""
    print("workers candidates shards | share of time that workers are busy")
    for workers in (32, 64):
        for candidates, shards in [(1, 1), (1, 4), (2, 4), (4, 4), (1, 16), (2, 16), (4, 16)]:
            print(
                workers,
                candidates * workers,
                shards,
                "|",
                f"{share(workers, candidates, shards):.1%}",
            )


def share(workers: int, candidates: int, shards: int) -> float:
    """The share from the first trial to the last."""
    population = candidates * workers
    config = stub_config(
        evaluate={"items": {"per_generation": 8}, "batch_size": 16 // shards},
        search={"population": population, "trials": 4 * population, "optimizer": "cmaes"},
    )
    weather = cluster.calm()
    weather.workers, weather._draw = workers, random.Random(0)
    clock = cluster.Clock()
    Timed.spans, moments = [], []

    def hear(event: Any, _record: Any) -> None:
        first = isinstance(event, AskedEvent) and event.trials[0].generation == 0
        if first or isinstance(event, SearchEndedEvent):
            moments.append(clock.now)

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as run:
        cluster.simulate(patch, clock)
        patch.setattr(
            cluster.study_module, "open_pool", lambda config, _: Timed(config, weather, clock)
        )
        asked = config.to_dict()
        asked["workers"] = {**asked["workers"], "count": workers}
        study = cluster.Study(cluster.StudyConfig.from_dict(asked, Path("/")), run, hear)
        study.optimize()
    began, ended = moments
    worked = sum(min(b, ended) - max(a, began) for a, b in Timed.spans if b > began and a < ended)
    return worked / (workers * (ended - began))


if __name__ == "__main__":
    {"efficiency": efficiency, "busy": busy}[sys.argv[1]](*map(int, sys.argv[2:]))
