"""Turns the gradient by a merge's weights into the gradient by its coefficients, tensor by tensor.

    dL/dc = < dL/dθ, dθ/dc >,    dθ/dc ≈ (merge(c + ε) - merge(c - ε)) / 2ε

dθ/dc is a difference of the product's own merges, so that it is right for every method. Where the
merge is linear in c, as most are, it is exact but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from evomerge import methods
from evomerge.merge.build import parameters_of
from evomerge.merge.compute import merged
from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.plan import MergePlan, TensorJob
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.space.slopes import Coefficient

# Half the difference of two merges in float32, where rounding is some 1e-7 of a weight, and in
# float64, where next to no element's elected sign changes in between.
STEP, FINE_STEP = 1e-2, 1e-6
_BLOCK = 1 << 22  # elements whose product is summed up in float64 at a time


def coefficient_gradients(
    model: torch.nn.Module, built: MergePlan, parents: Parents, *, piecewise: bool = False
) -> dict[Coefficient, float]:
    """Compute the gradient of a loss by every smooth coefficient of a live model's merge.

    A tensor's gradient is dropped as soon as it is used.

    Args:
        model: The live model, whose weights have their ``grad``.
        built: The plan of the merge.
        parents: Its parents.
        piecewise: Whether coefficients count on which elected signs depend: with all signs as
            they are, and in float64.
    """
    gradients: dict[Coefficient, float] = {}
    weights = parameters_of(model, built)
    for job in built.jobs:
        weight = weights.get(job.name)  # None where transformers leaves it out of the model
        if weight is None or weight.grad is None:
            continue
        gradient, weight.grad = weight.grad, None
        if job.method not in methods.names():  # what a structure makes has no coefficients
            continue
        for parameter in methods.get(job.method).parameters:
            if parameter.smooth is True or (piecewise and parameter.smooth):
                fine = parameter.smooth == "piecewise" or built.recipe.dtype == "float64"
                for model_name, low, high in _moved(job, parameter, FINE_STEP if fine else STEP):
                    difference = _difference(job, low, high, parameter, parents, built.recipe, fine)
                    key = Coefficient(parameter.name, job.name, model_name)
                    gradients[key] = _dot(gradient, difference)
    return gradients


Moved = tuple[object, float]  # the parameter's values for a job, and the one that was moved


def _moved(
    job: TensorJob, parameter: methods.ParameterSpec, step: float
) -> Iterator[tuple[str, Moved, Moved]]:
    """Yield each coefficient: its model, and the values with it a step lower and higher."""
    values = job.parameters[parameter.name]
    listed = list(values) if parameter.per_model else [values]
    names = [ref.model for ref in job.models] if parameter.per_model else [""]
    for i, name in enumerate(names):
        ends: list[Moved] = []
        for sign in (-1, 1):
            end = float(listed[i]) + sign * step
            if parameter.valid_low is not None:
                end = max(end, parameter.valid_low)
            if parameter.valid_high is not None:
                end = min(end, parameter.valid_high)
            moved = [*listed[:i], end, *listed[i + 1 :]]
            ends.append((moved if parameter.per_model else end, end))
        yield name, ends[0], ends[1]


def _difference(
    job: TensorJob,
    low: Moved,
    high: Moved,
    parameter: methods.ParameterSpec,
    parents: Parents,
    recipe: Recipe,
    fine: bool,
) -> Tensor:
    """Compute dθ/dc of one tensor, in float32 or finer."""
    dtype = "float64" if fine else recipe.dtype
    exact = replace(recipe, dtype=dtype, out_dtype="float64" if fine else "float32")
    ends = [
        merged(job._replace(parameters={**job.parameters, parameter.name: values}), parents, exact)
        for values, _ in (high, low)
    ]
    return ends[0].sub_(ends[1]).div_(high[1] - low[1])


def _dot(gradient: Tensor, difference: Tensor) -> float:
    """Sum up the product in float64, block by block."""
    parts = [torch.split(t.reshape(-1), _BLOCK) for t in (gradient, difference.to(gradient.device))]
    pairs = zip(*parts, strict=True)
    return sum(float(torch.dot(a.double(), b.double())) for a, b in pairs)
