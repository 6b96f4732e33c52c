"""What `concrete` reaches, and for what: ``python masks.py ZOO WORK STEPS…``."""

import json
import sys
import time
from pathlib import Path

import torch
from bench import Judge

from evomerge.calibration.cost import of_training
from evomerge.calibration.requests import Collect
from evomerge.recipe.recipe import Recipe


def main() -> None:
    zoo, work, steps = Path(sys.argv[1]), Path(sys.argv[2]), [int(s) for s in sys.argv[3:]]
    torch.set_num_threads(1)
    judge = Judge(zoo)
    rows = judge._evaluator.handle(Collect(judge.pools["search"])).collected
    work.mkdir(parents=True, exist_ok=True)
    models = list(judge.config.models)
    for i, model in enumerate(models):  # each task's rows belong to one model: all are read anyway
        tasks = sorted(rows)[i :: len(models)]
        lines = [json.dumps(row) for task in tasks for row in rows[task]]
        (work / f"{Path(model).name}.jsonl").write_text("\n".join(lines) + "\n")
    for n in steps:
        document = {
            "merge_method": "concrete",
            "base_model": judge.config.base_model,
            "models": [{"model": m, "data": str(work / f"{Path(m).name}.jsonl")} for m in models],
            "calibration": {"steps": n, "rows": 1000},
            "dtype": "float32",
        }
        began = time.process_time()
        recipe = Recipe.from_dict(document)
        held, cost = judge.held_out(recipe), of_training(recipe, sum(map(len, rows.values())))
        print(
            n,
            "steps,",
            cost,
            "item evaluations:",
            round(held, 4),
            round(time.process_time() - began, 1),
            flush=True,
        )


if __name__ == "__main__":
    main()
