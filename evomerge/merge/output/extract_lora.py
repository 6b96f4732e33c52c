"""Extracts a LoRA adapter from a fine-tune and its base: the best low-rank form of each delta.

The truncated singular value decomposition is the closest matrix of its rank (Eckart 1936,
https://doi.org/10.1007/BF02288367). What the adapter misses is measured and reported.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from evomerge.checkpoint.architecture import is_head, locate
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.compatible import check_compatible
from evomerge.core.atomic import atomic_folder
from evomerge.core.errors import UserError
from evomerge.merge.parents.nested import open_parents

SAVED_WHOLE = ("norm", "embedding", "head")
_CONV1D = ("gpt2", "imagegpt", "openai-gpt", "decision_transformer")  # they store (in, out)
_TASKS = {
    "CausalLM": "CAUSAL_LM",
    "SequenceClassification": "SEQ_CLS",
    "TokenClassification": "TOKEN_CLS",
    "ConditionalGeneration": "SEQ_2_SEQ_LM",
}


@dataclass(frozen=True)
class Extracted:
    """The outcome of extracting one tensor's delta.

    Attributes:
        name: The tensor.
        saved_as: ``rank`` (as factors), ``whole`` (modules_to_save) or ``left out``.
        rank: Of the factors; 0 without.
        norm: Frobenius norm of the delta.
        error: Relative Frobenius norm of what the adapter misses of it, in [0, 1].
    """

    name: str
    saved_as: str
    rank: int
    norm: float
    error: float


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
    report: list[Extracted] = []
    tensors: dict[str, Tensor] = {}
    for name, delta in _deltas(start, end):
        norm = float(torch.linalg.vector_norm(delta, dtype=torch.float64))
        module = name.removesuffix(".weight")
        if _is_linear(name, delta):
            turned = delta.T if _is_conv1d(start) else delta
            second, first, missed = _factors(turned, rank)
            tensors[f"base_model.model.{module}.lora_A.weight"] = first
            tensors[f"base_model.model.{module}.lora_B.weight"] = second
            report.append(Extracted(name, "rank", first.shape[0], norm, missed / norm))
        elif _component(name) in save_whole and name.endswith((".weight", ".bias")):
            if start.config.get("tie_word_embeddings") and _component(name) != "norm":
                raise UserError(
                    f"{name}: cannot be saved whole, as it is tied to the head; leave it out"
                )
            tensors[f"base_model.model.{name}"] = end.tensor(name).contiguous()
            report.append(Extracted(name, "whole", 0, norm, 0.0))
        else:
            report.append(Extracted(name, "left out", 0, norm, 1.0))
    if not tensors:
        raise UserError(f"{model}: expected linear layers that differ from those of {base}")
    _complete(report, tensors, end)
    with atomic_folder(Path(out)) as folder:
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config = _config(report, start, base, rank)
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
        extraction = {"relative_error": total_error(report), "tensors": [asdict(e) for e in report]}
        (folder / "extraction.json").write_text(json.dumps(extraction, indent=1) + "\n")
    return report


def total_error(report: list[Extracted]) -> float:
    """Return the relative Frobenius norm of what the adapter misses, of what was left out too."""
    missed = math.fsum((entry.error * entry.norm) ** 2 for entry in report)
    return math.sqrt(missed / math.fsum(entry.norm**2 for entry in report))


def _deltas(start: Checkpoint, end: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    for name in start.tensors:
        if name not in end.tensors:  # a tied copy
            continue
        before, after = start.tensor(name), end.tensor(name)
        if before.is_floating_point() and not torch.equal(before, after):
            yield name, after.float() - before.float()


def _factors(delta: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """Return B (out, r) and A (r, in), with the roots of the singular values, and the error."""
    u, s, v = torch.linalg.svd(delta, full_matrices=False)
    root = s[:rank].sqrt()
    missed = float(torch.linalg.vector_norm(s[rank:], dtype=torch.float64))
    return (u[:, :rank] * root).contiguous(), (root[:, None] * v[:rank]).contiguous(), missed


def _is_linear(name: str, delta: Tensor) -> bool:
    """Return whether PEFT can adapt it as a linear layer's weight: no embedding and no head."""
    inside = locate(name).component != "embedding" and not is_head(name)
    return delta.dim() == 2 and name.endswith(".weight") and inside


def _component(name: str) -> str:
    return "head" if is_head(name) else locate(name).component


def _is_conv1d(base: Checkpoint) -> bool:
    return base.config.get("model_type") in _CONV1D


def _complete(report: list[Extracted], tensors: dict[str, Tensor], end: Checkpoint) -> None:
    """Add what belongs to a module that is saved: PEFT saves modules, not tensors."""
    modules = {entry.name.rpartition(".")[0] for entry in report if entry.saved_as == "whole"}
    for name in end.tensors:
        if name.rpartition(".")[0] in modules:
            tensors[f"base_model.model.{name}"] = end.tensor(name).contiguous()


def _config(report: list[Extracted], start: Checkpoint, base: str, rank: int) -> dict[str, Any]:
    modules = {e.name.removesuffix(".weight"): e.rank for e in report if e.saved_as == "rank"}
    lower_ranks = {
        module: lower_rank for module, lower_rank in modules.items() if lower_rank != rank
    }
    architecture = str((start.config.get("architectures") or [""])[0])
    task = next((task for end, task in _TASKS.items() if architecture.endswith(end)), None)
    saved = dict.fromkeys(e.name.rpartition(".")[0] for e in report if e.saved_as == "whole")
    return {
        "peft_type": "LORA",
        "task_type": task,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": lower_ranks,
        "alpha_pattern": lower_ranks,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "fan_in_fan_out": _is_conv1d(start),
        "target_modules": list(modules),
        "modules_to_save": list(saved) or None,
    }
