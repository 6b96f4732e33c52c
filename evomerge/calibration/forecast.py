"""Forecasts what a statistic and RegMean by it take, from one that was made of few rows."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch

from evomerge.calibration.gram import Shared
from evomerge.calibration.requests import Sampled
from evomerge.calibration.store import Stored
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.methods import regmean
from evomerge.methods.of_data import Gram, made_anew


def forecast(
    checkpoint: Checkpoint,
    models: int,
    stored: Stored,
    seconds: float,
    memory: int,
    unmade: Sequence[str] = (),
) -> Sampled:
    """Describe a statistic; of Gram matrices, with the seconds of a fit of so many models.

    A fit takes as long as that of its dearest tensor, for the tensors' multiplications: as many as
    inputs^2 outputs for each product and for solving, inputs^3 / 3 for Cholesky's factor.
    """
    leaders = {name: Shared(*one) for name, one in stored.about.get("leaders", {}).items()}
    costs = {}
    for name, shared in leaders.items():
        shape = checkpoint.tensors[name].shape
        inputs = shape[0 if shared.transposed else 1]
        costs[name] = inputs * math.prod(shape) * models + inputs**3 / 3
    dearest = max(costs, key=lambda name: costs[name], default=None)
    spent = {"each": seconds, "fit": 0.0, "refit": 0.0}
    if dearest is not None and len(stored.tensor(leaders[dearest].leader).shape) == 2:
        shared = leaders[dearest]
        gram = Gram(stored.tensor(shared.leader), shared.transposed)
        tensor = checkpoint.tensor(dearest).float()
        nothing = torch.zeros(tensor.shape, dtype=torch.float64)
        for name, recall in (
            ("fit", made_anew),
            ("refit", lambda name, _, make: make() if name == "fit" else nothing),
        ):
            began = time.perf_counter()
            regmean(None, [tensor] * models, gram=[gram] * models, recall=recall)
            spent[name] = (time.perf_counter() - began) * sum(costs.values()) / costs[dearest]
    products = sum(8 * math.prod(checkpoint.tensors[name].shape) for name in leaders)
    return Sampled(list(unmade), stored.size, memory, products, spent)
