"""Studies that choose layers, depth and width, on zoos of `evomerge demo`.

    layers.py make SEED FOLDER    trains a zoo (minutes)
    layers.py speed FOLDER        seconds of a candidate whose depth changes, over its forward pass
    layers.py search FOLDER       data flow over the experts, and over two halves of a merge
    layers.py hops FOLDER         how strongly each layer of a merge, and of one expert, goes on
    layers.py front FOLDER        layers of a merge left out: score against depth
    layers.py shapes FOLDER       depth up-scaling without training, and widening: what they score

Lines go to results.jsonl beside this file, or where STRUCTURE_RESULTS says; runs lie in FOLDER.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.demo import make_zoo, print_step, write_study
from evomerge.merge.build import build
from evomerge.recipe.recipe import Recipe
from evomerge.study.config import StudyConfig
from evomerge.study.study import Study
from evomerge.study.workers.evaluator import Evaluator
from evomerge.study.workers.requests import Describe, Evaluate, Scores

RESULTS = Path(os.environ.get("STRUCTURE_RESULTS", Path(__file__).with_name("results.jsonl")))
DEPTHS = (6, 9, 7, 10, 5, 8, 6, 11)  # of a path's candidates, in the order in which they come


def note(folder: Path, what: str, **values: Any) -> None:
    """Add a line to the results, and print it."""
    line = json.dumps({"zoo": folder.name, "what": what, **values})
    with RESULTS.open("a") as file:
        file.write(line + "\n")
    print(line, flush=True)


def document_of(folder: Path, space: Any, trials: int, **search: Any) -> dict[str, Any]:
    """Return the zoo's study with another space, which counts layers and parameters too."""
    document = StudyConfig.from_yaml(folder / "study.yaml").to_dict()
    counted = [{"name": "depth", "counts": "layers"}, {"name": "size", "counts": "parameters"}]
    document["evaluate"]["tasks"] = [*document["evaluate"]["tasks"], *counted]
    document["search"] = {"optimizer": "catcma", "trials": trials, "seed": 0, **search}
    document["workers"] = {"backend": "local", "count": 1, "threads": 1}
    return {**document, "space": space}


def merged_of(document: Mapping[str, Any], weight: float) -> dict[str, Any]:
    """Return task arithmetic of the zoo's experts."""
    models = [{"model": m, "parameters": {"weight": weight}} for m in document["models"]]
    return {
        "merge_method": "task_arithmetic",
        "base_model": document["base_model"],
        "models": models,
    }


def studied(folder: Path, name: str, document: dict[str, Any]) -> None:
    """Run a study to its verdict, and note winner, rivals and cost."""
    began = time.perf_counter()
    with Study(StudyConfig.from_dict(document, folder), folder / f"run-{name}") as study:
        verdict = study.confirm()
        record = study.record
    scores = {
        who: {task: round(value, 4) for task, value in by_task.items()}
        for who, by_task in verdict.scores.items()
    }
    weights = {t["name"]: t.get("weight", 1.0) for t in document["evaluate"]["tasks"]}
    tasks = [t for t in next(iter(scores.values())) if weights[t] and t not in ("depth", "size")]
    mean = {who: round(statistics.mean(s[t] for t in tasks), 4) for who, s in scores.items()}
    note(
        folder,
        name,
        trials=record.n_searched,
        seconds=round(time.perf_counter() - began),
        race_winner=verdict.race_winner.name,
        shown=verdict.improvement_shown,
        held_out=mean,
        depth={who: s["depth"] for who, s in scores.items()},
        sentence=verdict.sentence,
    )


def speed(folder: Path) -> None:
    """Interleave candidates of one depth and of changing depths; note medians of total/forward."""
    config = StudyConfig.from_yaml(folder / "study.yaml")
    evaluator = Evaluator(config)
    layers = evaluator.handle(Describe()).layers
    items = {task: list(ids)[:56] for task, ids in evaluator.scoring.harness.items.items()}

    def ratio(depth: int, turn: int) -> tuple[float, float]:
        slots = [(config.models[(i + turn) % len(config.models)], i % layers) for i in range(depth)]
        path = [{"model": model, "layers": [i, i + 1]} for model, i in slots]
        recipe = Recipe.from_dict({"base_model": config.base_model, "path": path})
        began = time.perf_counter()
        answer = evaluator.handle(Evaluate(recipe.to_dict(), [items], "smooth"))
        assert isinstance(answer, Scores), answer
        return (time.perf_counter() - began) / answer.seconds["forward"], answer.seconds["build"]

    ratio(layers, 0)
    first = [ratio(depth, 0) for depth in DEPTHS]
    one, changing = [], []
    for turn in range(4):
        for depth in DEPTHS:
            changing.append(ratio(depth, turn))
            one.append(ratio(layers, turn))
    for what, pairs in (("first meeting", first), ("changing", changing), ("one depth", one)):
        ratios, builds = zip(*pairs, strict=True)
        values = {"ratio": statistics.median(ratios), "build": statistics.median(builds)}
        note(folder, f"speed, {what}", **{k: round(v, 4) for k, v in values.items()})


def search(folder: Path) -> None:
    """Search the data flow of all experts, then of two models whose skills sit at two depths."""
    document = document_of(folder, "layer_path", 210, constraints=["depth <= 9"])
    studied(folder, "layer_path of the experts", document)
    base = document["base_model"]
    merged = {"merges": {"m": merged_of(document, 0.5)}, "merge_method": "passthrough"}
    halves = {"front": [("m", [0, 3]), (base, [3, 6])], "back": [(base, [0, 3]), ("m", [3, 6])]}
    models = []
    for name, parts in halves.items():
        path = [{"model": model, "layers": layers} for model, layers in parts]
        out = folder / "halves" / name
        build(Recipe.from_dict({**merged, "base_model": base, "path": path}), out, replace=True)
        models.append(str(out))
    document = {**document, "models": models}
    studied(folder, "layer_path of two halves of a merge", document)


def hops(folder: Path) -> None:
    """Search weights and hops of a merge, and, without any merge, the hops of one expert."""
    document = document_of(folder, "scaled_layers", 210)
    studied(folder, "scaled_layers", document)
    path = [{"model": document["models"][-1], "hop": {"low": 0.5, "high": 2.0, "log": True}}]
    studied(folder, "hops of one expert", {**document, "space": {"path": path}})


def front(folder: Path) -> None:
    """Search which layers of a merge stay, with a small price for each."""
    document = document_of(folder, None, 210, objective="pareto", optimizer="nsga2")
    path = [{"model": "m", "include": "search"}]
    document["space"] = {"merges": {"m": merged_of(document, 0.5)}, "path": path}
    for task in document["evaluate"]["tasks"]:
        task["weight"] = 1.0 if task["name"] != "size" else 0.0
    document["evaluate"]["tasks"][-2]["weight"] = 0.01
    run = folder / "run-front"
    with Study(StudyConfig.from_dict(document, folder), run) as study:
        study.optimize()
        best: dict[float, float] = {}
        for trial in study.trials:
            scores = trial.scores or {}
            if "depth" in scores:
                tasks = [v for t, v in scores.items() if t not in ("depth", "size")]
                depth = abs(scores["depth"])
                best[depth] = max(best.get(depth, 0.0), round(statistics.mean(tasks), 4))
    note(folder, "best search score by depth", **{f"{d:g}": s for d, s in sorted(best.items())})


def shapes(folder: Path) -> None:
    """Score a merge as it is, up-scaled in depth with every trim, and widened."""
    document = document_of(folder, "layer_path", 14)
    evaluator = Evaluator(StudyConfig.from_dict(document, folder))
    items = {task: list(ids)[:100] for task, ids in evaluator.scoring.harness.items.items()}
    merged = {"merges": {"m": merged_of(document, 0.5)}, "base_model": document["base_model"]}
    recipes: dict[str, dict[str, Any]] = {"as it is": {"path": [{"model": "m"}]}}
    for trim in range(6):
        recipes[f"up-scaled, trim {trim}"] = {"path": [{"model": "m", "times": 2, "trim": trim}]}
    for factor in (1, 2):
        wide = {"merge_method": "widen", "models": ["m"], "parameters": {"factor": factor}}
        recipes[f"widened by {factor}"] = wide
    for name, recipe in recipes.items():
        request = Evaluate(Recipe.from_dict({**merged, **recipe}).to_dict(), [items], "smooth")
        answer = evaluator.handle(request)
        assert isinstance(answer, Scores), answer
        rows = [row for row in answer.rows if row[0] not in ("depth", "size")]
        smooth = statistics.mean(row[3] for row in rows)
        size = next(row[2] for row in answer.rows if row[0] == "size")
        seconds = round(answer.seconds["forward"], 3)
        note(folder, name, smooth=round(smooth, 4), million_parameters=size, forward=seconds)


def main(arguments: list[str]) -> None:
    """Do what the first argument says."""
    if arguments[0] == "make":
        folder = Path(arguments[2])
        zoo = make_zoo(folder / "zoo", seed=int(arguments[1]), progress=print_step)
        write_study(zoo, folder / "study.yaml", seed=int(arguments[1]))
        return
    {"speed": speed, "search": search, "hops": hops, "front": front, "shapes": shapes}[
        arguments[0]
    ](Path(arguments[1]).resolve())


if __name__ == "__main__":
    main(sys.argv[1:])
