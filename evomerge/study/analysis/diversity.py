"""Measures how alike parents are: the cosines of what their training changed in the base."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch

from evomerge.merge.parents.nested import open_parents


def cosines(base: str, models: Sequence[str]) -> dict[tuple[str, str], float]:
    """Return the cosine of every two models' deltas, over all tensors, in [-1, 1].

    Reads each tensor of each model once; 0 where a model equals the base.

    Raises:
        UserError: A model cannot be read.
    """
    opened = open_parents([base, *models]).opened
    products = torch.zeros(len(models), len(models), dtype=torch.float64)
    for name in opened[base].tensors:
        origin = opened[base].tensor(name)
        stored = [opened[model].stored_name(name) for model in models]
        if not origin.is_floating_point() or None in stored:
            continue
        tensors = [opened[m].tensor(str(n)) for m, n in zip(models, stored, strict=True)]
        if any(tensor.shape != origin.shape for tensor in tensors):
            continue
        deltas = torch.stack([(tensor.float() - origin.float()).flatten() for tensor in tensors])
        products += (deltas @ deltas.T).double()
    norms = products.diagonal().sqrt()
    return {
        (models[i], models[j]): float(products[i, j] / (norms[i] * norms[j]))
        if norms[i] > 0 and norms[j] > 0
        else 0.0
        for i, j in combinations(range(len(models)), 2)
    }
