"""Mixtures of experts and routed low-rank changes against merges, on the held-out items of a zoo.

    experts.py FOLDER...     zoos of `evomerge demo` (zoo/ and study.yaml)

Lines go to experts.jsonl beside this file, or where EXPERTS_RESULTS says; one that is there stays.
Where a line says `chosen`, the smooth score of 392 search items chose; nothing else was tuned.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
os.environ.setdefault("STATISTICS_RESULTS", str(HERE / "none.jsonl"))
sys.path.insert(0, str(HERE.parent / "statistics"))

import measure as m  # noqa: E402
import torch  # noqa: E402

from evomerge.merge.parents.nested import with_merges  # noqa: E402
from evomerge.merge.plan.plan import plan  # noqa: E402
from evomerge.recipe.recipe import Recipe  # noqa: E402
from evomerge.study.workers.requests import Evaluate, Scores  # noqa: E402

RESULTS = Path(os.environ.get("EXPERTS_RESULTS", HERE / "experts.jsonl"))
LAMBDAS = (0.3, 0.4, 0.5, 0.6, 0.7)


def merged(zoo: m.Zoo, weight: float) -> dict[str, Any]:
    """Task arithmetic of all models."""
    models = [{"model": one, "parameters": {"weight": weight}} for one in zoo.models]
    base = zoo.config.base_model
    return {"merge_method": "task_arithmetic", "base_model": base, "models": models}


def regmean(zoo: m.Zoo, scale: float) -> dict[str, Any]:
    """The best merge of one model's size that needs the same rows."""
    models = [{"model": one, "data": zoo.data[one].to_dict()} for one in zoo.models]
    document = {"merge_method": "regmean", "base_model": zoo.config.base_model, "models": models}
    return {**document, "parameters": {"lambda": scale}}


def moe(zoo: m.Zoo, rest: Any, **parameters: Any) -> dict[str, Any]:
    """A mixture of all models' MLPs."""
    models = [{"model": one, "data": zoo.data[one].to_dict()} for one in zoo.models]
    return {"merge_method": "moe", "base_model": rest, "models": models, "parameters": parameters}


def smile(zoo: m.Zoo, base: Any = None, **parameters: Any) -> dict[str, Any]:
    """Routed low-rank changes of all models."""
    document = {"merge_method": "smile", "base_model": base or zoo.config.base_model}
    return {**document, "models": zoo.models, "parameters": parameters}


def recipe_of(document: dict[str, Any]) -> Recipe:
    return Recipe.from_dict({**document, "dtype": "float32"})


def held_out(zoo: m.Zoo, recipe: Recipe) -> dict[str, Any]:
    """Exact match, parameters, and milliseconds an item beside those of a merge, interleaved."""
    parents = with_merges(recipe, zoo.evaluator.parents)
    planned = plan(recipe, parents.checkpoints)
    plain = recipe_of(merged(zoo, 0.5))
    items = dict(zoo.pools["holdout"])
    few = {task: sorted(ids)[:24] for task, ids in items.items()}
    seconds: dict[str, list[float]] = {"this": [], "merge": []}
    for _ in range(3):
        for name, one in (("this", recipe), ("merge", plain)):
            answer = zoo.evaluator.handle(Evaluate(one.to_dict(), [few], "metric"))
            assert isinstance(answer, Scores), answer
            seconds[name].append(answer.seconds["forward"])
    return {
        "held_out": round(zoo.score(recipe, "holdout"), 4),
        "parameters": planned.parameters,
        "per_token": planned.parameters_per_token,
        "times_a_merge": round(min(seconds["this"]) / min(seconds["merge"]), 2),
    }


def lines(zoo: m.Zoo, words: Sequence[str] = ()) -> Callable[..., None]:
    """Return what measures the recipe that search items choose, unless its line is there."""
    there = map(json.loads, RESULTS.read_text().splitlines()) if RESULTS.is_file() else ()
    seen = {line["what"] for line in there if line["zoo"] == zoo.name}

    def line(what: str, *documents: dict[str, Any], also: Any = None) -> None:
        if what in seen or (words and not any(word in what for word in words)):
            return
        began = time.perf_counter()
        recipes = {json.dumps(d.get("parameters") or d["models"][0]): d for d in documents}
        name = next(iter(recipes))
        if len(recipes) > 1:
            name, _ = zoo.best({key: recipe_of(d) for key, d in recipes.items()})
        made = {"zoo": zoo.name, "what": what, "chosen": name if len(recipes) > 1 else None}
        made |= held_out(zoo, recipe_of(recipes[name]))
        if also is not None:
            made |= also(zoo, recipe_of(recipes[name]))
        made["seconds"] = round(time.perf_counter() - began, 1)
        with RESULTS.open("a") as stream:
            stream.write(json.dumps(made) + "\n")
        print(json.dumps(made), flush=True)

    return line


def measure(folder: Path) -> None:
    zoo = m.Zoo(folder)
    line = lines(zoo)
    rest, base = merged(zoo, 0.5), zoo.config.base_model
    line("task arithmetic, λ chosen", *(merged(zoo, one) for one in LAMBDAS))
    line("regmean, λ chosen", *(regmean(zoo, one) for one in (1.0, 1.3, 1.6, 2.0)))
    line("moe, top 1, defaults", moe(zoo, rest, top=1))
    line("moe, top 2, defaults", moe(zoo, rest, top=2))
    line("moe, all 4, defaults", moe(zoo, rest, top=4))
    sharp = [{"top": t, "sharpness": s} for t in (1, 2) for s in (1.0, 2.0, 4.0, 8.0, 16.0)]
    line("moe, top and sharpness chosen", *(moe(zoo, rest, **one) for one in sharp))
    line("moe over the base, top 1", moe(zoo, base, top=1))
    line("moe, top 1, shared .3", moe(zoo, rest, top=1, shared=0.3))
    line("moe, top 1, router random", moe(zoo, rest, top=1, router="random"))
    for rank in (4, 16, 64):
        line(f"smile, rank {rank}", smile(zoo, rank=rank, gate_rank=min(8, rank)))
    line("smile, rank 16, rest of the base", smile(zoo, rank=16, rest="base"))
    line("smile, rank 64, top 2", smile(zoo, rank=64, top=2))
    scales = [{"rank": 16, "scale": s, "gate_rank": g} for s in (1.0, 1.2, 1.4) for g in (4, 8)]
    line("smile, rank 16, scale and gate chosen", *(smile(zoo, **one) for one in scales))
    line("smile over the merge, rank 16", smile(zoo, rest, rank=16))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for argument in sys.argv[1:]:
        measure(Path(argument))
