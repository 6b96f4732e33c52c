"""How large each parent's change of each tensor is: squared norms, in one pass over the parents."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.plan import Ref


def squared_norms(
    parents: Parents, base: str, models: Sequence[str]
) -> dict[str, dict[str, tuple[float, float]]]:
    """For each model and tensor (|model - base|², |base|²), in float64; shared tensors only."""
    found: dict[str, dict[str, tuple[float, float]]] = {model: {} for model in models}
    for name, info in parents.checkpoints[base].tensors.items():
        before = parents.tensor(Ref(base, name))
        if not before.is_floating_point():
            continue
        before = before.to(torch.float64)
        size = float(before.square().sum())
        for model in models:
            held = parents.checkpoints[model].tensors.get(name)
            if held is not None and held.shape == info.shape:
                change = parents.tensor(Ref(model, name)).to(torch.float64) - before
                found[model][name] = float(change.square().sum()), size
    return found
