"""Gradients of a search's points: from workers, by coefficient, to dimensions of the space."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

from evomerge import methods
from evomerge import optimizers as search
from evomerge.core.errors import UserError
from evomerge.evaluate.outcomes import score_kind_of
from evomerge.recipe.space.dimension import Dimension, Point
from evomerge.recipe.space.simplex import pulled_back
from evomerge.recipe.space.slopes import Coefficient, slopes
from evomerge.recipe.space.space import SearchSpace
from evomerge.recipe.space.template import tensors_of
from evomerge.study.config import (
    FunctionTaskConfig,
    PreferencesTaskConfig,
    StudyConfig,
    TokensTaskConfig,
)
from evomerge.study.context import StudyRun
from evomerge.study.journal.record import Record
from evomerge.study.statistics.outcome import sign
from evomerge.study.wanted import Items, Wanted, WantedGradient
from evomerge.study.workers.requests import Gradients


class Chain:
    """Turns derivatives by coefficients into derivatives by dimensions.

        dL/dx_j = sum_k c_kj dL/dcoefficient_k

    and where x_j is on a simplex, through the softmax at the point of the trial.

    Args:
        space: The study's.
        point: Where; the choices in it hold for the whole search.
        base_model: Whose tensors there are.
        piecewise: Whether weights that elect signs count.
    """

    def __init__(self, space: SearchSpace, point: Point, base_model: str, piecewise: bool) -> None:
        def wanted(parameter: methods.ParameterSpec) -> bool:
            return parameter.smooth is True or (piecewise and bool(parameter.smooth))

        floats = space.tensors or tensors_of(base_model)
        names = [name for name, is_float in floats.items() if is_float]
        self._slopes = slopes(space, point, names, wanted)
        self._dimensions, self._simplices = space.dimensions, space.simplices

    def __call__(self, answer: Gradients, point: Point) -> list[float]:
        """Return the derivative along each dimension at a point; 0 along those without one."""
        by_coefficient = {
            Coefficient(parameter, tensor, model): value
            for parameter, tensor, model, value in answer.coefficients
        }
        plain = [
            sum(slope * by_coefficient.get(key, 0.0) for key, slope in of_dimension.items())
            for of_dimension in self._slopes
        ]
        return pulled_back(self._simplices, point, plain)

    @cached_property
    def smooth(self) -> list[Dimension]:
        """The dimensions along which there is a gradient."""
        return [d for d, of in zip(self._dimensions, self._slopes, strict=True) if of]

    @cached_property
    def others(self) -> list[Dimension]:
        """The dimensions that stay where they start, because there is none."""
        return [d for d, of in zip(self._dimensions, self._slopes, strict=True) if not of]


def chain_of(config: StudyConfig, space: SearchSpace, optimizer: search.Optimizer) -> Chain:
    """Make the chain of a search that follows gradients, at the point where it starts.

    Raises:
        UserError: The study's losses have no gradient, or no dimension is smooth.
    """
    name = type(optimizer).__name__.lower()
    why_not = without_gradient(config, optimizer.loss)
    if why_not:
        raise UserError(f"search.optimizer: {name} follows gradients, but {why_not}")
    chain = Chain(space, optimizer.origin, config.base_model, optimizer.piecewise)
    if not chain.smooth:
        elects = (
            ""
            if optimizer.piecewise
            else ("; for weights that elect signs (TIES) set search.options: {piecewise: true}")
        )
        raise UserError(
            f"search.optimizer: {name} follows gradients, but no dimension changes the merge "
            f"smoothly, as weight, lambda, alpha, t and scale do in {', '.join(_smooth_methods())}"
            f"{elects}; or set search.optimizer: catcma"
        )
    return chain


def without_gradient(config: StudyConfig, loss: str = "answers") -> str | None:
    """Say why the loss of a study's tasks has no gradient, and what to do; ``None`` if it has."""
    evaluate = config.evaluate
    if config.workers.candidate == "streamed":
        return (
            "workers.candidate: streamed keeps no layer for the way back: set search.optimizer: "
            "catcma, or candidate: whole"
        )
    if score_kind_of(loss) == "smooth" and evaluate.fitness != "smooth":
        return (
            "evaluate.fitness: metric has none: set fitness: smooth, which looks at the likelihood "
            "of right answers, or search.optimizer: catcma"
        )
    if loss == "dpo" and not any(
        isinstance(t, PreferencesTaskConfig) and t.weight for t in evaluate.tasks
    ):
        return (
            "the loss dpo needs preferences to learn from: add a task {name: …, preferences: "
            "FILE}, or leave options.loss out"
        )
    functions = [t.name for t in evaluate.tasks if isinstance(t, FunctionTaskConfig) and t.weight]
    if functions:
        return f"task '{functions[0]}' is a function, which has none: set search.optimizer: catcma"
    lengths = [t.name for t in evaluate.tasks if isinstance(t, TokensTaskConfig) and t.weight]
    if lengths:
        return (
            f"task '{lengths[0]}' counts tokens, which has none: give it weight 0 and a "
            "constraint, or set search.optimizer: catcma"
        )
    return None


def _smooth_methods() -> list[str]:
    specs = methods.registered()
    return [
        s.name for s in specs if any(p.smooth is True and p.name != "lambda" for p in s.parameters)
    ]


def wanted_gradient(
    study: StudyRun, optimizer: search.Optimizer, chain: Chain, trials: Sequence[int], items: Items
) -> Wanted:
    """Ask for outcomes of trials on items, and the gradient of the loss beside them."""
    tasks = study.record.tasks_of("search")
    weights = item_weights({task: tasks[task]["weight"] for task in items}, items)
    lines = lines_of(study.record, items) if optimizer.loss == "line" else None
    gradient = WantedGradient(optimizer.loss, weights, optimizer.piecewise, lines, chain)
    return Wanted(trials, items, score_kind_of(optimizer.loss), "search", gradient)


def lines_of(record: Record, tasks: Iterable[str]) -> dict[str, str]:
    """Return, of each task, the parent that was best at it among the anchors."""
    parents = [trial for trial in record.trials.values() if trial.kind == "parent"]
    by_parent = {
        trial.recipe["models"][0]["model"]: record.scores(trial.number) for trial in parents
    }
    return {
        task: max(
            by_parent,
            key=lambda model: sign(record.tasks[task]) * by_parent[model].get(task, -math.inf),
        )
        for task in tasks
    }


def item_weights(weights: Mapping[str, float], items: Items) -> dict[str, float]:
    """Return the weight of one item of each task: mean by task, then by the tasks' weights."""
    total = sum(weights[task] for task in items)
    return {task: weights[task] / total / len(ids) for task, ids in items.items()}


def summed(study: StudyRun, number: int, items: Items) -> list[float] | None:
    """Sum up a trial's gradient from the journal's parts; ``None`` if it failed."""
    parts = study.ledger.gradients(number, items)
    if any(part is None for part in parts):
        return None
    return [sum(column) for column in zip(*(p for p in parts if p is not None), strict=True)]


def fitted_items(record: Record, per_task: int) -> dict[str, list[int]]:
    """Return the items of the last steps along gradients, at most so many of each task.

    Only tasks that have held-out items, too; empty if there was no step.
    """
    items: dict[str, list[int]] = {}
    judged = record.pools.get("holdout", {})
    for generation in sorted(record.generations, reverse=True):
        ask = record.generations[generation]
        for task, ids in (ask.items or {}).items() if ask.gradients else ():
            if task in judged:
                chosen = items.setdefault(task, [])
                new = [i for i in ids if i not in chosen]
                chosen += new[: per_task - len(chosen)]
    return items
