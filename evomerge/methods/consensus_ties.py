"""Consensus merging (Wang 2024, TALL-masks) of a TIES merge: add where several tasks need it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from evomerge.methods.consensus_ta import PerModelThreshold, Votes, add_where_it_serves
from evomerge.methods.deltas import disjoint_deltas, trim
from evomerge.methods.parameters import Lambda, PerModelDensity, one_per_model
from evomerge.methods.registry import merge_method


@merge_method(reference="Wang 2024, https://arxiv.org/abs/2405.07813")
def consensus_ties(
    base: Tensor,
    models: Sequence[Tensor],
    density: PerModelDensity = 0.2,
    k: Votes = 2,
    lam: PerModelThreshold = 0.4,
    alpha: Lambda = 1.0,
) -> Tensor:
    """Add a TIES merge of the deltas to the base where it serves at least k of the models.

    d_i   = model_i - base
    total = TIES' sum of the trimmed d_i that have the elected sign
    m_i   = [ |d_i| >= lam_i |total - d_i| ]
    base + alpha * total * [ sum_i m_i >= k ]

    A k of 0 is `ties` of weight 1 with its aggregate ``sum``, one above the number of models the
    base. mergekit 0.1.5 has no such method.

    Args:
        base: Any shape.
        models: Fine-tuned from the base, of its shape.
        density: Part of each delta's elements that TIES keeps; the masks compare whole deltas.
        k: Least number of models that an element must serve.
        lam: How large a model's own delta must be, against what the rest makes of it, for the
            element to serve it; the larger, the fewer. The paper chooses each of 0.2 ... 0.6.
        alpha: Scale of what is added to the base; any finite number; the masks do not depend on
            it.
    """
    thresholds = one_per_model("lam", lam, len(models))
    densities = one_per_model("density", density, len(models))
    deltas = [model - base for model in models]
    trimmed = [trim(delta, part) for delta, part in zip(deltas, densities, strict=True)]
    total = disjoint_deltas(trimmed, [1.0] * len(models), normalize=False)
    return add_where_it_serves(base, total, deltas, k, thresholds, alpha)
