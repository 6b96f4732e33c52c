"""What is lost if parents are held as int8 changes of the base, a scale a row?

    python experiments/int8_deltas/measure.py ZOO WORK

ZOO is the demo's (`evomerge demo` leaves one, with its tasks). Its experts are written again as
base + int8 change x scale, in float32, and merged and scored beside the true ones.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from statistics import fmean

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from evomerge.recipe.recipe import Recipe
from evomerge.study.config import StudyConfig
from evomerge.study.workers.evaluator import Evaluator
from evomerge.study.workers.requests import Describe, Description, Evaluate, Scores
from evomerge.study.workers.start import start

EXPERTS = ("expert-reverse", "expert-sort", "expert-max", "expert-ja")
TASKS = ("reverse", "sort", "max", "ja", "ja_reverse", "ja_sort", "ja_max")
RECIPES = {
    "task arithmetic .5": ("task_arithmetic", {"weight": 0.5}, {}),
    "TIES .5": ("ties", {"weight": 1.0, "density": 0.5}, {"normalize": True}),
    "one expert": ("task_arithmetic", {"weight": 1.0}, {}),
}


def int8(change: Tensor) -> Tensor:
    """A change as its rows' scales times whole numbers from -127 to 127."""
    rows = change.reshape(change.shape[0], -1)  # (rows, the rest)
    scale = rows.abs().amax(dim=1, keepdim=True).clamp_min(1e-30) / 127
    return ((rows / scale).round() * scale).view_as(change)


def write_rounded(zoo: Path, work: Path) -> dict[str, float]:
    """Write the experts with changes in int8; return the relative error of each one's change."""
    base = load_file(zoo / "base" / "model.safetensors")
    errors = {}
    for expert in EXPERTS:
        shutil.copytree(zoo / expert, work / expert, dirs_exist_ok=True)
        changes = {n: w - base[n] for n, w in load_file(zoo / expert / "model.safetensors").items()}
        rounded = {name: int8(change) for name, change in changes.items()}
        lost = sum(float((rounded[n] - c).square().sum()) for n, c in changes.items())
        errors[expert] = (lost / sum(float(c.square().sum()) for c in changes.values())) ** 0.5
        merged = {name: (base[name] + change).contiguous() for name, change in rounded.items()}
        save_file(merged, work / expert / "model.safetensors", {"format": "pt"})
    return errors


def scored(zoo: Path, experts: Path) -> dict[str, dict[tuple[str, int], float]]:
    """The exact matches of each recipe's merge on all documents."""
    models = [str(experts / expert) for expert in EXPERTS]
    about = {
        "base_model": str(zoo / "base"),
        "models": models,
        "space": "task_arithmetic",
        "evaluate": {
            "tasks": [{"name": f"demo_{task}", "metric": "exact_match"} for task in TASKS],
            "include_path": [str(zoo / "tasks")],
        },
        "workers": {"device": "cpu"},
        "output": {"dtype": "float32"},
    }
    evaluator = start(StudyConfig.from_dict(about, Path("/")).to_dict())
    assert isinstance(evaluator, Evaluator), evaluator
    description = evaluator.handle(Describe())
    assert isinstance(description, Description), description
    items = description.evaluation["items"]
    found = {}
    for name, (method, of_each, parameters) in RECIPES.items():
        used = models[:1] if name == "one expert" else models
        document = {
            "merge_method": method,
            "base_model": about["base_model"],
            "models": [{"model": model, "parameters": of_each} for model in used],
            "parameters": parameters,
            "dtype": "float32",
        }
        recipe = Recipe.from_dict(document).to_dict()
        answer = evaluator.handle(
            Evaluate(recipe, [{t: ids} for t, ids in items.items()], "metric")
        )
        assert isinstance(answer, Scores), answer
        found[name] = {(row[0], row[1]): float(row[2]) for row in answer.rows}
    return found


def main() -> None:
    """Print errors, scores of both, and the share of answers that turn."""
    zoo, work = (Path(argument).absolute() for argument in sys.argv[1:3])
    torch.set_num_threads(1)
    errors = write_rounded(zoo, work)
    print(json.dumps({name: round(error, 5) for name, error in errors.items()}))
    true, rounded = scored(zoo, zoo), scored(zoo, work)
    for name in RECIPES:
        pairs = [(true[name][item], rounded[name][item]) for item in true[name]]
        turned = fmean(a != b for a, b in pairs)
        scores = [f"{fmean(column):.4f}" for column in zip(*pairs, strict=True)]
        print(name, "true, int8:", *scores, f"answers that turn: {100 * turned:.2f} %")


if __name__ == "__main__":
    main()
