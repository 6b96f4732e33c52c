"""CatCMAwM's first step on the demo zoo: ``python run.py DEMO_DIR [SIGMAS] [SEEDS]``; prints JSON.

DEMO_DIR is what ``evomerge demo`` left. Each pair of sigma and seed is a whole study of 240 trials;
what counts is the held-out mean of its winner, and its gain over the best anchor there.
"""

import dataclasses
import json
import sys
import tempfile
from pathlib import Path

from evomerge.study.config import StudyConfig
from evomerge.study.study import Study


def main(directory: Path, sigmas: list[float], seeds: list[int]) -> None:
    config = StudyConfig.from_yaml(directory / "study.yaml")
    for sigma in sigmas:
        for seed in seeds:
            search = dataclasses.replace(config.search, seed=seed, options={"sigma": sigma})
            workers = dataclasses.replace(config.workers, backend="local", count=1)
            output = dataclasses.replace(config.output, save_model=False)
            study_config = dataclasses.replace(
                config, search=search, workers=workers, output=output
            )
            with tempfile.TemporaryDirectory() as run:
                verdict = Study(study_config, run).confirm()
            scores = verdict.scores["winner"]
            anchor = next(c for c in verdict.comparisons if c.kind == "anchor")
            row = {
                "sigma": sigma,
                "seed": seed,
                "held_out": round(sum(scores.values()) / len(scores), 4),
                "gain": round(anchor.difference, 4),
                "low": round(anchor.low, 4),
            }
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    numbers = [*sys.argv[2:], "0.08,0.12,0.17", "0,1,2"][:2] if len(sys.argv) < 4 else sys.argv[2:]
    main(
        Path(sys.argv[1]),
        [float(word) for word in numbers[0].split(",")],
        [int(word) for word in numbers[1].split(",")],
    )
