"""Extracts a LoRA adapter from a fine-tune and its base: the best low-rank form of each delta.

The truncated singular value decomposition is the closest matrix of its rank (Eckart 1936,
https://doi.org/10.1007/BF02288367). What the adapter misses is measured and reported.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from evomerge.checkpoint.architecture import is_head, locate
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.compatible import check_compatible
from evomerge.checkpoint.loaded.config import resolved_dict
from evomerge.core.atomic import atomic_folder
from evomerge.core.errors import UserError
from evomerge.merge.parents.nested import open_parents

_LINEAR = ("Linear", "Conv1D")
_OF_EXPERTS = ("gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")
SAVED_WHOLE = ("norm", "embedding", "head")
_CONV1D = ("gpt2", "imagegpt", "openai-gpt", "decision_transformer")  # they store (in, out)
_HEADS = {"SequenceClassification": "SEQ_CLS", "TokenClassification": "TOKEN_CLS"}


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
    modules: dict[str, str] = {}  # of tensors that become factors
    for name, delta in _deltas(start, end):
        norm = float(torch.linalg.vector_norm(delta, dtype=torch.float64))
        live = start.live_names[name]  # as PEFT finds it
        module = live.removesuffix(".weight")
        if _is_linear(name, delta, start):
            turned = delta.T if _is_conv1d(start) else delta
            second, first, missed = _factors(turned, rank)
            tensors[f"base_model.model.{module}.lora_A.weight"] = first
            tensors[f"base_model.model.{module}.lora_B.weight"] = second
            modules[name] = module
            report.append(Extracted(name, "rank", first.shape[0], norm, missed / norm))
        elif _component(name) in save_whole and _in_module(name, start):
            if start.tied_names(name):
                raise UserError(
                    f"{name}: cannot be saved whole, as it is tied to the head; leave it out"
                )
            tensors[f"base_model.model.{live}"] = end.tensor(name).contiguous()
            report.append(Extracted(name, "whole", 0, norm, 0.0))
        else:
            report.append(Extracted(name, "left out", 0, norm, 1.0))
    if not tensors:
        raise UserError(f"{model}: expected linear layers that differ from those of {base}")
    _complete(report, tensors, end, start.live_names)
    with atomic_folder(Path(out)) as folder:
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config = _config(report, modules, start, base, rank)
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
        stored = end.stored_name(name)
        assert stored is not None, f"{name} was checked"
        before, after = start.tensor(name), end.tensor(stored)
        if before.is_floating_point() and not torch.equal(before, after):
            yield name, after.float() - before.float()


def _factors(delta: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """Return B (out, r) and A (r, in), with the roots of the singular values, and the error."""
    u, s, v = torch.linalg.svd(delta, full_matrices=False)
    root = s[:rank].sqrt()
    missed = float(torch.linalg.vector_norm(s[rank:], dtype=torch.float64))
    return (u[:, :rank] * root).contiguous(), (root[:, None] * v[:rank]).contiguous(), missed


def _is_linear(name: str, delta: Tensor, base: Checkpoint) -> bool:
    """Return whether PEFT can adapt it as a linear layer's weight: a matrix, but no embedding or
    head.
    """
    inside = locate(name).component != "embedding" and not is_head(name)
    classes = base.module_classes(name)
    linear = classes is None or any(known in classes for known in _LINEAR)
    return (
        delta.dim() == 2
        and name.endswith(".weight")
        and inside
        and linear
        and (name.split(".")[-2] not in _not_taken(base))
    )


def _not_taken(base: Checkpoint) -> tuple[str, ...]:
    """Names of linear layers that PEFT does not adapt in a model of this kind."""
    if "mamba" in str(base.config.get("model_type")):
        return ("out_proj", "conv1d")
    return _OF_EXPERTS if base.fused else ()  # it takes all of that name for the fused experts


def _in_module(name: str, base: Checkpoint) -> bool:
    """Return whether PEFT can save the module of a tensor whole."""
    return name.endswith((".weight", ".bias")) and base.module_classes(name) != []


def _component(name: str) -> str:
    return "head" if is_head(name) else locate(name).component


def _is_conv1d(base: Checkpoint) -> bool:
    classes = [base.module_classes(name) for name in base.tensors]
    if None not in classes:
        return any("Conv1D" in bases for bases in classes if bases)
    return base.config.get("model_type") in _CONV1D


def _complete(
    report: list[Extracted],
    tensors: dict[str, Tensor],
    end: Checkpoint,
    live_names: Mapping[str, str],
) -> None:
    """PEFT saves modules, not tensors: what belongs to a module that is saved goes with it."""
    modules = {entry.name.rpartition(".")[0] for entry in report if entry.saved_as == "whole"}
    for name in end.tensors:
        if name.rpartition(".")[0] in modules:
            key = f"base_model.model.{live_names.get(name, name)}"
            tensors[key] = end.tensor(name).contiguous()


def _task(start: Checkpoint, saves_modules: bool) -> str | None:
    """PEFT's word for what the model does; ``None`` where that would ask for more than is saved."""
    architecture = str((start.config.get("architectures") or [""])[0])
    if architecture.endswith("CausalLM"):
        return "CAUSAL_LM"
    for end, task in _HEADS.items():  # PEFT expects their head among the saved modules
        if architecture.endswith(end):
            return task if saves_modules else None
    if not architecture.endswith("ForConditionalGeneration"):
        return None
    resolved = resolved_dict(start.config)
    if not resolved.get("is_encoder_decoder"):
        return "CAUSAL_LM"
    return "SEQ_2_SEQ_LM" if "num_mel_bins" not in resolved else None


def _config(
    report: list[Extracted], modules: Mapping[str, str], start: Checkpoint, base: str, rank: int
) -> dict[str, Any]:
    ranks = {modules[entry.name]: entry.rank for entry in report if entry.saved_as == "rank"}
    lower_ranks = {module: lower_rank for module, lower_rank in ranks.items() if lower_rank != rank}
    whole = [start.live_names[e.name] for e in report if e.saved_as == "whole"]
    saved = dict.fromkeys(name.rpartition(".")[0] for name in whole)
    return {
        "peft_type": "LORA",
        "task_type": _task(start, bool(saved)),
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
        "target_modules": list(ranks),
        "modules_to_save": list(saved) or None,
    }
