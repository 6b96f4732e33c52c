"""Gives models rows of their own, and has the workers run them: before anything is searched.

Rows of a model's tasks are search items, never race or held-out ones. They are written into the run
folder under their content's hash, and every recipe that reads them names them by it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evomerge import methods
from evomerge.calibration.cost import learns_mask, of_statistic, of_training
from evomerge.calibration.requests import (
    KINDS,
    Collect,
    Collected,
    Making,
    Measure,
    Measured,
    Train,
)
from evomerge.core.atomic import user_errors, write_text
from evomerge.core.errors import UserError
from evomerge.recipe.data import RecipeData
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.rows import AS_USUAL, Calibration, Data
from evomerge.recipe.space.space import SearchSpace
from evomerge.study.config import StudyConfig
from evomerge.study.context import StudyRun
from evomerge.study.journal.events import MeasuredEvent
from evomerge.study.wanted import Items

ROWS = "rows"  # the folder, within a run's and within best/


def check_rows(config: StudyConfig, space: SearchSpace) -> None:
    """Refuse a space that reads rows of models that have none.

    Raises:
        UserError: Names the model, and the remedy.
    """
    given = {one.model for one in config.data or ()}
    without = sorted(space.models_read - given)
    if without:
        raise UserError(
            f"{space.where}: it reads rows of {without[0]}: write `{{model: {without[0]}, "
            "tasks: [...]}` in the study's models, with the tasks that this model is for, or "
            "`data: FILE`"
        )


def described(config: StudyConfig, search: Mapping[str, Sequence[int]]) -> str | None:
    """Say whose rows are what, in a line; ``None`` where no model has any.

    Args:
        config: The study.
        search: The search pool's document numbers by task.
    """
    if not config.data:
        return None
    most = (config.calibration or AS_USUAL).rows
    said = []
    for one in config.data:
        count = sum(len(search[task]) for task in one.tasks)
        of = f"{min(count, most)} of {count} search items of {', '.join(one.tasks)}"
        said.append(f"{Path(one.model).name}: {Path(one.data.file).name if one.data else of}")
    return "; ".join(said)


def with_rows(study: StudyRun, external: bool = False) -> StudyRun:
    """Return the study with the rows of its models, and the space that names them.

    Args:
        study: The study.
        external: Whether the caller scores its trials, so that no worker reads tasks.

    Raises:
        UserError: A task has no right answers, nobody reads tasks, or the rows cannot be written.
    """
    if not study.config.data:
        return study
    of_tasks = [one for one in study.config.data if one.tasks]
    if external and of_tasks:
        raise UserError(
            f"{study.directory}: tasks of {of_tasks[0].model}: ask and tell start no worker that "
            "could read them: give the model `data: FILE`"
        )

    def collect(request: Collect) -> Collected:
        return study.ledger.request(request, Collected)

    data = rows_of(study.config, study.pools.get("search", {}), collect, study.directory)
    calibration = study.config.calibration or AS_USUAL
    return replace(study, data=data, space=study.space.with_data(data, calibration))


def rows_of(
    config: StudyConfig, search: Items, collect: Callable[[Collect], Collected], folder: Path
) -> dict[str, Data]:
    """Return the rows of each model that has some, those of tasks written into a folder.

    Args:
        config: The study.
        search: The search pool's document numbers by task.
        collect: Has a worker turn items into rows of text.
        folder: Gets a folder `ROWS`.

    Raises:
        UserError: A task has no right answers, or the rows cannot be written.
    """
    return {
        one.model: one.data or _written(search, one.tasks, collect, folder)
        for one in config.data or ()
    }


def measure(study: StudyRun, recipes: Sequence[Recipe]) -> None:
    """Have the workers make every statistic that these recipes and the space will ask for.

    What is kept from before is only looked at. Without this each would be made where a candidate
    first needs it, by every worker at once. What the rows cost goes into the journal, once.
    """
    listed: list[Sequence[Making]] = [measures(study.space, recipes)]
    for requests in [*listed, trainings(study.space, recipes)]:
        answers = study.ledger.requests(requests, Measured)
        for request, answer in zip(requests, answers, strict=True):
            event = _event(request, answer)
            if (event.kind, event.statistic) not in {
                (one.kind, one.statistic) for one in study.record.measured
            }:
                study.ledger.log(event)


def _event(request: Making, answer: Measured) -> MeasuredEvent:
    rows = answer.rows
    if isinstance(request, Measure):
        kind, models, cost = request.kind, [request.model], of_statistic(request.kind, rows)
    else:
        recipe = Recipe.from_dict(request.recipe)
        kind, cost = "mask" if learns_mask(recipe) else "gates", of_training(recipe, rows)
        models = [entry.model for entry in recipe.models]
    return MeasuredEvent(
        kind=kind,
        models=models,
        statistic=answer.statistic,
        rows=rows,
        item_evaluations=cost,
        seconds={"total": answer.seconds.get("total", 0.0)},
    )


def measures(space: SearchSpace, recipes: Sequence[Recipe]) -> list[Measure]:
    """Return a request for every statistic that these recipes and the space will ask for."""
    start = space.fill([dimension.start for dimension in space.dimensions])
    wanted: dict[str, Measure] = {}
    for recipe in [*recipes, start]:
        for one in [recipe, *recipe.merges.values()]:
            read = one.calibration.to_dict()
            for kind in kinds(one):
                for model, data in ((entry.model, entry.data) for entry in one.models):
                    if data is not None:
                        key = json.dumps([model, kind, data.sha256, read], sort_keys=True)
                        wanted[key] = Measure(model, kind, data.to_dict(), read)
    return list(wanted.values())


def trainings(space: SearchSpace, recipes: Sequence[Recipe]) -> list[Train]:
    """Return a request for gates and masks of each of these recipes, and of the space's start."""
    start = space.fill([dimension.start for dimension in space.dimensions])
    trained = {}
    for recipe in [*recipes, start]:
        for one in [recipe, *recipe.merges.values()]:
            specs = map(methods.get, one.method_names)
            reading = [spec for spec in specs if spec.reads_data(one.parameters)]
            if any(spec.takes & {"gates", "mask"} for spec in reading):
                trained[one.digest] = Train(one.to_dict())
    return list(trained.values())


def copied(recipe: Recipe, folder: Path) -> Recipe:
    """Copy a recipe's rows into a folder, and return the recipe that names them from there.

    Raises:
        UserError: They cannot be read or written.
    """
    document = recipe.to_dict()
    for one in [document, *document.get("merges", {}).values()]:
        for entry in one.get("models", ()):
            if "data" in entry:
                name = f"{ROWS}/{entry['data']['sha256'][:16]}.jsonl"
                with user_errors(folder / name):
                    text = Path(entry["data"]["file"]).read_text(encoding="utf-8")
                    (folder / ROWS).mkdir(exist_ok=True)
                    write_text(folder / name, text)
                entry["data"]["file"] = name
    return Recipe.from_dict(document)


def anchors_of_data(
    base: str, models: Sequence[str], data: Mapping[str, Data], calibration: Calibration | None
) -> dict[str, dict[str, Any]]:
    """Return the documents of merges by models' own rows, by name; none unless all have rows.

    RegMean and Fisher at the papers' scale and half as much again, which did better on every zoo
    that was measured; UBGM at its defaults.
    """
    if not all(model in data for model in models):
        return {}
    entries = [{"model": model, "data": data[model].to_dict()} for model in models]
    if base in data and base not in models:
        entries.append({"model": base, "data": data[base].to_dict()})
    read = {} if calibration is None else {"calibration": calibration.to_dict()}
    shared = {"base_model": base, "models": entries, **read}
    listed = {
        f"{name} λ={scale:g}": {"merge_method": method, "parameters": {"lambda": scale}, **shared}
        for name, method in (("RegMean", "regmean"), ("Fisher", "fisher"))
        for scale in (1.0, 1.5)
    }
    return {**listed, "UBGM": {"merge_method": "ubgm", **shared}}


def kinds(recipe: RecipeData) -> list[str]:
    """Return the statistics that a merge's methods take, without those of merges within it."""
    specs = list(map(methods.get, recipe.method_names))
    taken = {k for spec in specs if spec.reads_data(recipe.parameters) for k in spec.takes}
    return [kind for kind in KINDS if kind in taken]


def _written(
    search: Items, tasks: Sequence[str], collect: Callable[[Collect], Collected], folder: Path
) -> Data:
    """Write the search items of tasks as rows, in the tasks' order."""
    items = {task: sorted(search[task]) for task in tasks}
    rows = collect(Collect(items)).collected
    lines = [json.dumps(row, ensure_ascii=False) for task in tasks for row in rows[task]]
    text = "\n".join(lines) + "\n"
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    file = folder.resolve() / ROWS / f"{sha256[:16]}.jsonl"
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        with user_errors(file):
            file.parent.mkdir(exist_ok=True)
            write_text(file, text)
    return Data(str(file), sha256)
