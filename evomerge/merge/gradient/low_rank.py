"""Finds merges whose coefficients move weights by LoRA adapters alone: their gradients are cheap.

Where a task-arithmetic merge is of adapters on its own base, θ = base + λ Σ_k w_k B_k A_k, and

    dL/dw_k = λ < G, B_k A_k >,    dL/dλ = Σ_k w_k < G, B_k A_k >

with G = dL/dθ, which need not be known (`evaluate.gradient.projection`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from evomerge.checkpoint.names import adapters_on
from evomerge.checkpoint.store import Factors
from evomerge.merge.build import live_tensors
from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.plan import MergePlan
from evomerge.recipe.space.slopes import Coefficient


class LowRank(NamedTuple):
    """What an adapter adds to one tensor.

    Attributes:
        tensor: The output tensor's name.
        model: The adapted model.
        weight: The live tensor.
        factors: Of the change, in the tensor's own layout.
    """

    tensor: str
    model: str
    weight: Tensor
    factors: Factors


def low_rank_changes(
    model: torch.nn.Module, built: MergePlan, parents: Parents
) -> list[LowRank] | None:
    """Return every change that a merge of adapters weighs up.

    ``None``: it is another merge, whose gradient needs that of the weights.
    """
    changes = []
    live = live_tensors(model, built)
    for job in built.jobs:
        if job.method != "task_arithmetic" or job.parameters["normalize"]:
            return None
        assert job.base is not None, "task arithmetic takes a base"
        for ref in job.models:
            adapters = adapters_on(ref.model, job.base.model)
            known = parents.checkpoints[ref.model].factors(ref.name, adapters or 0)
            if not adapters or known is None or ref.name != job.base.name:
                return None
            factors = parents.factors(ref, job.base.model, parents.device)
            if factors is None:
                continue  # the base's own tensor
            if job.name not in live:
                return None
            weight = live[job.name]
            factors = Factors(*(factor.to(weight.device) for factor in factors))
            changes.append(LowRank(job.name, ref.model, weight, factors))
    return changes or None


def coefficients_of(
    built: MergePlan, inner: Mapping[tuple[str, str], float]
) -> dict[Coefficient, float]:
    """Turn < G, B A > of each tensor and model into the gradient by the coefficients."""
    gradients: dict[Coefficient, float] = {}
    for job in built.jobs:
        scale, along = float(job.parameters["lambda"]), 0.0
        for ref, weight in zip(job.models, job.parameters["weight"], strict=True):
            value = inner.get((job.name, ref.model), 0.0)
            gradients[Coefficient("weight", job.name, ref.model)] = scale * value
            along += float(weight) * value
        gradients[Coefficient("lambda", job.name, "")] = along
    return gradients
