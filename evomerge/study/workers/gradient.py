"""Computes one candidate's gradient in a worker, in the cheapest way that its merge allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

from evomerge.evaluate.gradient.backward import NoRoomError, weight_gradients
from evomerge.evaluate.gradient.memory import Activations, activations
from evomerge.evaluate.gradient.projection import (
    Direction,
    layers_by_weight,
    projected_gradients,
)
from evomerge.evaluate.outcomes import ON_THE_LINE, OutcomeRow, passes_of
from evomerge.evaluate.scorer import Scorer
from evomerge.merge.gradient.coefficients import coefficient_gradients
from evomerge.merge.gradient.low_rank import coefficients_of, low_rank_changes
from evomerge.merge.gradient.segment import segment
from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.plan import MergePlan
from evomerge.recipe.space.slopes import Coefficient
from evomerge.study.workers.failures import StudyStopError
from evomerge.study.workers.requests import Gradient, Gradients


class Computed(NamedTuple):
    """A candidate's gradient.

    Attributes:
        rows: The items' outcomes.
        loss: The weighted sum of the items' losses.
        coefficients: The gradient by every smooth coefficient.
        by_factors: Whether no gradient of the weights was needed.
        memory: Bytes for each purpose, in words, if these were to be measured.
    """

    rows: list[OutcomeRow]
    loss: float
    coefficients: dict[Coefficient, float]
    by_factors: bool
    memory: dict[str, int]

    def answer(self, loss: str, seconds: Mapping[str, float]) -> Gradients:
        """Return it as a worker's answer."""
        return Gradients(
            rows=[row.as_written() for row in self.rows],
            seconds=seconds,
            loss=self.loss,
            coefficients=[(*key, value) for key, value in self.coefficients.items()],
            by_factors=self.by_factors,
            passes=passes_of(loss),
            memory=self.memory,
        )


def gradient(
    request: Gradient, scorer: Scorer, model: Any, plan: MergePlan, parents: Parents
) -> Computed:
    """Run the items of a request forward and backward through a live model, which holds the merge.

    A merge of LoRA adapters alone takes no gradient of the weights.

    Raises:
        StudyStopError: Not even one item fits into memory.
        FloatingPointError: The gradient is not finite.
    """
    directions = _directions(model, plan, parents)
    backward = _along_lines if request.loss == "line" else _at_merge
    asked = request, scorer, model, plan, parents
    memory: dict[str, int] = {}
    counting = activations(model) if request.measure else nullcontext()
    try:
        if directions is None:
            with weight_gradients(model), counting as counted:
                rows, loss = backward(*asked, partial(_clear, model))
                memory = _memory(model, counted, passes_of(request.loss) > 1)
                gradients = coefficient_gradients(model, plan, parents, piecewise=request.piecewise)
        else:
            with projected_gradients(model, directions) as projections, counting as counted:
                rows, loss = backward(*asked, projections.reset)
                gradients = coefficients_of(plan, projections.values)
                memory = _memory(model, counted, passes_of(request.loss) > 1)
    except NoRoomError as error:
        needs = "the weights twice, and " if directions is None else ""
        raise StudyStopError(
            "a gradient of this model does not fit into memory, not even of one item "
            f"({error}): it needs {needs}the activations of an item; give a worker more memory or "
            "more GPUs (workers.gpus), or set search.optimizer: catcma, which needs no gradient"
        ) from None
    broken = [key for key, value in gradients.items() if not math.isfinite(value)]
    if broken:
        raise FloatingPointError(
            f"the gradient by {broken[0].parameter} of {broken[0].tensor} is not finite: the "
            "search goes half of the last step back, and on in steps of half the length"
        )
    return Computed(rows, loss, gradients, directions is not None, memory)


def _at_merge(
    request: Gradient,
    scorer: Scorer,
    model: Any,  # noqa: ARG001
    plan: MergePlan,  # noqa: ARG001
    parents: Parents,  # noqa: ARG001
    forget: Callable[[], None],
) -> tuple[list[OutcomeRow], float]:
    return scorer.backward(request.items, request.loss, request.weights, forget)


def _along_lines(
    request: Gradient,
    scorer: Scorer,
    model: Any,
    plan: MergePlan,
    parents: Parents,
    forget: Callable[[], None],
) -> tuple[list[OutcomeRow], float]:
    """Average the cross entropy over five points on the line from each task's parent to the merge.

    A point's gradient by the merge's weights is its share a of the way times that by its own, so
    each pass adds a times as much. If memory runs out amid the passes, all of them are repeated.
    """
    lines = request.lines or {}
    while True:
        seconds, alike = 0.0, True
        even = {task: weight / passes_of("line") for task, weight in request.weights.items()}
        rows, loss = scorer.backward(request.items, "answers", even, forget)
        seconds += scorer.seconds
        at_once = scorer.rows_at_once
        with segment(model, plan, parents) as moving:
            for parent in dict.fromkeys(lines[task] for task in request.items):
                items = {t: ids for t, ids in request.items.items() if lines[t] == parent}
                for a in ON_THE_LINE if alike else ():
                    moving.move(parent, a)
                    weights = {task: a * even[task] for task in items}
                    loss += scorer.backward(items, "answers", weights, forget)[1] / a
                    seconds += scorer.seconds
                    alike = alike and scorer.rows_at_once == at_once
        if alike:
            scorer.seconds = seconds
            return rows, loss
        forget()


def _memory(model: Any, counted: Activations | None, has_copy: bool) -> dict[str, int]:
    """Return the bytes of weights, gradient and activations, by name; empty if none are counted."""
    if counted is None:
        return {}
    parameters = list(model.parameters())
    weights = sum(p.numel() * p.element_size() for p in parameters)
    gradient = sum(p.grad.numel() * p.element_size() for p in parameters if p.grad is not None)
    sizes = {"of weights": weights, "of their gradient": gradient}
    copied = {"of a copy": weights} if has_copy else {}
    return {k: v for k, v in {**sizes, **copied, "of activations": counted.peak}.items() if v}


def _clear(model: Any) -> None:
    for parameter in model.parameters():
        parameter.grad = None


def _directions(model: Any, plan: MergePlan, parents: Parents) -> list[Direction] | None:
    """Return the changes that a merge of adapters makes; ``None`` if weights need a gradient."""
    changes = low_rank_changes(model, plan, parents)
    if changes is None or model.get_input_embeddings() is None:
        return None
    layers = layers_by_weight(model)
    directions = []
    for change in changes:
        layer = layers.get(change.weight.data_ptr())
        if layer is None:
            return None
        directions.append(Direction((change.tensor, change.model), layer, *change.factors))
    return directions
