"""A surrogate of the zoo's landscape, replayed in seconds: no models, no torch.

    python replay.py pack OUT MATRICES.npz      # the item matrices of recorded searches in one file
    python replay.py fit MATRICES.npz SURROGATE.npz
    python replay.py run SURROGATE.npz --arms catcma random --seeds 8

Each task's mean smooth score is a smooth function of the weights: ridge regression on random
Fourier features and squares, fitted to every recorded candidate. What is left of an item (its own
difficulty, and chance) is drawn from the recorded spread, so a replayed candidate on n items is as
noisy as in the models. `fit` prints how well candidates that were held back are ranked; `run`
compares optimizers at equal item evaluations, by the surrogate without noise.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from evomerge.optimizers import create
from evomerge.recipe.space.dimension import Dimension

FEATURES, RIDGE = 400, 3.0
LOW, HIGH = -0.25, 1.5


class Surrogate:
    """score_t(x) = features(x) @ coefficients_t, plus the noise of a mean over items."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = arrays

    @classmethod
    def fit(cls, points: np.ndarray, scores: np.ndarray, noise: np.ndarray) -> "Surrogate":
        """From points (n, d), mean scores (n, tasks) and each task's spread over items."""
        draws = np.random.default_rng(0)
        middle = np.median(points, axis=0)
        scale = np.sqrt(((points - middle) ** 2).sum(axis=1).mean())
        arrays = {
            "middle": middle,
            "frequencies": draws.standard_normal((points.shape[1], FEATURES)) / scale,
            "phases": draws.uniform(0, 2 * np.pi, FEATURES),
            "noise": noise,
        }
        model = cls(arrays)
        x = model.features(points)
        average = scores.mean(axis=0)
        gram = x.T @ x + RIDGE * np.eye(x.shape[1])
        arrays["coefficients"] = np.linalg.solve(gram, x.T @ (scores - average))
        arrays["average"] = average
        return model

    def features(self, points: np.ndarray) -> np.ndarray:
        away = points - self.arrays["middle"]
        waves = np.cos(away @ self.arrays["frequencies"] + self.arrays["phases"])
        return np.hstack([waves * np.sqrt(2 / FEATURES) * 4, away, away**2])

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Mean scores without noise, (n, tasks), in [0, 1]."""
        raw = self.features(points) @ self.arrays["coefficients"] + self.arrays["average"]
        return np.clip(raw, 0, 1)


def pack(out: Path, file: Path, space: str) -> None:
    """Every search that scored smoothly: all points (n, d), and per search (candidates, items)."""
    points, scores, n_tasks = [], {}, 1
    for path in sorted((out / "matrices").glob(f"*-{space}-*.npz")):
        if path.name.startswith(("mergekit", "mergenetic")) or "metric" in path.name:
            continue  # these recorded exact match
        with np.load(path) as one:
            points.append(np.round(one["points"], 3).astype(np.float16))
            scores[f"search-{len(scores):03d}"] = one["score"]  # hundredths; items task by task
            n_tasks = int(one["task"].max()) + 1
    np.savez_compressed(file, points=np.concatenate(points), n_tasks=n_tasks, **scores)


def recorded(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, mean smooth score by task, and each task's spread over items within a candidate."""
    with np.load(file) as arrays:
        names = sorted(name for name in arrays.files if name.startswith("search-"))
        n_tasks, tables = int(arrays["n_tasks"]), []
        for name in names:
            score = arrays[name] / 100.0
            tables.append(score.reshape(len(score), n_tasks, -1))  # (candidates, tasks, items)
        means = np.concatenate([table.mean(axis=2) for table in tables])
        spreads = np.stack([table.std(axis=2).mean(axis=0) for table in tables])
        return arrays["points"].astype(float), means, spreads.mean(axis=0)


def fit(matrices: Path, file: Path) -> None:
    points, scores, noise = recorded(matrices)
    order = np.random.default_rng(1).permutation(len(points))
    training, back = order[: len(order) * 9 // 10], order[len(order) * 9 // 10 :]
    model = Surrogate.fit(points[training], scores[training], noise)
    arguments, seen = model(points[back]).mean(axis=1), scores[back].mean(axis=1)
    ranks = [np.argsort(np.argsort(v)) for v in (arguments, seen)]
    print(
        json.dumps(
            {
                "candidates": len(points),
                "held_back": len(back),
                "rank_correlation": round(float(np.corrcoef(*ranks)[0, 1]), 3),
                "root_mean_square": round(float(np.sqrt(((arguments - seen) ** 2).mean())), 4),
            }
        )
    )
    whole = Surrogate.fit(points, scores, noise)
    np.savez_compressed(file, **{k: v.astype(np.float32) for k, v in whole.arrays.items()})


def run(file: Path, arms: list[str], seeds: int, budget: int, per_task: int) -> None:
    with np.load(file) as arrays:
        model = Surrogate(dict(arrays))
    d, tasks = len(model.arrays["middle"]), len(model.arrays["noise"])
    dimensions = space(d)
    start = float(model(np.full((1, d), 0.5)).mean())
    for arm in arms:
        began, ends, asked = time.perf_counter(), [], 0
        for seed in range(seeds):
            optimizer = create(arm)
            optimizer.start(dimensions, seed, (0.5,) * d)
            draws, spent, best = np.random.default_rng(seed), 0, (-np.inf, np.full(d, 0.5))
            while spent < budget:
                points = optimizer.ask()
                true = model(np.array(points, float))
                noise = draws.standard_normal(true.shape) * model.arrays["noise"]
                values = (true + noise / np.sqrt(per_task)).mean(axis=1)
                optimizer.tell(points, values.tolist())
                spent += len(points) * per_task * tasks
                asked += len(points)
                best = max([best, *zip(values, points, strict=True)], key=lambda pair: pair[0])
            answer = best[1] if optimizer.mean is None else optimizer.mean
            ends.append(float(model(np.array([answer], float)).mean()) - start)
        row = {
            "arm": arm,
            "gain": round(float(np.median(ends)), 4),
            "mean": round(float(np.mean(ends)), 4),
            "lowest": round(min(ends), 4),
            "highest": round(max(ends), 4),
            "seconds_per_search": round((time.perf_counter() - began) / seeds, 2),
        }
        print(json.dumps(row), flush=True)


def space(d: int) -> list[Dimension]:
    """Of the space `parts` with four models: gradients of three knots, then of six."""
    knots = [3] * 4 + [6] * 8
    if sum(knots) != d:
        return [Dimension(f"w{i}", low=LOW, high=HIGH) for i in range(d)]
    return [
        Dimension(f"gradient{g}[{k}]", low=LOW, high=HIGH, gradient=f"gradient{g}", knot=k)
        for g, n in enumerate(knots)
        for k in range(n)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("out", type=Path)
    packing.add_argument("file", type=Path)
    packing.add_argument("--space", default="parts")
    fitting = commands.add_parser("fit")
    fitting.add_argument("matrices", type=Path)
    fitting.add_argument("file", type=Path)
    running = commands.add_parser("run")
    running.add_argument("file", type=Path)
    running.add_argument("--arms", nargs="+", default=["catcma", "cmaes", "sepcma", "random"])
    running.add_argument("--seeds", type=int, default=8)
    running.add_argument("--budget", type=int, default=11_200)
    running.add_argument("--per-task", type=int, default=4)
    arguments = parser.parse_args()
    if arguments.command == "pack":
        pack(arguments.out, arguments.file, arguments.space)
    elif arguments.command == "fit":
        fit(arguments.matrices, arguments.file)
    else:
        run(arguments.file, arguments.arms, arguments.seeds, arguments.budget, arguments.per_task)


if __name__ == "__main__":
    main()
