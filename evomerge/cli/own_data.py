"""Forecasts what a study pays for models' own rows: their statistics, anchors and candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evomerge.calibration.cost import learns_mask, of_statistic, of_training
from evomerge.calibration.requests import (
    Collected,
    Measure,
    Rehearse,
    Rehearsed,
    Sample,
    Sampled,
    Train,
)
from evomerge.calibration.rows import count_rows
from evomerge.checkpoint.opening import open_model
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.rows import AS_USUAL, Calibration, Data
from evomerge.recipe.space.space import SearchSpace
from evomerge.report.numbers import duration, plural, size
from evomerge.study.config import StudyConfig
from evomerge.study.own_rows import kinds, measures, rows_of, trainings
from evomerge.study.phases.anchors import Anchor, anchors
from evomerge.study.wanted import Items
from evomerge.study.workers.devices import device, memo_budget
from evomerge.study.workers.scheduler import Scheduler

_NAMES = {"gram": "RegMean's matrices", "fisher": "squared gradients", "inputs": "mean inputs"}


@dataclass(frozen=True)
class OwnData:
    """What models' own rows take.

    Attributes:
        anchors: All anchors, those by models' own data among them.
        sampled: A forecast of each kind of statistic, and how many models have it.
        seconds: Of all statistics, gates and masks that are not kept yet, on one worker.
        fits: Seconds of RegMean's solving beyond a plain merge: of all ``anchors`` once, of merges
            that all candidates have in common in each worker (``once``), and of a ``trial``.
        disk: Bytes that are kept for all models.
        making: Bytes that a worker needs while it makes a statistic.
        recalled: Bytes that a worker keeps of products that candidates have in common.
        trained: What is trained before the search: in words, its item evaluations, its forecast.
        evaluations: Item evaluations of all statistics, gates and masks.
    """

    anchors: list[Anchor]
    sampled: Mapping[str, tuple[Sampled, int]]
    seconds: float
    fits: Mapping[str, float]
    disk: int
    making: int
    recalled: int
    trained: Sequence[tuple[str, int, Rehearsed]]
    evaluations: int

    @property
    def lines(self) -> list[tuple[str, str]]:
        """Say what each kind of statistic takes."""
        rows = []
        for kind, (one, models) in self.sampled.items():
            text = f"{_NAMES[kind]} of {plural(models, 'model')}: {size(one.size)} of disk each"
            if one.unmade:
                left = f"the {len(one.unmade)} that are" if len(one.unmade) < models else "all"
                text += f"; {left} still to be made, about {duration(one.seconds['each'])} and "
                text += f"{size(one.memory)} of memory each"
            else:
                text += ", all made already"
            if one.seconds["fit"]:
                text += f"; solving takes {one.seconds['fit']:.2g} s a merge, "
                text += f"{one.seconds['refit']:.2g} s where products are kept"
            rows.append(("statistic", text))
        for name, cost, training in self.trained:
            text = f"{name}, trained on {training.rows_read:,} rows before the search: {cost:,} "
            takes = f"about {duration(training.seconds['total'])}"
            text += f"item evaluations, {'done already' if training.is_kept else takes}"
            rows.append(("statistic", text))
        if self.evaluations:
            text = f"{self.evaluations:,} item evaluations of models' own rows before the search"
            rows.append(("own data", text))
        return rows


def own_data(
    config: StudyConfig, space: SearchSpace, search: Items, scheduler: Scheduler, folder: Path
) -> OwnData:
    """Run one parent on a few of its rows for each kind of statistic, and add up.

    Args:
        config: The study.
        space: Its space.
        search: The search pool's document numbers by task.
        scheduler: Of a worker.
        folder: Gets the rows.

    Raises:
        UserError: A task has no right answers, or a model does not run on its rows.
    """
    data = rows_of(config, search, lambda one: scheduler.ask(one, Collected), folder)
    listed = anchors(config, data)
    if not data:
        return OwnData(listed, {}, 0.0, {"anchors": 0.0, "once": 0.0, "trial": 0.0}, 0, 0, 0, (), 0)
    space = space.with_data(data, config.calibration or AS_USUAL)
    recipes = [anchor.recipe for anchor in listed]
    by_kind: dict[str, Sample] = {}
    for one in measures(space, recipes):
        sample = by_kind.setdefault(one.kind, Sample(one.kind, {}, one.calibration))
        by_kind[one.kind] = Sample(one.kind, {**sample.data, one.model: one.data}, one.calibration)
    sampled = {
        kind: (scheduler.ask(sample, Sampled), len(sample.data)) for kind, sample in by_kind.items()
    }
    forecasts = [one for one, _ in sampled.values()]
    trained = [_training(one, scheduler) for one in trainings(space, recipes)]
    statistics = sum(_cost(one) for one in measures(space, recipes))
    start = space.fill([dimension.start for dimension in space.dimensions])
    gram, models = sampled.get("gram", (Sampled([], 0, 0, 0, {"fit": 0.0, "refit": 0.0}), 1))
    products = (models - 1) * gram.products
    opened = {name: open_model(name) for name in (config.base_model, *config.models)}
    budget = memo_budget(config, opened, [device(config.workers.device)])
    recalled = min(products, budget) if "gram" in kinds(start) else 0
    anew = 1 - recalled / products if products else 0.0
    trial = gram.seconds["refit"] + anew * (gram.seconds["fit"] - gram.seconds["refit"])
    fitted = sum("gram" in kinds(anchor.recipe) for anchor in listed)
    inner = sum("gram" in kinds(one) for one in start.merges.values())
    return OwnData(
        anchors=listed,
        sampled=sampled,
        seconds=sum(len(one.unmade) * one.seconds["each"] for one in forecasts)
        + sum(one.seconds["total"] for _, _, one in trained),
        fits={
            "anchors": fitted * gram.seconds["fit"],
            "once": inner * gram.seconds["fit"] * config.workers.least,
            "trial": trial if "gram" in kinds(start) else 0.0,
        },
        disk=sum(one.size * models for one, models in sampled.values()),
        making=max((one.memory for one in forecasts), default=0),
        recalled=recalled,
        trained=trained,
        evaluations=statistics + sum(cost for _, cost, _ in trained),
    )


def _training(train: Train, scheduler: Scheduler) -> tuple[str, int, Rehearsed]:
    recipe = Recipe.from_dict(train.recipe)
    name = f"the mask of {recipe.merge_method}"
    if not learns_mask(recipe):
        name = f"gates of {recipe.merge_method}"
    one = scheduler.ask(Rehearse(train.recipe), Rehearsed)
    return name, of_training(recipe, one.rows_read), one


def _cost(measure: Measure) -> int:
    rows = count_rows(Data(**measure.data), Calibration(**measure.calibration))
    return of_statistic(measure.kind, rows)
