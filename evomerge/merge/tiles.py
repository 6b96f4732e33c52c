"""Tiles the tensors of a wider model, with noise that its layers do not see if that is wanted."""

from __future__ import annotations

import torch
from torch import Tensor

from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.jobs import TensorJob
from evomerge.methods.random import CounterRandom
from evomerge.recipe.recipe import Recipe


def tiled(job: TensorJob, parents: Parents, recipe: Recipe, device: torch.device) -> Tensor:
    """Return a job's tensor in float32 (float64 where the recipe computes in that).

    W' = tile(W, k_out, k_in) / k_in, and with noise each row of blocks gets N_1 … N_k of mean 0.
    """
    repeats, reads = job.parameters["repeats"], job.parameters["reads"]
    _, _, (flat,) = parents.flat(job, device)
    narrow = [size // count for size, count in zip(job.shape, repeats, strict=True)]
    exact = torch.float64 if recipe.dtype == "float64" else torch.float32
    source: Tensor = flat.view(narrow).to(exact)
    result: Tensor = source.repeat(repeats)
    if reads is None:
        return result
    count = repeats[reads]
    result = result / count
    noise = job.parameters["noise"]
    if noise:
        deviation = noise * source.std() / count
        drawn = CounterRandom(recipe.seed, job.name).normal(0, job.shape).to(device, exact)
        blocks = (drawn * deviation).unflatten(reads, (count, narrow[reads]))
        result += (blocks - blocks.mean(dim=reads, keepdim=True)).flatten(reads, reads + 1)
    return result
