"""Should a generation be asked before the last one was told, so that no worker waits for its tail?

    python experiments/overlap/measure_overlap.py efficiency [SEEDS]
    python experiments/overlap/measure_overlap.py busy
    python experiments/overlap/measure_overlap.py speeds

Efficiency: the landscapes of optimizer_smoke, "gap closed" as there. Asked ahead, generation g + 1
comes from what generation g - 1 taught; its steps count from where the mean is by then. Busy: the
real scheduler in the simulator's virtual time, shards of log-normal duration. Speeds: the same with
workers of different speed, as it is and with requests weighted by speeds that are known.
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
from evomerge.study.workers.queue import Waiting  # noqa: E402
from evomerge.study.workers.requests import Evaluate, Request  # noqa: E402
from evomerge.study.workers.scheduler import Done, Scheduler  # noqa: E402
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
    speeds: tuple[float, ...] = (1.0,)  # in turn
    sigma = 1.0

    def submit(self, worker: int, request: Request) -> None:
        shards = len(request.shards) if isinstance(request, Evaluate) else 1
        draw, speed = self._weather._draw, self.speeds[worker % len(self.speeds)]
        seconds = sum(draw.lognormvariate(0.0, self.sigma) for _ in range(shards)) / speed
        self._weather.seconds = lambda: seconds  # type: ignore[method-assign]
        Timed.spans.append((self._clock.now, self._clock.now + seconds))
        super().submit(worker, request)


class Weighted(Scheduler):
    """Gives a slow worker as much less as it is slower, and nothing that others finish sooner."""

    def _speed(self, worker: int) -> float:
        return Timed.speeds[worker % len(Timed.speeds)]

    def _take(self, worker: int, waiting: Waiting, done: Done) -> Any:
        speeds = [self._speed(w) for w in range(self.pool.size)]
        left = sum(job.task.unit.size for job in self._running.values()) + len(waiting)
        faster = sum(speed for speed in speeds if speed > speeds[worker])
        if faster and left / faster < 1 / speeds[worker]:
            return None  # the faster ones do it all in less time than this one needs for a shard
        self._share = speeds[worker] * len(speeds) / sum(speeds)
        return super()._take(worker, waiting, done)

    def _most(self, waiting: int) -> int:
        return max(1, int(super()._most(waiting) * self._share))


def speeds() -> None:
    """The time of four generations over the least that such workers could take."""
    print("speeds workers candidates shards | as it is, weighted | weighted / as it is")
    for Timed.speeds in [(1, 1, 0.5, 0.25), (*(7 * [1]), 0.25), (*(7 * [1]), 0.1)]:
        for workers in (8, 32):
            for candidates, shards in [(1, 4), (2, 16), (4, 16)]:
                ways = []
                for scheduler in (Scheduler, Weighted):
                    with pytest.MonkeyPatch.context() as patch:
                        patch.setattr(cluster.study_module, "Scheduler", scheduler)
                        ways.append([least(workers, candidates, shards, s) for s in range(3)])
                before, after = np.array(ways)
                ratio = after / before
                print(
                    *(set(Timed.speeds), workers, candidates, shards, "|"),
                    *(f"{before.mean():.3f} {after.mean():.3f} |",),
                    f"{ratio.mean():.3f} ± {ratio.std(ddof=1) / 3**0.5:.3f}",
                    flush=True,
                )


def least(workers: int, candidates: int, shards: int, seed: int) -> float:
    """The time that a study takes, over that of its work shared out without a rest."""
    Timed.sigma = 0.5
    _, took = study(workers, candidates, shards, seed)
    fleet = [Timed.speeds[w % len(Timed.speeds)] for w in range(workers)]
    work = 4 * candidates * workers * shards * float(np.exp(Timed.sigma**2 / 2))
    return took / (work / sum(fleet))


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
    worked, took = study(workers, candidates, shards)
    return worked / (workers * took)


def study(workers: int, candidates: int, shards: int, seed: int = 0) -> tuple[float, float]:
    """Seconds that workers were busy, and that passed, from the first trial to the last."""
    population = candidates * workers
    config = stub_config(
        evaluate={"items": {"per_generation": 8}, "batch_size": 16 // shards},
        search={"population": population, "trials": 4 * population, "optimizer": "cmaes"},
    )
    weather = cluster.calm()
    weather.workers, weather._draw = workers, random.Random(seed)
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
        cluster.Study(cluster.StudyConfig.from_dict(asked, Path("/")), run, hear).optimize()
    began, ended = moments
    worked = sum(min(b, ended) - max(a, began) for a, b in Timed.spans if b > began and a < ended)
    return worked, ended - began


if __name__ == "__main__":
    {"efficiency": efficiency, "busy": busy, "speeds": speeds}[sys.argv[1]](*map(int, sys.argv[2:]))
