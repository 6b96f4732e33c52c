"""Extracts a LoRA adapter from a fine-tune and its base: the best low-rank form of each delta.

The truncated singular value decomposition is the closest matrix of its rank (Eckart 1936,
https://doi.org/10.1007/BF02288367). What the adapter misses is measured and reported.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import torch
from torch import Tensor

from evomerge.checkpoint.architecture import is_head, locate
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.compatible import check_compatible
from evomerge.checkpoint.store import Factors
from evomerge.core.errors import UserError
from evomerge.core.threads import one_thread
from evomerge.merge.output.peft_folder import Extracted, PeftFolder, in_module, is_linear
from evomerge.merge.parents.nested import open_parents

SAVED_WHOLE = ("norm", "embedding", "head")


def extract_lora(
    model: str, base: str, out: str | Path, rank: int, save_whole: Collection[str] = ()
) -> list[Extracted]:
    """Write the difference of two models as a PEFT adapter of the base.

    Each linear layer that changed becomes factors of at most `rank`, in float32. Of what else
    changed, the components in `save_whole` are saved as they are; the rest is left out. The folder
    also holds the report, as extraction.json.

    Args:
        model: A folder, hub id, ``base+adapter``, or a recipe's file.
        base: What it was trained from.
        out: The folder to make.
        rank: Of the factors, at least 1.
        save_whole: Of `SAVED_WHOLE`, what goes to modules_to_save.

    Returns:
        One entry for each tensor that differs, in the base's order.

    Raises:
        UserError: The models do not match, do not differ, or a tied embedding would be saved.
    """
    if rank < 1:
        raise UserError(f"rank: expected at least 1, but got {rank}")
    opened = open_parents([base, model]).opened
    start, end = opened[base], opened[model]
    check_compatible(start, end)
    folder = PeftFolder(start, base)
    for name, delta in _deltas(start, end):
        norm = float(torch.linalg.vector_norm(delta, dtype=torch.float64))
        if is_linear(name, start):
            factors, missed = best_factors(delta, rank)
            folder.add_factors(name, factors, norm, missed)
        elif _component(name) in save_whole and in_module(name, start):
            if start.tied_names(name):
                raise UserError(
                    f"{name}: cannot be saved whole, as it is tied to the head; leave it out"
                )
            folder.add_whole(name, end.tensor(name), norm)
        else:
            folder.leave_out(name, norm)
    if not folder.tensors:
        raise UserError(f"{model}: expected linear layers that differ from those of {base}")
    folder.write(Path(out), end)
    return folder.report


def best_factors(delta: Tensor, rank: int) -> tuple[Factors, float]:
    """Return the closest product of at most a rank, and the norm of what it misses.

    The roots of the singular values go to both factors. The last bits do not depend on the number
    of threads.
    """
    with one_thread():
        u, s, v = torch.linalg.svd(delta, full_matrices=False)
    root = s[:rank].sqrt()
    missed = float(torch.linalg.vector_norm(s[rank:], dtype=torch.float64))
    return Factors(u[:, :rank] * root, root[:, None] * v[:rank]), missed


def _deltas(start: Checkpoint, end: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    for name in start.tensors:
        stored = end.stored_name(name)
        assert stored is not None, f"{name} was checked"
        before, after = start.tensor(name), end.tensor(stored)
        if before.is_floating_point() and not torch.equal(before, after):
            yield name, after.float() - before.float()


def _component(name: str) -> str:
    return "head" if is_head(name) else locate(name).component
