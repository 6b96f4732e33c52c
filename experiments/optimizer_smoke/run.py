"""Which optimizer, and with which first step, for 240 noisy evaluations?

Rerun:  python experiments/optimizer_smoke/run.py        (some four minutes on one core)

Everything starts at the middle of the unit cube; the optimum's coordinates are normal about it with
standard deviation `away`, clipped into the cube. Fitness is -loss plus noise whose standard
deviation is a share of the loss at the start. "Gap closed" is 1 - loss(chosen) / loss(start), in
per cent, without noise: chosen is the optimizer's mean, or (what one would pick otherwise) the
point with the best noisy fitness. Writes result.json beside this file.
"""

import json
import platform
import subprocess
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np

from evomerge.optimizers import create
from evomerge.recipe.space.dimension import Dimension

HERE = Path(__file__).parent
BUDGET = 240  # evaluations
SEEDS = 16
SIGMAS = (0.04, 0.06, 0.08, 0.1, 0.12, 0.17, 0.25)
METHODS = ("ties", "dare_ties", "slerp", "linear")


class Landscape:
    """A quadratic with an optimum drawn by seed; the last dimensions may be choices."""

    def __init__(
        self, kind: str, d: int, n_choices: int, away: float, noise: float, seed: int
    ) -> None:
        rng = np.random.default_rng([seed, d])
        self.optimum = np.clip(0.5 + away * rng.standard_normal(d), 0, 1)
        spread = 100.0 if kind != "sphere" else 1.0
        self.curvature = rng.permutation(spread ** np.linspace(0, 1, d))
        self.axes = np.linalg.qr(rng.standard_normal((d, d)))[0] if kind == "coupled" else None
        self.answers = [METHODS[i] for i in rng.integers(0, len(METHODS), n_choices)]
        self.d, self.noise, self.rng = d, noise, np.random.default_rng([seed, d, 1])
        self.dimensions = [Dimension(f"x{i}") for i in range(d)]
        self.dimensions += [
            Dimension(f"c{i}", "categorical", choices=METHODS) for i in range(n_choices)
        ]
        self.start = self.loss(tuple(dimension.start for dimension in self.dimensions))

    def loss(self, point: tuple) -> float:
        away = np.array(point[: self.d]) - self.optimum
        away = away if self.axes is None else self.axes @ away
        floats = float(self.curvature @ away**2)
        wrong = sum(a != b for a, b in zip(point[self.d :], self.answers, strict=True))
        return floats * (1 + 0.25 * wrong)

    def fitness(self, point: tuple) -> float:
        return -self.loss(point) + self.noise * self.start * self.rng.standard_normal()


def gap_closed(landscape: Landscape, name: str, seed: int, **options: float) -> tuple[float, float]:
    """Run one search; return what its mean and its best told point close of the gap."""
    optimizer = create(name, **options)
    optimizer.start(landscape.dimensions, seed)
    history: list[tuple[float, tuple]] = []
    while len(history) + optimizer.population <= BUDGET:
        points = optimizer.ask()
        fitness = [landscape.fitness(point) for point in points]
        optimizer.tell(points, fitness)
        history += zip(fitness, points, strict=True)
    best = max(history, key=lambda pair: pair[0])[1]
    chosen = (optimizer.mean or best, best)
    return tuple(100 * (1 - landscape.loss(point) / landscape.start) for point in chosen)


def settings() -> Iterator[tuple[str, int, int, float, float]]:
    """Landscape, floats, choices, distance of the optimum, noise."""
    for d in (32, 56):
        for noise in (0.02, 0.1):
            yield "sphere", d, 0, 0.15, noise
        for away in (0.05, 0.15, 0.3):
            yield "ellipsoid", d, 0, away, 0.05
    yield "coupled", 56, 0, 0.15, 0.05
    yield "ellipsoid", 28, 4, 0.15, 0.05


def compare() -> list[dict]:
    rows = []
    searches = [(name, sigma) for name in ("cmaes", "catcma") for sigma in SIGMAS]
    for kind, d, n_choices, away, noise in settings():
        for name, sigma in [*searches, ("random", None), ("tpe", None)]:
            seeds = 2 if name == "tpe" else SEEDS
            if name == "tpe" and (d > 32 or away != 0.15):
                continue  # half a minute a search
            options = {} if sigma is None else {"sigma": sigma}
            pairs = [
                gap_closed(Landscape(kind, d, n_choices, away, noise, s), name, s, **options)
                for s in range(seeds)
            ]
            mean, best = np.mean(pairs, axis=0)
            error = np.std([pair[0] for pair in pairs], ddof=1) / np.sqrt(seeds)
            rows.append(
                {
                    "landscape": kind,
                    "floats": d,
                    "choices": n_choices,
                    "away": away,
                    "noise": noise,
                    "optimizer": name,
                    "sigma": sigma,
                    "seeds": seeds,
                    "mean": round(float(mean), 1),
                    "standard_error": round(float(error), 1),
                    "best_told": round(float(best), 1),
                }
            )
            print(*rows[-1].values(), sep="\t", flush=True)
    return rows


def overhead() -> list[dict]:
    rows = []
    for name in ("random", "cmaes", "catcma", "tpe"):
        for d in (4, 32, 128):
            optimizer = create(name)
            optimizer.start([Dimension(f"x{i}") for i in range(d)], 0)
            trials = 0
            began = time.perf_counter()
            while trials < BUDGET:
                points = optimizer.ask()
                optimizer.tell(points, [-sum(point) for point in points])
                trials += len(points)
            milliseconds = 1000 * (time.perf_counter() - began) / trials
            rows.append({"optimizer": name, "d": d, "ms_per_trial": round(milliseconds, 2)})
            print(*rows[-1].values(), sep="\t", flush=True)
    return rows


def main() -> None:
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False
    ).stdout.strip()
    result = {
        "commit": commit,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("numpy", "cma", "cmaes", "optuna")},
        "budget": BUDGET,
        "overhead": overhead(),
        "gap_closed_percent": compare(),
    }
    (HERE / "result.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
