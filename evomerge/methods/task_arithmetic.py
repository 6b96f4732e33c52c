"""Task arithmetic (Ilharco 2022): add up what each fine-tuning changed."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from evomerge.methods.deltas import add_to_base, adds_nothing, weighted_deltas
from evomerge.methods.parameters import Lambda, Normalize, PerModelWeight, one_per_model
from evomerge.methods.registry import merge_method


@merge_method(reference="Ilharco 2022, https://arxiv.org/abs/2212.04089", in_mergekit=True)
def task_arithmetic(
    base: Tensor,
    models: Sequence[Tensor],
    weight: PerModelWeight,
    normalize: Normalize = False,
    lambda_: Lambda = 1.0,
) -> Tensor:
    """Add the weighted sum of the models' deltas to the base.

    base + lambda * sum_i w_i (model_i - base) [ / sum_i w_i ]

    With one model, weight a is WiSE-FT's interpolation; with n models, weight 1/n is their
    average; a negative weight forgets a task.

    Differs from mergekit 0.1.5: a lambda of 0, or weights that are all 0, return the base's own
    bits; sums run in model order for any number of models (mergekit's depend on the position of
    the element from five models on, in the last bit); there is no `density`, which it ignores.

    >>> import torch
    >>> models = [torch.tensor([2.0, 1.0]), torch.tensor([1.0, 3.0])]
    >>> task_arithmetic(torch.tensor([1.0, 1.0]), models, weight=[1.0, 0.5])
    tensor([2., 2.])
    """
    weights = one_per_model("weight", weight, len(models))
    if adds_nothing(lambda_, weights, [1.0] * len(models)):
        return base.clone()
    deltas = [model - base for model in models]
    return add_to_base(base, weighted_deltas(deltas, weights, normalize=normalize), lambda_)
