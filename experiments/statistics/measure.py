"""Scores merges by models' own data on the held-out items of a zoo; λ is chosen on search items.

    measure.py make SEED FOLDER [ARCHITECTURE]      trains a zoo (minutes)
    measure.py zoo FOLDER [WORD...]  measures one, lines with such a word in their name; a line that
                                     is there already stays

Lines go to results.jsonl beside this file, or where STATISTICS_RESULTS says.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).parents[1] / "optimizer_benchmark"))
from arms import ARMS
from bench import Judge, Search

from evomerge.calibration.statistics import Statistics
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.rows import Calibration, Data
from evomerge.recipe.space.space import SearchSpace
from evomerge.study.config import StudyConfig
from evomerge.study.phases.check import task_specs
from evomerge.study.statistics.pools import split, together
from evomerge.study.workers.evaluator import Evaluator
from evomerge.study.workers.requests import Describe, Description, Evaluate, Scores

RESULTS = Path(os.environ.get("STATISTICS_RESULTS", Path(__file__).with_name("results.jsonl")))
CHOICE = 56  # search items a task on which λ and others are chosen, by the smooth score
LAMBDAS = (0.6, 1.0, 1.3, 1.6, 2.0)


class Zoo:
    """A zoo's models and items, scored in this process."""

    def __init__(self, folder: Path, words: Sequence[str] = ()) -> None:
        self.name = folder.name
        self.words = words
        self.config = StudyConfig.from_yaml(folder / "study.yaml")
        self.evaluator = Evaluator(self.config)
        description = self.evaluator.handle(Describe())
        assert isinstance(description, Description), description
        self.tasks = {
            task: {**one, "weight": 1.0} for task, one in task_specs(description.evaluation).items()
        }
        keys = together(description.evaluation)
        shares = self.config.evaluate.items.shares
        self.pools = split(keys, shares, self.config.search.seed, {})
        self.models = [m for m in self.config.models if m != self.config.base_model]
        self.folder = Path(os.environ.get("STATISTICS_SCRATCH", folder / "statistics"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.statistics = Statistics(self.evaluator.parents, self.folder / "kept")
        self.evaluator.parents.provider = self.statistics
        self.data = {
            model: self._rows([self.own(model)], Path(model).name) for model in self.models
        }
        self.seen = set()
        if RESULTS.is_file():
            lines = map(json.loads, RESULTS.read_text().splitlines())
            self.seen = {line["what"] for line in lines if line["zoo"] == self.name}

    def own(self, model: str) -> str:
        """The task of a model: expert-sort's is demo_sort."""
        return f"demo_{Path(model).name.removeprefix('expert-')}"

    def _rows(self, tasks: list[str], name: str) -> Data:
        items = {task: sorted(self.pools["search"][task]) for task in tasks}
        rows = self.evaluator.scoring.scorer().right_answers(items)
        file = self.folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for task in tasks for row in rows[task]))
        return Data(**Data.kind_of(str(file), name)[1])

    def recipe(self, method: str, data: dict[str, Data] | None = None, **keys: Any) -> Recipe:
        """A merge of all models with parameters; `weight` holds for each."""
        per_model = {"weight": keys.pop("weight")} if "weight" in keys else {}
        read = keys.pop("calibration", {})
        parameters = {key.rstrip("_"): value for key, value in keys.items()}
        of_data = method in ("regmean", "fisher", "ubgm")
        given = data or self.data
        models = [
            {"model": m, "parameters": per_model}
            | ({"data": given[m].to_dict()} if of_data else {})
            for m in self.models
        ]
        document = {"merge_method": method, "base_model": self.config.base_model, "models": models}
        document |= {"parameters": parameters, "dtype": "float32"}
        return Recipe.from_dict(document | ({"calibration": read} if read else {}))

    def score(self, recipe: Recipe, pool: str) -> float:
        """The mean over tasks, by the metric on held-out items, by the smooth one to choose."""
        mode, items = "metric", dict(self.pools["holdout"])
        if pool == "search":
            mode, items = "smooth", {t: sorted(i)[:CHOICE] for t, i in self.pools["search"].items()}
        answer = self.evaluator.handle(Evaluate(recipe.to_dict(), [items], mode))
        assert isinstance(answer, Scores), answer
        by_task: dict[str, list[float]] = {}
        for row in answer.rows:
            by_task.setdefault(row[0], []).append(row[2] if mode == "metric" else row[3])
        return sum(sum(of) / len(of) for of in by_task.values()) / len(by_task)

    def best(self, recipes: dict[str, Recipe]) -> tuple[str, Recipe]:
        """The one that the search items choose."""
        scored = {name: self.score(recipe, "search") for name, recipe in recipes.items()}
        name = max(scored, key=lambda one: scored[one])
        return name, recipes[name]

    def line(self, what: str, made: Callable[[], dict[str, Any]]) -> None:
        """Measure one thing, unless it is there."""
        if what in self.seen or (self.words and not any(word in what for word in self.words)):
            return
        began = time.perf_counter()
        line = {"zoo": self.name, "what": what, **made()}
        line["seconds"] = round(time.perf_counter() - began, 1)
        with RESULTS.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)


class OnItemsOf(Judge):
    """Lets the arms of `optimizer_benchmark` search on a zoo's search items, its held-out ones."""

    def __init__(self, zoo: Zoo) -> None:
        self.config, self._evaluator, self.pools = zoo.config, zoo.evaluator, zoo.pools
        self.tasks = zoo.tasks
        self._judged = {}


def measure(zoo: Zoo) -> None:
    """Everything about one zoo, the most telling first."""

    def chosen(recipes: dict[str, Recipe]) -> dict[str, Any]:
        name, recipe = zoo.best(recipes)
        return {"chosen": name, "held_out": round(zoo.score(recipe, "holdout"), 4)}

    def searched(space: str, arm: str, budget: int) -> dict[str, Any]:
        search = Search(OnItemsOf(zoo), ARMS[arm], space.removeprefix("regmean_then_"), 0, budget)
        search.brief = True
        if space.startswith("regmean"):  # an arm of this experiment alone
            bound = SearchSpace.from_yaml(space).bind(zoo.config.base_model, zoo.models, "float32")
            search.space = bound.with_data(zoo.data, Calibration())
            search.optimizer = search._made()
            search.optimizer.start(search.space.dimensions, 0)
        made = search.run()
        held_out = zoo.score(search.answer(), "holdout")  # without a race, as all others here
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        items = made["item_evaluations"]
        return {"held_out": round(held_out, 4), "item_evaluations": items, "peak_mb": round(peak)}

    def plain(recipe: Recipe) -> dict[str, Any]:
        return {"held_out": round(zoo.score(recipe, "holdout"), 4)}

    make = zoo.recipe
    steps = (0.3, 0.4, 0.5, 0.6, 0.7, 1.0)
    zoo.line(
        "task arithmetic, λ chosen",
        lambda: chosen({str(w): make("task_arithmetic", weight=w) for w in steps}),
    )
    data_free = {
        "ties .2": make("ties", weight=1.0, density=0.2, normalize=True),
        "ties .5": make("ties", weight=1.0, density=0.5, normalize=True),
        "average": make("linear", weight=1.0),
        "stock": make("model_stock"),
        **{f"ta {w}": make("task_arithmetic", weight=w) for w in (0.3, 0.5, 0.7, 1.0)},
    }
    zoo.line("best data-free anchor", lambda: chosen(data_free))
    for space in ("component", "tensor"):
        for budget in (1_120, 3_360):
            zoo.line(
                f"adam by {space}, {budget}",
                lambda s=space, b=budget: searched(s, "adam alone", b),
            )
    zoo.line(
        "adam by tensor beside RegMean, 1120",
        lambda: searched("regmean_then_tensor", "adam alone", 1_120),
    )
    for arm in ("catcma, 4 items", "coarse_to_fine, 4 items"):
        zoo.line(f"{arm}, by component", lambda a=arm: searched("component", a, 11_200))
    for kind in ("gram", "fisher"):
        for model in zoo.models:

            def cost(kind: str = kind, model: str = model) -> dict[str, Any]:
                stored = zoo.statistics.stored(model, kind, zoo.data[model], Calibration())
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
                rows, tokens = stored.about["rows"], stored.about["tokens"]
                return {"rows": rows, "tokens": tokens, "kept": stored.size, "peak_mb": round(peak)}

            zoo.line(f"{kind} of {Path(model).name}", cost)
    zoo.line("regmean λ=1", lambda: plain(make("regmean")))
    zoo.line("regmean λ=1.5", lambda: plain(make("regmean", lambda_=1.5)))
    grid = {
        f"shrink {s} λ {scale}": make("regmean", shrink=s, lambda_=scale)
        for s in (0.9, 0.95, 0.98)
        for scale in LAMBDAS
    }
    zoo.line("regmean, shrink and λ chosen", lambda: chosen(grid))
    zoo.line("fisher λ=1", lambda: plain(make("fisher")))
    zoo.line("fisher λ=1.5", lambda: plain(make("fisher", lambda_=1.5)))
    zoo.line(
        "fisher, λ chosen", lambda: chosen({str(s): make("fisher", lambda_=s) for s in LAMBDAS})
    )
    zoo.line("ubgm", lambda: plain(make("ubgm")))
    ubgm = {
        f"a {a} δ {d}": make("ubgm", weight=a, delta=d)
        for a in (0.5, 0.7, 1.0)
        for d in (0.3, 1, 3)
    }
    zoo.line("ubgm, a and δ chosen", lambda: chosen(ubgm))
    for rows in (16, 32, 64, 128, 256):
        few = {"rows": rows}
        zoo.line(
            f"regmean λ=1.5, {rows} rows",
            lambda few=few: plain(make("regmean", lambda_=1.5, calibration=few)),
        )
    for rows in (16, 64):
        few = {"rows": rows}
        zoo.line(
            f"fisher λ=1.5, {rows} rows",
            lambda few=few: plain(make("fisher", lambda_=1.5, calibration=few)),
        )
    tasks = sorted({zoo.own(model) for model in zoo.models})
    shared = zoo._rows(tasks, "all-tasks")
    everyone = dict.fromkeys(zoo.models, shared)
    zoo.line("regmean λ=1, all tasks' rows", lambda: plain(make("regmean", data=everyone)))
    few = {"rows": 64}
    zoo.line(
        "fisher λ=1, all tasks' rows",
        lambda: plain(make("fisher", data=everyone, calibration=few)),
    )
    sampled = {"labels": "sampled", "rows": 64}
    zoo.line(
        "fisher λ=1.5, 64 rows, sampled labels",
        lambda: plain(make("fisher", lambda_=1.5, calibration=sampled)),
    )


def main(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    if arguments[0] == "make":
        from evomerge.demo.study_file import write_study
        from evomerge.demo.zoo import make_zoo

        folder = Path(arguments[2])
        folder.mkdir(parents=True, exist_ok=True)
        architecture = arguments[3] if len(arguments) > 3 else "llama"
        zoo = make_zoo(folder / "zoo", seed=int(arguments[1]), architecture=architecture)
        write_study(zoo, folder / "study.yaml")
        return
    measure(Zoo(Path(arguments[1]), arguments[2:]))


if __name__ == "__main__":
    main(sys.argv[1:])
