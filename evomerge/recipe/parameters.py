"""Finds a method's parameters for one tensor: what the recipe sets, or the method's defaults."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evomerge import methods
from evomerge.core.errors import UserError
from evomerge.recipe.values import Levels, lookup


def resolve_parameters(
    levels: Levels, name: str, sources: Sequence[tuple[str, str]], merged: Sequence[int]
) -> dict[str, Any]:
    """Return every parameter of the method, as one value or as one per merged model.

    Args:
        levels: Where to look.
        name: The output tensor; filters of what holds for all models match against it.
        sources: The (model, tensor) pairs that `levels.per_model` belongs to; filters of what holds
            for one model match against its own tensor.
        merged: Which of the sources the method merges, the base left out.

    Raises:
        UserError: A required parameter has no value here.
    """
    parameters: dict[str, Any] = {}
    for parameter in methods.get(levels.method).parameters:
        lookups = (
            [(levels.per_model[i], sources[i][1], f" for {sources[i][0]}") for i in merged]
            if parameter.per_model
            else [(levels.shared, name, "")]
        )
        values = []
        for scopes, tensor, whose in lookups:
            value = lookup(scopes, parameter.name, tensor)
            if value is None:
                value = parameter.default
            if value is methods.REQUIRED:
                raise UserError(
                    f"{levels.method} needs {parameter.name}{whose} (asked for by {name})"
                )
            values.append(value)
        parameters[parameter.name] = values if parameter.per_model else values[0]
    return parameters
