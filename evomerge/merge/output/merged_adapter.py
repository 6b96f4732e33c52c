"""Writes a merge of LoRA adapters as one adapter, exactly where the merge is a sum of them.

A merge of adapters on one model changes each tensor by some D. Where D is a weighted sum of the
adapters' products, D = sum_i c_i B_i A_i, as in linear merges and task arithmetic, the factors side
by side, [c_1 B_1 ... c_n B_n] and [A_1; ...; A_n], are D exactly. The c_i are not read off the
recipe: they are the least-squares solution, so that this holds for any method that adds deltas up.
What is no such sum (TIES, DARE), or has more ranks than are asked for, is cut to its closest matrix
of that rank (Eckart 1936, https://doi.org/10.1007/BF02288367), and the error is measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from evomerge.checkpoint import names as model_name
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.dtypes import FLOATS
from evomerge.checkpoint.opening import open_model
from evomerge.checkpoint.store import Factors
from evomerge.core.errors import UserError
from evomerge.core.threads import one_thread
from evomerge.merge.compute import merged
from evomerge.merge.output.card import model_card
from evomerge.merge.output.extract_lora import best_factors
from evomerge.merge.output.peft_folder import (
    PeftFolder,
    in_module,
    is_embedding,
    is_linear,
    total_error,
)
from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.plan import TensorJob, plan
from evomerge.recipe.recipe import Recipe

LARGEST_SUM = 64  # ranks together up to which nothing is cut by default
_EPSILON = torch.finfo(torch.float32).eps


class NoAdapterError(UserError):
    """No adapter can say what the recipe does; says why."""


@dataclass(frozen=True)
class MergedAdapter:
    """The adapter that was written.

    Attributes:
        rank: The largest rank of a layer.
        exact: Whether it misses no more than float32 rounds off.
        error: Relative Frobenius norm of what it misses of the merge's change, in [0, 1].
    """

    rank: int
    exact: bool
    error: float

    @property
    def sentence(self) -> str:
        """The rank and the error in words."""
        if self.exact:
            return f"rank {self.rank}, exact"
        return f"rank {self.rank}, misses {self.error:.2%} of the merge's change (Frobenius norm)"


def are_adapters(base: str, models: Iterable[str]) -> bool:
    """Return whether all models but the base are adapters on the model that the base is, or is on.

    >>> are_adapters("org/base", ["org/base+one", "org/base+two", "org/base"])
    True
    >>> are_adapters("org/base", ["org/base+one", "org/other+two"])
    False
    """
    host = model_name.host_of(base)
    others = [model for model in models if model != base]
    return bool(others) and all(
        model_name.host_of(model) == host and model != host for model in others
    )


def write_merged_adapter(
    recipe: Recipe, parents: Parents, base: str, out: Path, rank: int | None = None
) -> MergedAdapter:
    """Write what a recipe changes of a model as a PEFT adapter of that model.

    Linear layers and embeddings become factors, in float32. What a parent changes otherwise, and
    PEFT saves by the module, goes to modules_to_save; the rest is left out, as the error says.

    Args:
        recipe: The recipe; its dtype and out_dtype do not count.
        parents: Its parents, opened and aligned.
        base: The model, or an adapter on it, that the change is measured from.
        out: The folder to make, or to replace once the new one is complete.
        rank: Of each layer, at most. ``None``: the ranks of its adapters together, if these are at
            most `LARGEST_SUM`, else the largest of them.

    Raises:
        NoAdapterError: The merge has other tensors or shapes than the model, or changes nothing.
    """
    host = model_name.host_of(base)
    start = parents.opened.get(host) or open_model(host)
    recipe = replace(recipe, dtype="float32", out_dtype="float32")
    jobs = plan(recipe, parents.checkpoints).jobs
    _check_shapes(jobs, start, host)
    largest = max(
        (f.right.shape[0] for job in jobs for f in _factors(job, parents, host)), default=0
    )
    folder, rounded_off = PeftFolder(start, host), True
    for job in jobs:
        stored = start.stored_name(job.name)
        assert stored is not None, f"{job.name} was checked"
        if start.tensors[stored].dtype not in FLOATS:
            continue
        before = start.tensor(stored).float()
        delta = merged(job, parents, recipe).cpu() - before
        norm = _norm(delta)
        rounding = 2 * (len(job.models) + 2) * _EPSILON * _norm(before)
        if norm <= rounding:
            continue
        factors = _factors(job, parents, host)
        ranks = [pair.right.shape[0] for pair in factors]
        limit = rank or _default_rank(ranks) or largest or LARGEST_SUM
        if is_linear(stored, start) or (factors and is_embedding(stored, start)):
            pair, missed = _fitted(delta, factors, limit, rounding)
            folder.add_factors(stored, pair, norm, missed)
            rounded_off &= missed <= rounding
        elif stored.endswith(".bias") and start.live_names[stored] not in start.fused:
            folder.add_bias(stored, before + delta, norm)
        elif _is_whole(job, before, parents, host) and in_module(stored, start):
            folder.add_whole(stored, before + delta, norm)
        else:
            folder.leave_out(stored, norm)
            rounded_off = False
    if not folder.tensors:
        changes = "changes no layer that an adapter could hold of" if folder.report else "leaves"
        raise NoAdapterError(f"the recipe {changes} {host}{'' if folder.report else ' as it is'}")
    text = model_card(recipe, "Merged adapter", metadata={"library_name": "peft"})
    folder.write(out, start, replace=True, card=text)
    error = 0.0 if rounded_off else total_error(folder.report)
    return MergedAdapter(folder.rank, rounded_off, error)


def _check_shapes(jobs: Iterable[TensorJob], start: Checkpoint, host: str) -> None:
    for job in jobs:
        stored = start.stored_name(job.name)
        shape = None if stored is None else start.tensors[stored].shape
        if shape != job.shape:
            raise NoAdapterError(
                f"{job.name} has shape {list(job.shape)} in the merge, and in {host} "
                f"{'there is none' if shape is None else list(shape)}: no adapter can say that"
            )


def _factors(job: TensorJob, parents: Parents, host: str) -> list[Factors]:
    """Return what adapters on the host add to a job's models, on the CPU; each model's once."""
    refs = dict.fromkeys([*job.models, *([job.base] if job.base is not None else [])])
    pairs = (parents.factors(ref, host, torch.device("cpu")) for ref in refs)
    return [pair for pair in pairs if pair is not None]


def _default_rank(ranks: list[int]) -> int:
    return sum(ranks) if sum(ranks) <= LARGEST_SUM else max(ranks)


def _fitted(
    delta: Tensor, factors: list[Factors], rank: int, rounding: float
) -> tuple[Factors, float]:
    """Return factors of at most a rank, and the norm of what they miss.

    The factors side by side if the change is a sum of them, to within `rounding`.
    """
    if factors:
        weights = _least_squares(delta, factors)
        used = [(w, pair) for w, pair in zip(weights, factors, strict=True) if w != 0]
        if used:
            left = torch.cat([pair.left * w for w, pair in used], dim=1)  # (rows, sum of ranks)
            right = torch.cat([pair.right for _, pair in used])  # (sum of ranks, columns)
            with one_thread():
                missed = _norm(delta - left @ right)
            if missed <= rounding:
                if right.shape[0] <= rank:
                    return Factors(left, right), missed
                return _cut(left, right, rank)
    return best_factors(delta, rank)


def _least_squares(delta: Tensor, factors: list[Factors]) -> list[float]:
    """Return the c_i with sum_i c_i B_i A_i closest to the change.

    The products' inner products need no product: <B A, B' A'> = sum((B^T B') * (A A'^T)).
    """
    lefts = [pair.left.double() for pair in factors]
    rights = [pair.right.double() for pair in factors]
    with one_thread():
        gram = torch.tensor(
            [
                [float(((a.T @ b) * (c @ d.T)).sum()) for b, d in zip(lefts, rights, strict=True)]
                for a, c in zip(lefts, rights, strict=True)
            ],
            dtype=torch.float64,
        )
        inner = torch.tensor(
            [float(((a.T @ delta.double()) * c).sum()) for a, c in zip(lefts, rights, strict=True)],
            dtype=torch.float64,
        )
        weights: list[float] = (torch.linalg.pinv(gram, hermitian=True) @ inner).tolist()
    return weights


def _cut(left: Tensor, right: Tensor, rank: int) -> tuple[Factors, float]:
    """Return the closest product of a lower rank, by the singular values of a small matrix."""
    with one_thread():
        q_left, r_left = torch.linalg.qr(left)
        q_right, r_right = torch.linalg.qr(right.T)
        core, missed = best_factors(r_left @ r_right.T, rank)
        return Factors(q_left @ core.left, core.right @ q_right.T), missed


def _is_whole(job: TensorJob, before: Tensor, parents: Parents, host: str) -> bool:
    """Return whether one of the models changes a tensor, and not by factors alone."""
    cpu = torch.device("cpu")
    return any(
        parents.factors(ref, host, cpu) is None
        and not torch.equal(parents.tensor(ref).cpu().float(), before)
        for ref in job.models
    )


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))
