"""Learned gates (Twin-Merging, WEMoE, MoLE) against SMILE, mixtures and merges.

    gates.py FOLDER... [WORD...]    zoos of `evomerge demo`; lines with such a word in their name

Lines go to gates.jsonl beside this file, or where GATES_RESULTS says; one that is there stays.
Where a line says `chosen`, the smooth score of 392 search items chose; gates learn from the search
items of each model's own task.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
os.environ["EXPERTS_RESULTS"] = os.environ.get("GATES_RESULTS", str(HERE / "gates.jsonl"))

import experts as e  # noqa: E402
import torch  # noqa: E402

from evomerge.calibration.gates import routed_model, states_of, untrained  # noqa: E402
from evomerge.calibration.rows import read_rows  # noqa: E402
from evomerge.merge.parents.nested import with_merges  # noqa: E402
from evomerge.merge.plan.plan import plan  # noqa: E402
from evomerge.recipe.recipe import Recipe  # noqa: E402
from evomerge.recipe.rows import Calibration, Data  # noqa: E402

m = e.m


def gated(zoo: Any, method: str, base: Any = None, **parameters: Any) -> dict[str, Any]:
    """Low-rank changes of all models behind gates that learn from the models' rows."""
    rows = parameters.get("train", True)
    models = [
        {"model": one, **({"data": zoo.data[one].to_dict()} if rows else {})} for one in zoo.models
    ]
    document = {"merge_method": method, "base_model": base or zoo.config.base_model}
    return {**document, "models": models, "parameters": parameters}


def accuracy(zoo: Any, recipe: Recipe) -> dict[str, Any]:
    """The share of held-out prompts whose model the router of Twin-Merging names, by model."""
    parents = with_merges(recipe, zoo.evaluator.parents)
    live = routed_model(plan(Recipe.from_dict(untrained(recipe)), parents.checkpoints), parents)
    gate = zoo.statistics.gates(recipe, parents)
    right: dict[str, float] = {}
    for i, model in enumerate(zoo.models):
        task = zoo.own(model)
        items = {task: sorted(zoo.pools["holdout"][task])}
        file = zoo.folder / f"held-out-{Path(model).name}.jsonl"
        rows = zoo.evaluator.scoring.scorer().right_answers(items)[task]
        file.write_text("".join(e.json.dumps(row) + "\n" for row in rows))
        data = Data(**Data.kind_of(str(file), model)[1])
        tokenizer = zoo.evaluator.scoring.scorer()._tokenizer
        read = read_rows(data, Calibration(rows=10_000), tokenizer, 1 << 20).rows
        means = states_of(live, read, positions=1)
        scores = means @ gate("router.last.weight").T + gate("router.last.bias")
        right[Path(model).name] = round(float((scores.argmax(-1) == i).double().mean()), 4)
    return {"accuracy": right}


def by_task(zoo: Any, recipe: Recipe) -> dict[str, Any]:
    """Exact match on held-out items, task by task."""
    request = e.Evaluate(recipe.to_dict(), [dict(zoo.pools["holdout"])], "metric")
    rows = zoo.evaluator.handle(request).rows
    tasks = {task: [row[2] for row in rows if row[0] == task] for task in {r[0] for r in rows}}
    return {"by_task": {task: round(sum(of) / len(of), 4) for task, of in sorted(tasks.items())}}


def both(zoo: Any, recipe: Recipe) -> dict[str, Any]:
    return {**accuracy(zoo, recipe), **by_task(zoo, recipe)}


def measure(folder: Path, words: list[str]) -> None:
    zoo = m.Zoo(folder)
    line = e.lines(zoo, words)
    merge, base = e.merged(zoo, 0.5), zoo.config.base_model
    average = {"rest": "average"}
    scales = (0.8, 1.0, 1.2, 1.4)
    line("task arithmetic, λ chosen", *(e.merged(zoo, one) for one in e.LAMBDAS), also=by_task)
    line("regmean, λ chosen", *(e.regmean(zoo, one) for one in (1.0, 1.3, 1.6, 2.0)), also=by_task)
    line("smile, rank 16", e.smile(zoo, rank=16), also=by_task)
    for rank in (16, 64):
        document = gated(zoo, "twin_merging", merge, rank=rank)
        line(f"twin over the merge, rank {rank}", document, also=both)
    line("twin over the base, rank 16", gated(zoo, "twin_merging", base, **average))
    for loss in ("entropy", "answers"):
        for rank in (16, 64):
            line(f"wemoe, rank {rank}, {loss}", gated(zoo, "wemoe", rank=rank, loss=loss))
        line(f"mole, rank 16, {loss}", gated(zoo, "mole", **average, loss=loss), also=by_task)
    for rank in (4, 64):
        line(f"mole, rank {rank}, answers", gated(zoo, "mole", **average, rank=rank))
    for steps in (50, 600):
        line(f"mole, rank 16, {steps} steps", gated(zoo, "mole", **average, steps=steps))
    line("mole, rank 16, rest of the base", gated(zoo, "mole"))
    line("mole, rank 16, constant", gated(zoo, "mole", **average, train=False))
    line("wemoe, rank 64, one layer", gated(zoo, "wemoe", rank=64, loss="answers", hidden=0))
    line("mole, scale chosen", *(gated(zoo, "mole", **average, scale=s) for s in scales))


if __name__ == "__main__":
    torch.set_num_threads(1)
    arguments = sys.argv[1:]
    words = [one for one in arguments if not Path(one).is_dir()]
    for argument in arguments:
        if argument not in words:
            measure(Path(argument), words)
