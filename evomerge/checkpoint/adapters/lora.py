"""Reads a LoRA adapter (Hu 2021, https://arxiv.org/abs/2106.09685), as PEFT writes it, as deltas.

The delta of a linear layer is alpha / rank * B A, or alpha / sqrt(rank) * B A with rank-stabilised
LoRA (Kalajdzievski 2023, https://arxiv.org/abs/2312.03732). Tensors that PEFT saved whole
(modules_to_save, biases) take the place of the model's. Only safetensors are read.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evomerge.checkpoint.files.document import read_json
from evomerge.checkpoint.files.folder import ADAPTER_CONFIG as CONFIG
from evomerge.checkpoint.files.folder import ADAPTER_WEIGHTS as WEIGHTS
from evomerge.checkpoint.files.folder import resolve
from evomerge.checkpoint.files.header import TensorInfo, read_header
from evomerge.checkpoint.sandbox.client import inspect
from evomerge.checkpoint.store import Factors, Files
from evomerge.core.errors import UserError
from evomerge.core.threads import one_thread

_PREFIX = "base_model.model."
_LARGEST_ALPHA = 1e30  # what a float32 still holds after a product
_FACTOR = re.compile(r"(.+)\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B)(?:\.default)?")
# Settings that make an adapter more than a low-rank delta of a linear layer, and the reasons.
_REFUSED = {
    "use_dora": "DoRA scales whole columns of the merged weight, so it is no delta that adds up",
    "use_qalora": "QA-LoRA adds to pooled inputs, not to weights",
    "use_bdlora": "its factors are block-diagonal",
    "use_kasa": "KaSA changes the model's weights before it adapts them",
    "lora_bias": "its factors have biases",
    "target_parameters": "it adapts the fused experts, which are no linear layers",
    "trainable_token_indices": "it trains single tokens",
    "layer_replication": "it repeats layers",
    "alora_invocation_tokens": "it is switched on by tokens, and cannot be merged into weights",
    "arrow_config": "it routes between adapters",
    "kasa_config": "KaSA changes the model's weights before it adapts them",
    "monteclora_config": "its factors are random",
}
_REMEDY = "merge it with PEFT (merge_and_unload), and name the result"
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class Change:
    """An adapter's change of one tensor: the keys of its factors, or of what replaces it.

    Attributes:
        left: Key of the factor whose rows are the tensor's, once `transposed` is applied.
        right: Key of the other one.
        scale: The number that the product is multiplied by.
        transposed: Whether the tensor is the transpose of B A (Conv1D, embeddings).
        replaced_by: Key of the tensor that takes the model's place, before the product is added.
    """

    left: str | None = None
    right: str | None = None
    scale: float = 1.0
    transposed: bool = False
    replaced_by: str | None = None


class Adapter:
    """An adapter's folder, opened for reading."""

    def __init__(self, folder: Path, config: dict[str, Any], tensors: dict[str, TensorInfo]):
        self.folder = folder
        self.config = config
        self.tensors = tensors
        self._files = Files(folder, tensors, described_by=CONFIG)

    @classmethod
    def open(cls, adapter: str | Path) -> Adapter:
        """Open a PEFT folder or a hub id.

        Raises:
            UserError: It is no LoRA adapter in safetensors, or one of a kind that is more than a
                delta; says why.
        """
        folder = resolve(adapter)
        inspect([folder])
        config = _read_config(folder)
        if not (folder / WEIGHTS).is_file():
            pickle = (folder / "adapter_model.bin").is_file()
            hint = "; adapter_model.bin is a pickle, which is never loaded" if pickle else ""
            raise UserError(f"{folder}: expected {WEIGHTS}, but it is not there{hint}")
        tensors = read_header(folder / WEIGHTS)
        if any("lora_magnitude_vector" in key for key in tensors):
            raise UserError(
                f"{folder}: cannot be read as a delta: {_REFUSED['use_dora']}; {_REMEDY}"
            )
        return cls(folder, config, tensors)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over its configuration and weights."""
        return self._files.fingerprint

    @property
    def files(self) -> list[Path]:
        """Its configuration and weights."""
        return self._files.files

    def read(self, key: str) -> Tensor:
        """Return one of its tensors.

        Raises:
            UserError: It holds a value that is not finite.
        """
        tensor = self._files.tensor(key)
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{self.folder / WEIGHTS}: tensor {key} holds NaN or infinity")
        return tensor

    def product(self, change: Change) -> Tensor:
        """Return scale * B A in float32, in the layout of the tensor that it is added to."""
        assert change.left is not None, "a change without factors has no product"
        assert change.right is not None
        second, first = self.read(change.left).float(), self.read(change.right).float()
        with one_thread():
            product = (second @ first).mul_(change.scale)
        return product.T.contiguous() if change.transposed else product

    def factors(self, change: Change) -> Factors:
        """Return the product's two factors, the scale in the left one."""
        assert change.left is not None, "a change without factors has none"
        assert change.right is not None
        second, first = self.read(change.left).float(), self.read(change.right).float()
        if change.transposed:
            return Factors(first.T * change.scale, second.T)
        return Factors(second * change.scale, first)

    @cached_property
    def changes(self) -> dict[str, Change]:
        """Every tensor that it changes, by the name it has in PEFT's model.

        Raises:
            UserError: A factor lacks its other half, or the shapes do not fit.
        """
        changes: dict[str, Change] = {}
        pairs: dict[str, dict[str, str]] = {}
        for key in self.tensors:
            match = _FACTOR.fullmatch(key.removeprefix(_PREFIX).removesuffix(".weight"))
            if match:
                pairs.setdefault(match[1], {})[match[2].replace("lora_embedding", "lora")] = key
            elif ".original_module." not in key:
                changes[_plain_name(key)] = Change(replaced_by=key)
        for module, pair in pairs.items():
            if len(pair) != 2:
                raise UserError(f"{self.folder}: {next(iter(pair.values()))} lacks its other half")
            name = f"{module}.weight"
            embedding = "lora_embedding" in pair["lora_A"]
            whole = changes.get(name)
            changes[name] = Change(
                left=pair["lora_B"],
                right=pair["lora_A"],
                scale=self._scale(module, pair),
                transposed=embedding,
                replaced_by=whole.replaced_by if whole else None,
            )
        return changes

    def _scale(self, module: str, pair: dict[str, str]) -> float:
        """Return alpha / rank of one module, with its patterns and rank stabilisation."""
        a, b = self.tensors[pair["lora_A"]].shape, self.tensors[pair["lora_B"]].shape
        if len(a) != 2 or len(b) != 2 or a[0] != b[1] or a[0] < 1:
            raise UserError(
                f"{self.folder}: {module}: expected factors (rank, in) and (out, rank), but got "
                f"{list(a)} and {list(b)}"
            )
        rank = self._of_pattern("rank_pattern", module, self.config.get("r"))
        alpha = self._of_pattern("alpha_pattern", module, self.config.get("lora_alpha"))
        if rank != a[0]:
            raise UserError(
                f"{self.folder}: {module}: {CONFIG} says rank {rank}, but its factors have {a[0]}"
            )
        if type(alpha) not in (int, float) or not abs(alpha) < _LARGEST_ALPHA:
            raise UserError(f"{self.folder / CONFIG}: expected lora_alpha as a number: {alpha!r}")
        return float(alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank))

    def _of_pattern(self, key: str, module: str, default: Any) -> Any:
        """Return the value of the first pattern that ends a module's name; PEFT's rule."""
        for pattern, value in (self.config.get(key) or {}).items():
            if _ends_with(pattern, module, f"{self.folder / CONFIG}: {key}"):
                return value
        return default


def _ends_with(pattern: str, module: str, where: str) -> bool:
    """Return whether a regular expression matches the end of a name, from a dot on."""
    # A pattern comes from a file: one that could run for ages is refused.
    if (
        len(pattern) > 500
        or re.search(r"\)[*+{]", pattern)
        or len(re.findall(r"[*+{]", pattern)) > 4
    ):
        raise UserError(
            f"{where}: {pattern[:80]!r} is too complex a pattern; name the modules one by one"
        )
    try:
        return re.match(rf"(?:.*\.)?(?:{pattern})$", module) is not None
    except (re.error, RecursionError) as error:
        raise UserError(f"{where}: {pattern[:80]!r} is no regular expression: {error}") from None


def _plain_name(key: str) -> str:
    """Return the name of a tensor that PEFT saved whole, without PEFT's own parts."""
    name = key.removeprefix(_PREFIX)
    for part in (".modules_to_save.default", ".modules_to_save", ".base_layer"):
        name = name.replace(f"{part}.", ".", 1)
    return name


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    if not file.is_file():
        raise UserError(f"{folder}: expected a PEFT adapter, but it has no {CONFIG}")
    config = read_json(file)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise UserError(f"{file}: expected peft_type LORA, but got {kind!r}")
    for key, reason in _REFUSED.items():
        if config.get(key):
            raise UserError(f"{folder}: cannot be read as a delta ({key}): {reason}; {_REMEDY}")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(_CHANGES_BASE):
        raise UserError(
            f"{folder}: cannot be read as a delta (init_lora_weights: {start}): it changed the "
            "model's weights before training; convert it to plain LoRA when saving"
        )
    for key in ("rank_pattern", "alpha_pattern"):
        if not isinstance(config.get(key) or {}, dict):
            raise UserError(f"{file}: {key}: expected names and numbers")
    return config
