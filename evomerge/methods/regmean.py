"""RegMean (Jin 2023) keeps what each linear layer makes of each model's own inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from evomerge.core.errors import UserError
from evomerge.core.threads import one_thread
from evomerge.methods.of_data import (
    Gram,
    PerModelImportance,
    from_base,
    importances,
    nothing,
    weighted_mean,
)
from evomerge.methods.parameters import Doc, Lambda, Range
from evomerge.methods.registry import merge_method

Shrink = Annotated[
    float,
    Range(0.5, 1.0, valid_low=0.0, valid_high=1.0),
    Doc("What off-diagonal entries of the Gram matrices are multiplied by (the paper's alpha)."),
]
Ridge = Annotated[
    float,
    Range(1e-6, 1e-2, valid_low=0.0, valid_high=1e6),
    Doc("What is added to each diagonal, in parts of the mean diagonal entry."),
]


@merge_method(reference="Jin 2023, https://arxiv.org/abs/2212.09849")
def regmean(
    base: Tensor | None,
    models: Sequence[Tensor],
    weight: PerModelImportance = 1.0,
    shrink: Shrink = 0.9,
    lambda_: Lambda = 1.0,
    ridge: Ridge = 1e-6,
    gram: Sequence[Gram | None] | None = None,
) -> Tensor:
    """Merge linear layers by least squares over each model's own inputs, and average the rest.

    W^T = (sum_i w_i G_i)^-1 sum_i w_i G_i W_i^T,    base + lambda (W - base)

    G_i is the mean of x x^T over the tokens of model i's rows, x the layer's input, with its
    off-diagonal entries times `shrink`, and `ridge` times the mean diagonal entry (of the weighted
    mean of all G) added to its diagonal. Solved in float64 by Cholesky, in the order of one thread.
    Embeddings, norms, biases and heads tied to embeddings are averaged, weighted. `lambda` is not
    the paper's, and a base is needed for it alone; without one it scales W. If all weights are 0,
    the base stays. mergekit 0.1.5 has no such method. FusionBench 0.2.33 counts padding, and skips
    GPT-2's layers.

    Raises:
        UserError: Without a ridge the sum of Gram matrices has no inverse.

    >>> G = [Gram(torch.diag(torch.tensor([3.0, 1.0]))), Gram(torch.diag(torch.tensor([1.0, 1.0])))]
    >>> regmean(None, [torch.tensor([[4.0, 2.0]]), torch.tensor([[0.0, 4.0]])], ridge=0, gram=G)
    tensor([[3., 3.]])
    """
    weights = importances(weight, len(models))
    if not any(weights):
        return nothing(base, models)
    grams = [None] * len(models) if gram is None else list(gram)
    mean = weighted_mean(models, weights)
    usable = [one for one in grams if one is not None]
    if len(usable) < len(models) or not any(
        w and bool(one.matrix.any()) for w, one in zip(weights, usable, strict=True)
    ):
        return from_base(base, mean, lambda_)
    shares = [w / sum(weights) for w in weights]
    with one_thread():
        step = _step(models, mean, usable, shares, shrink, ridge)
    return from_base(base, mean + step.to(mean.dtype), lambda_)


def _step(
    models: Sequence[Tensor],
    mean: Tensor,
    grams: Sequence[Gram],
    shares: Sequence[float],
    shrink: float,
    ridge: float,
) -> Tensor:
    """Return how far from the mean the least squares lie, in float64, in the models' layout."""
    transposed = grams[0].transposed
    level = sum(
        share * float(one.matrix.diagonal().double().mean())
        for share, one in zip(shares, grams, strict=True)
    )
    left = torch.zeros_like(grams[0].matrix, dtype=torch.float64)
    right: Tensor | None = None
    for model, one, share in zip(models, grams, shares, strict=True):
        matrix = one.matrix.to(torch.float64)
        diagonal = matrix.diagonal().clone()
        matrix = matrix * shrink
        matrix.diagonal().copy_(diagonal + ridge * level)
        matrix *= share
        delta = (model - mean).to(torch.float64)
        part = matrix @ (delta if transposed else delta.T)
        right = part if right is None else right + part
        left += matrix
    assert right is not None
    factor, failed = torch.linalg.cholesky_ex(left)
    if bool(failed):
        raise UserError(
            "regmean: the inputs of the rows do not span the layer's, so that least squares have "
            f"no single answer; expected ridge above 0 or shrink below 1, but got ridge {ridge:g} "
            f"and shrink {shrink:g}"
        )
    solved = torch.cholesky_solve(right, factor)
    return solved if transposed else solved.T
