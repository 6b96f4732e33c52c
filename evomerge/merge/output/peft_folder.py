"""Writes low-rank changes of a model as a LoRA adapter that PEFT loads."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from evomerge.checkpoint.architecture import is_head, locate
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.loaded.config import resolved_dict
from evomerge.checkpoint.store import Factors
from evomerge.core.atomic import atomic_folder

_PREFIX = "base_model.model."
_LINEAR = ("Linear", "Conv1D")
_OF_EXPERTS = ("gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")
_CONV1D = ("gpt2", "imagegpt", "openai-gpt", "decision_transformer")  # they store (in, out)
_HEADS = {"SequenceClassification": "SEQ_CLS", "TokenClassification": "TOKEN_CLS"}


@dataclass(frozen=True)
class Extracted:
    """The outcome of extracting one tensor's delta.

    Attributes:
        name: The tensor.
        saved_as: ``rank`` (as factors), ``whole`` (modules_to_save), ``bias`` or ``left out``.
        rank: Of the factors; 0 without.
        norm: Frobenius norm of the delta.
        error: Relative Frobenius norm of what the adapter misses of it, in [0, 1].
    """

    name: str
    saved_as: str
    rank: int
    norm: float
    error: float


@dataclass
class PeftFolder:
    """The content of an adapter's folder, collected tensor by tensor.

    Attributes:
        base: The model that it belongs to.
        base_name: That model's folder or hub id.
        report: One entry for each tensor that changed, in the base's order.
        tensors: What is saved, by PEFT's names.
    """

    base: Checkpoint
    base_name: str
    report: list[Extracted] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    _ranks: dict[str, int] = field(default_factory=dict)  # by module
    _biases: dict[str, Tensor] = field(default_factory=dict)  # by the base's names

    def add_factors(self, name: str, factors: Factors, norm: float, missed: float) -> None:
        """Save a tensor's change as left @ right, which has the tensor's layout.

        Args:
            name: The tensor, in the base.
            factors: Of shapes (rows, rank) and (rank, columns).
            norm: Frobenius norm of the change.
            missed: Frobenius norm of what the factors miss of it.
        """
        module = self.base.live_names[name].removesuffix(".weight")
        left, right = factors.left.contiguous(), factors.right.contiguous()
        if is_embedding(name, self.base):  # PEFT adds the transpose of B A
            self.tensors[f"{_PREFIX}{module}.lora_embedding_A"] = left.T.contiguous()
            self.tensors[f"{_PREFIX}{module}.lora_embedding_B"] = right.T.contiguous()
        else:
            if _stores_in_out(name, self.base):
                left, right = right.T.contiguous(), left.T.contiguous()
            self.tensors[f"{_PREFIX}{module}.lora_A.weight"] = right
            self.tensors[f"{_PREFIX}{module}.lora_B.weight"] = left
        rank = factors.right.shape[0]
        self._ranks[module] = rank
        self.report.append(Extracted(name, "rank", rank, norm, missed / norm))

    def add_whole(self, name: str, tensor: Tensor, norm: float) -> None:
        """Save a tensor as it is; `write` adds what else belongs to its module."""
        self.tensors[f"{_PREFIX}{self.base.live_names[name]}"] = tensor.contiguous()
        self.report.append(Extracted(name, "whole", 0, norm, 0.0))

    def add_bias(self, name: str, bias: Tensor, norm: float) -> None:
        """Save a bias as it is, without its module."""
        self._biases[name] = bias.contiguous()
        self.report.append(Extracted(name, "bias", 0, norm, 0.0))

    def leave_out(self, name: str, norm: float) -> None:
        """Record a change that the adapter does not hold."""
        self.report.append(Extracted(name, "left out", 0, norm, 1.0))

    @property
    def rank(self) -> int:
        """The largest rank; 1 without factors, as PEFT takes no less."""
        return max(self._ranks.values(), default=1)

    def write(
        self, out: Path, end: Checkpoint, *, replace: bool = False, card: str | None = None
    ) -> None:
        """Write the folder, which appears only when it is complete; with the report.

        Args:
            out: The folder.
            end: PEFT saves modules, not tensors: this has the rest of those that are saved whole.
            replace: Whether to replace an existing folder.
            card: Its README.md.

        Raises:
            UserError: `out` exists and is not empty, unless `replace`.
        """
        whole = self._whole
        for name, bias in self._biases.items():
            live = self.base.live_names[name]
            module = live.rpartition(".")[0]
            key = f"{module}.base_layer.bias" if module in self._ranks else live
            self.tensors[f"{_PREFIX}{key}"] = bias
        for name in end.tensors:
            live = self.base.live_names.get(name, name)
            if live.rpartition(".")[0] in whole:
                self.tensors.setdefault(f"{_PREFIX}{live}", end.tensor(name).contiguous())
        extraction = {
            "relative_error": total_error(self.report),
            "tensors": [asdict(entry) for entry in self.report],
        }
        texts = {
            "adapter_config.json": json.dumps(self._config(), indent=2) + "\n",
            "extraction.json": json.dumps(extraction, indent=1) + "\n",
            **({} if card is None else {"README.md": card}),
        }
        with atomic_folder(out, replace=replace) as folder:
            save_file(self.tensors, folder / "adapter_model.safetensors", {"format": "pt"})
            for name, text in texts.items():
                (folder / name).write_text(text, encoding="utf-8")

    @property
    def _whole(self) -> list[str]:
        """Modules that are saved whole, by their live names."""
        names = [self.base.live_names[e.name] for e in self.report if e.saved_as == "whole"]
        return list(dict.fromkeys(name.rpartition(".")[0] for name in names))

    def _config(self) -> dict[str, Any]:
        lower = {module: rank for module, rank in self._ranks.items() if rank != self.rank}
        whole = self._whole
        conv1d = any(_stores_in_out(e.name, self.base) for e in self.report if e.rank)
        return {
            "peft_type": "LORA",
            "task_type": _task(self.base, bool(whole)),
            "base_model_name_or_path": self.base_name,
            "inference_mode": True,
            "r": self.rank,
            "lora_alpha": self.rank,
            "rank_pattern": lower,
            "alpha_pattern": lower,
            "lora_dropout": 0.0,
            "bias": "all" if self._biases else "none",
            "use_rslora": False,
            "use_dora": False,
            "init_lora_weights": True,
            "fan_in_fan_out": conv1d,
            "target_modules": list(self._ranks),
            "modules_to_save": whole or None,
        }


def total_error(report: list[Extracted]) -> float:
    """Return the relative Frobenius norm of what the adapter misses, of what was left out too."""
    missed = math.fsum((entry.error * entry.norm) ** 2 for entry in report)
    whole = math.fsum(entry.norm**2 for entry in report)
    return math.sqrt(missed / whole) if whole else 0.0


def is_linear(name: str, base: Checkpoint) -> bool:
    """Return whether PEFT can adapt it as a linear layer's weight: a matrix, but no embedding or
    head.
    """
    classes = base.module_classes(name)
    return (
        len(base.tensors[name].shape) == 2
        and name.endswith(".weight")
        and locate(name).component != "embedding"
        and not is_head(name)
        and (classes is None or any(known in classes for known in _LINEAR))
        and name.split(".")[-2] not in _not_taken(base)
    )


def is_embedding(name: str, base: Checkpoint) -> bool:
    """Return whether it is the weight of an embedding, to which PEFT adds B A transposed."""
    classes = base.module_classes(name)
    if classes is None:
        return locate(name).component == "embedding" and name.endswith(".weight")
    return "Embedding" in classes


def in_module(name: str, base: Checkpoint) -> bool:
    """Return whether PEFT can save the module of a tensor whole."""
    return name.endswith((".weight", ".bias")) and base.module_classes(name) != []


def _not_taken(base: Checkpoint) -> tuple[str, ...]:
    """Names of linear layers that PEFT does not adapt in a model of this kind."""
    if "mamba" in str(base.config.get("model_type")):
        return ("out_proj", "conv1d")
    return _OF_EXPERTS if base.fused else ()  # it takes all of that name for the fused experts


def _stores_in_out(name: str, base: Checkpoint) -> bool:
    """Return whether a linear layer stores its weight as (in, out), as GPT-2's do."""
    classes = base.module_classes(name)
    if classes is None:
        return base.config.get("model_type") in _CONV1D
    return "Conv1D" in classes


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
