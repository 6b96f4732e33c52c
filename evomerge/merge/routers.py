"""Makes tensors that no parent has: routers, gates, zeros, low-rank changes, wider tiles."""

from __future__ import annotations

import torch
from torch import Tensor

from evomerge.core.errors import UserError
from evomerge.merge.low_rank import changes
from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.experts import ROUTER, ZEROS
from evomerge.merge.plan.jobs import TensorJob
from evomerge.merge.plan.routed import GATE
from evomerge.merge.plan.wide import TILED
from evomerge.merge.tiles import tiled
from evomerge.methods.of_data import Direction
from evomerge.methods.random import CounterRandom
from evomerge.recipe.recipe import Recipe

_DEVIATION = 0.02  # Komatsuzaki 2022, appendix B


def made(job: TensorJob, parents: Parents, recipe: Recipe, device: torch.device) -> Tensor | None:
    """Return a job's tensor in float32 if a structure makes it, else ``None``.

    Raises:
        UserError: A model has no rows of data, or they cannot be used.
    """
    if job.method == TILED:
        return tiled(job, parents, recipe, device)
    low_rank = changes(job, parents, device)
    if low_rank is not None:
        return low_rank
    if job.method == GATE:
        return _gate(job, parents, recipe, device)
    if job.method == ZEROS:
        return torch.zeros(job.shape, device=device)
    if job.method != ROUTER:
        return None
    rows = (
        _random(job, recipe.seed)
        if job.parameters["router"] == "random"
        else torch.stack(
            [_direction(job, i, parents, recipe, device) for i in range(len(job.models))]
        )
    )
    sharpness: float = job.parameters["sharpness"]
    return rows.to(device) * sharpness  # (experts, width)


def _gate(job: TensorJob, parents: Parents, recipe: Recipe, device: torch.device) -> Tensor:
    """Return a tensor of a gate of routed layers, as it is before training or after."""
    if job.parameters["train"]:
        return parents.gates(recipe)(job.name).to(device)
    if job.parameters["drawn"]:
        return _random(job, recipe.seed).to(device)
    return torch.full(job.shape, job.parameters["start"], device=device)


def _direction(
    job: TensorJob, number: int, parents: Parents, recipe: Recipe, device: torch.device
) -> Tensor:
    """Return the unit mean of the inputs that an expert's own rows bring to its MLP."""
    model = job.models[number].model
    if recipe.data_of(model) is None:
        raise UserError(
            f"moe: router: hidden needs rows of each model, and {model} has none: add `data: FILE` "
            "(JSON lines) to it, `tasks: [...]` in a study, or set router: random"
        )
    given = parents.of_data("inputs", job.models[number], recipe, device, required=True)
    assert isinstance(given, Direction)
    return torch.nn.functional.normalize(given.values, dim=0)


def _random(job: TensorJob, seed: int) -> Tensor:
    return _DEVIATION * CounterRandom(seed, job.name).normal(0, job.shape)
