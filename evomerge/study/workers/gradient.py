"""Computes one candidate's gradient in a worker, in the cheapest way that its merge allows."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from evomerge.evaluate.gradient.backward import NoRoomError, weight_gradients
from evomerge.evaluate.gradient.projection import (
    Direction,
    layers_by_weight,
    projected_gradients,
)
from evomerge.evaluate.outcomes import OutcomeRow
from evomerge.evaluate.scorer import Scorer
from evomerge.merge.gradient.coefficients import coefficient_gradients
from evomerge.merge.gradient.low_rank import coefficients_of, low_rank_changes
from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.plan import MergePlan
from evomerge.recipe.space.slopes import Coefficient
from evomerge.study.workers.failures import StudyStopError
from evomerge.study.workers.requests import Gradient


class Computed(NamedTuple):
    """A candidate's gradient.

    Attributes:
        rows: The items' outcomes.
        loss: The weighted sum of the items' losses.
        coefficients: The gradient by every smooth coefficient.
        by_factors: Whether no gradient of the weights was needed.
    """

    rows: list[OutcomeRow]
    loss: float
    coefficients: dict[Coefficient, float]
    by_factors: bool


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
    asked = request.items, request.loss, request.weights
    try:
        if directions is None:
            with weight_gradients(model):
                rows, loss = scorer.backward(*asked)
                gradients = coefficient_gradients(model, plan, parents, piecewise=request.piecewise)
        else:
            with projected_gradients(model, directions) as projections:
                rows, loss = scorer.backward(*asked, projections.reset)
                gradients = coefficients_of(plan, projections.values)
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
            f"the gradient by {broken[0].parameter} of {broken[0].tensor} is not finite"
        )
    return Computed(rows, loss, gradients, directions is not None)


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
