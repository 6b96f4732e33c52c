"""What an optimizer itself costs a trial, early and at trial 10,000: ``python loop_cost.py``."""

import json
import sys
import time

import numpy as np

from evomerge.optimizers import create
from evomerge.recipe.space.dimension import Dimension

ARMS = ("random", "sobol", "catcma", "cmaes", "sepcma", "de", "genetic", "swarm", "map_elites")
TRIALS, WINDOW = 10_000, 500


def main() -> None:
    for arm in sys.argv[1:] or ARMS:
        for d in (20, 60):
            optimizer, draws = create(arm), np.random.default_rng(0)
            optimizer.start([Dimension(f"x{i}") for i in range(d)], 0)
            cost: list[tuple[int, float]] = []
            asked = 0
            while asked < TRIALS and not optimizer.stopped:
                began = time.process_time()
                points = optimizer.ask()
                seconds = time.process_time() - began
                noise = draws.standard_normal(len(points)).tolist()  # or it would converge
                values = [
                    z - sum((x - 0.3) ** 2 for x in point)
                    for z, point in zip(noise, points, strict=True)
                ]
                task = {
                    str(t): dict.fromkeys(range(4), v / (t + 1)) for t, v in enumerate(values[:7])
                }
                scores = [task] * len(points) if optimizer.learns_from_items else None
                began = time.process_time()
                optimizer.tell(points, values, scores)
                cost.append((len(points), seconds + time.process_time() - began))
                asked += len(points)
            print(
                json.dumps({"arm": arm, "d": d, "trials": asked, **_early_and_late(cost)}),
                flush=True,
            )


def _early_and_late(cost: list[tuple[int, float]]) -> dict[str, float]:
    """Milliseconds a trial over the first and the last WINDOW trials."""

    def mean(timings: list[tuple[int, float]]) -> float:
        taken, seconds = 0, 0.0
        for n, spent in timings:
            if taken >= WINDOW:
                break
            taken, seconds = taken + n, seconds + spent
        return round(1000 * seconds / taken, 3)

    return {"ms_first": mean(cost), "ms_last": mean(cost[::-1])}


if __name__ == "__main__":
    main()
