"""Learned gates (Twin-Merging, WEMoE, MoLE) against SMILE, mixtures and merges.

    gates.py FOLDER...     zoos of `evomerge demo` (zoo/ and study.yaml)

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

from evomerge.calibration.gates import _live, states_of, untrained  # noqa: E402
from evomerge.calibration.rows import read_rows  # noqa: E402
from evomerge.merge.parents.nested import with_merges  # noqa: E402
from evomerge.merge.plan.plan import plan  # noqa: E402
from evomerge.recipe.recipe import Recipe  # noqa: E402
from evomerge.recipe.rows import Calibration, Data  # noqa: E402

m = e.m


def gated(zoo: Any, method: str, base: Any = None, **parameters: Any) -> dict[str, Any]:
    """Low-rank changes of all models behind gates that learn from the models' rows."""
    models = [{"model": one, "data": zoo.data[one].to_dict()} for one in zoo.models]
    document = {"merge_method": method, "base_model": base or zoo.config.base_model}
    return {**document, "models": models, "parameters": parameters}


def accuracy(zoo: Any, recipe: Recipe) -> dict[str, Any]:
    """The share of held-out prompts whose model the router of Twin-Merging names, by model."""
    parents = with_merges(recipe, zoo.evaluator.parents)
    live = _live(plan(Recipe.from_dict(untrained(recipe)), parents.checkpoints), parents)
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


def measure(folder: Path) -> None:
    zoo = m.Zoo(folder)
    line = e.lines(zoo)
    merge, base = e.merged(zoo, 0.5), zoo.config.base_model
    line("task arithmetic, λ chosen", *(e.merged(zoo, one) for one in e.LAMBDAS))
    line("regmean, λ chosen", *(e.regmean(zoo, one) for one in (1.0, 1.3, 1.6, 2.0)))
    line("smile, rank 16", e.smile(zoo, rank=16))
    for over, of in (("the merge", merge), ("the base", base)):
        for rank in (4, 16, 64):
            document = gated(zoo, "twin_merging", of, rank=rank)
            line(f"twin over {over}, rank {rank}", document, also=accuracy if rank == 16 else None)
    for loss in ("entropy", "answers"):
        line(f"wemoe, rank 64, {loss}", gated(zoo, "wemoe", rank=64, loss=loss))
        line(f"wemoe, rank 16, {loss}", gated(zoo, "wemoe", rank=16, loss=loss))
        line(f"mole, rank 16, {loss}", gated(zoo, "mole", rest="average", loss=loss))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for argument in sys.argv[1:]:
        measure(Path(argument))
