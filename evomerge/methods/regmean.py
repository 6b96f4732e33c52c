"""RegMean (Jin 2023) keeps what each linear layer makes of each model's own inputs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from evomerge.core.errors import UserError
from evomerge.core.threads import one_thread
from evomerge.methods.of_data import (
    Gram,
    PerModelImportance,
    Recall,
    from_base,
    importances,
    made_anew,
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
    recall: Recall = made_anew,
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
    usable = [one for one in gram or () if one is not None]
    if len(usable) < len(models) or not any(
        w and bool(one.matrix.any()) for w, one in zip(weights, usable, strict=True)
    ):
        return from_base(base, weighted_mean(models, weights), lambda_)
    shares = tuple(w / sum(weights) for w in weights)

    def fit() -> Tensor:
        with one_thread():
            step = _step(models, usable, shares, shrink, ridge, recall)
        return models[0] + step.to(models[0].dtype)

    return from_base(base, recall("fit", (shares, shrink, ridge), fit).clone(), lambda_)


def _step(
    models: Sequence[Tensor],
    grams: Sequence[Gram],
    shares: Sequence[float],
    shrink: float,
    ridge: float,
    recall: Recall,
) -> Tensor:
    """Return how far from the first model the least squares lie, in float64, in its layout.

    A^-1 sum_i w_i A_i D_i, where D_i = W_i - W_1, A_i = shrink G_i + the rest of its diagonal and
    A = sum_i w_i A_i: the products G_i D_i, the most of the work, depend on no parameter.
    """
    transposed = grams[0].transposed
    left = torch.zeros_like(grams[0].matrix, dtype=torch.float64)  # (inputs, inputs)
    for one, share in zip(grams, shares, strict=True):
        left.add_(one.matrix, alpha=share)
    diagonal = left.diagonal().clone()
    level = ridge * float(diagonal.mean())
    left *= shrink
    left.diagonal().copy_(diagonal + level)
    first = models[0].to(torch.float64)
    right = torch.zeros_like(first)
    for number, (model, one, share) in enumerate(zip(models, grams, shares, strict=True)):
        if number == 0 or share == 0:
            continue
        change = model.to(torch.float64) - first
        product = recall(f"product {number}", (), partial(_product, one, change))
        rest = share * ((1 - shrink) * one.matrix.diagonal().to(torch.float64) + level)  # (inputs,)
        right.add_(product, alpha=shrink * share)
        right.addcmul_(change, rest[:, None] if transposed else rest)
    factor, failed = torch.linalg.cholesky_ex(left)
    if bool(failed):
        raise UserError(
            "regmean: the inputs of the rows do not span the layer's, so that least squares have "
            f"no single answer; expected ridge above 0 or shrink below 1, but got ridge {ridge:g} "
            f"and shrink {shrink:g}"
        )
    solved = torch.cholesky_solve(right if transposed else right.T, factor)
    return solved if transposed else solved.T


def _product(gram: Gram, change: Tensor) -> Tensor:
    matrix = gram.matrix.to(torch.float64)
    return matrix @ change if gram.transposed else change @ matrix
