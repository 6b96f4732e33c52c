"""evomerge's worker scoring random candidates, asked as the peers are.

    python ours.py JOB.json

Reads one word a line from stdin, the fitness (`smooth` or `metric`), has the worker build and score
one random candidate on the peers' documents, and prints `{"seconds", "score"}`.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from evomerge.recipe.space.space import SearchSpace
from evomerge.study.config import StudyConfig
from evomerge.study.journal.shards import shard_items, shards
from evomerge.study.workers.evaluator import Evaluator
from evomerge.study.workers.requests import Evaluate, Failure

SPACE = {
    "merge_method": None,  # the job's
    "models": [{"model": "*", "parameters": {"weight": {"low": 0, "high": 1, "knots": 6}}}],
}


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    tasks = [{"name": name, "metric": job["metric"]} for name in job["tasks"]]
    document = {
        "base_model": job["base"],
        "models": job["models"],
        "space": {**SPACE, "merge_method": job["method"]},
        "evaluate": {"tasks": tasks, "include_path": [job["include_path"]]},
        "output": {"dtype": "bfloat16"},
    }
    config = StudyConfig.from_dict(document, Path("/"))
    space = SearchSpace.from_dict(document["space"]).bind(job["base"], job["models"], "bfloat16")
    evaluator = Evaluator(config)
    items = {name: list(range(job["limit"])) for name in job["tasks"]}
    parts = shards(items, shard_items(config))
    generator = np.random.default_rng(0)
    print("ready", flush=True)
    for line in sys.stdin:
        point = [generator.uniform(0, 1) for _ in space.dimensions]
        recipe = space.fill(point).to_dict()
        began = time.perf_counter()
        answer = evaluator.handle(Evaluate(recipe, parts, line.strip()))
        seconds = time.perf_counter() - began
        if isinstance(answer, Failure):
            raise SystemExit(answer.message)
        line = {"seconds": seconds, "parts": answer.seconds}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
