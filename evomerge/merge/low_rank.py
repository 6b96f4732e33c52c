"""Makes the low-rank changes of models with routed layers, each by the largest parts of a delta."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from evomerge.core.threads import one_thread
from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.jobs import Ref, TensorJob
from evomerge.merge.plan.routed import BIASES, INPUTS, OUTPUTS


class Parts(NamedTuple):
    """The largest parts of a matrix, largest first: `outputs` @ `inputs` is closest to it.

    Attributes:
        inputs: V^T, of shape (rank, columns), float32; rows of unit length, or of zeros.
        outputs: U S, of shape (rows, rank), float32.
    """

    inputs: Tensor
    outputs: Tensor


def changes(job: TensorJob, parents: Parents, device: torch.device) -> Tensor | None:
    """Return a job's tensor in float32 if it is of low-rank changes, else ``None``."""
    if job.method not in (INPUTS, OUTPUTS, BIASES):
        return None
    assert job.base is not None
    scales: list[float] = job.parameters["scale"]
    if job.method == BIASES:
        base = parents.tensor(job.base).to(device).float()
        deltas = [parents.tensor(ref).to(device).float() - base for ref in job.models]
        return torch.stack([s * delta for s, delta in zip(scales, deltas, strict=True)])
    parts = [_parts(job.base, ref, job.parameters["rank"], parents) for ref in job.models]
    if job.method == INPUTS:
        return torch.stack([one.inputs for one in parts]).to(device)
    scaled = [s * one.outputs for s, one in zip(scales, parts, strict=True)]
    return torch.stack(scaled).to(device)


def _parts(base: Ref, ref: Ref, rank: int, parents: Parents) -> Parts:
    """Return a delta's parts; those of models on disk stay, up to the largest rank asked for."""
    known: Parts | None = parents.low_rank.get((base, ref))
    if known is None or known.inputs.shape[0] < rank:
        known = largest_parts(parents.tensor(ref).float() - parents.tensor(base).float(), rank)
        if not parents.is_passing(base.model) and not parents.is_passing(ref.model):
            parents.low_rank[base, ref] = known
    return Parts(known.inputs[:rank], known.outputs[:, :rank])


def largest_parts(delta: Tensor, rank: int) -> Parts:
    """Return the closest product of a rank, as its singular value decomposition gives it.

    By the eigenvectors of the smaller of delta delta^T and delta^T delta, in float64, in the order
    of one thread: at full rank the product is delta but for rounding.
    """
    matrix = delta.double()
    wide = matrix.shape[0] < matrix.shape[1]
    with one_thread():
        square = matrix @ matrix.T if wide else matrix.T @ matrix
        vectors = torch.linalg.eigh(square).eigenvectors.flip(1)[:, :rank]  # largest first
        if not wide:  # vectors are V
            return Parts(vectors.T.float().contiguous(), (matrix @ vectors).float())
        inner = vectors.T @ matrix  # S V^T
    norms = inner.norm(dim=1, keepdim=True)
    inputs = torch.where(norms > 0, inner / norms.clamp_min(1e-300), 0.0)
    return Parts(inputs.float(), (vectors * norms.T).float())
