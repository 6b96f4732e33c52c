"""Reads a LoRA adapter (Hu 2021, https://arxiv.org/abs/2106.09685), as PEFT writes it, as deltas.

The delta of a linear layer is alpha / rank * B A, or alpha / sqrt(rank) * B A with rank-stabilised
LoRA (Kalajdzievski 2023, https://arxiv.org/abs/2312.03732). Tensors that PEFT saved whole
(modules_to_save, biases) take the place of the model's, and so do the rows of trained tokens.
DoRA's magnitudes scale the sum. Only safetensors are read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evomerge.checkpoint.adapters.change import Change, Experts
from evomerge.checkpoint.adapters.parameters import Parameter
from evomerge.checkpoint.files.document import read_json
from evomerge.checkpoint.files.folder import ADAPTER_CONFIG as CONFIG
from evomerge.checkpoint.files.folder import ADAPTER_WEIGHTS as WEIGHTS
from evomerge.checkpoint.files.folder import resolve
from evomerge.checkpoint.files.header import TensorInfo, read_header
from evomerge.checkpoint.sandbox.client import inspect
from evomerge.checkpoint.store import Files
from evomerge.core.errors import UserError

_PREFIX = "base_model.model."
_LARGEST_ALPHA = 1e30  # what a float32 still holds after a product
_FACTOR = re.compile(
    r"(.+)\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(?:\.default)?"
)
# Settings by which an adapter is no fixed change of weights, or one that nobody merges.
_REFUSED = {
    "use_qalora": "QA-LoRA adds to pooled inputs, not to weights",
    "use_bdlora": "its factors are block-diagonal",
    "use_kasa": "KaSA changes the model's weights before it adapts them",
    "layer_replication": "it repeats layers",
    "kasa_config": "KaSA changes the model's weights before it adapts them",
}
_REFUSED_BY_PEFT = {
    "alora_invocation_tokens": "it is switched on by tokens",
    "arrow_config": "it routes between adapters",
    "monteclora_config": "its factors are random",
}
_REMEDY = "merge it with PEFT (merge_and_unload), and name the result"
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


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
        dora = any("lora_magnitude_vector" in key for key in tensors)
        if dora != bool(config.get("use_dora")):
            raise UserError(
                f"{folder}: {CONFIG} says {'no DoRA (use_dora)' if dora else 'use_dora'}, but its "
                f"tensors {'have' if dora else 'lack'} magnitude vectors"
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

    @cached_property
    def pairs(self) -> dict[str, dict[str, str]]:
        """The keys of each module's factors, by ``lora_A``, ``lora_B``, ``lora_magnitude_vector``.

        Raises:
            UserError: A factor lacks its other half.
        """
        pairs: dict[str, dict[str, str]] = {}
        for key in self.tensors:
            match = _FACTOR.fullmatch(key.removeprefix(_PREFIX).removesuffix(".weight"))
            if match:
                pairs.setdefault(match[1], {})[match[2].replace("lora_embedding", "lora")] = key
        for pair in pairs.values():
            if not {"lora_A", "lora_B"} <= pair.keys():
                raise UserError(f"{self.folder}: {next(iter(pair.values()))} lacks its other half")
        return pairs

    def changes(self, parameters: Mapping[str, Parameter]) -> dict[str, Change]:
        """Return every tensor that it changes, by the name it has in PEFT's model.

        Args:
            parameters: Those that it targets by themselves, by the module they have in its file.

        Raises:
            UserError: The shapes of two factors do not fit, or settings contradict them.
        """
        changes: dict[str, Change] = {}
        for key in self.tensors:
            name = key.removeprefix(_PREFIX)
            module, _, rest = name.partition(".token_adapter.")
            if rest.startswith("trainable_tokens_delta"):
                ids = self._token_ids(module, key)
                changes[f"{module}.weight"] = Change(rows=key, row_ids=ids)
            elif name.endswith(".lora_B.bias"):
                module = name.removesuffix(".lora_B.bias")
                scale = self._scale(module, self.pairs.get(module, {}), 1)
                changes[f"{module}.bias"] = Change(added=key, scale=scale)
            elif not _FACTOR.fullmatch(name.removesuffix(".weight")) and (
                ".original_module." not in key
            ):
                changes[_plain_name(key)] = Change(replaced_by=key)
        for module, pair in self.pairs.items():
            target = parameters.get(module) or Parameter(f"{module}.weight", 1, False)
            asked = target.name if module in parameters else module
            embedding = "lora_embedding" in pair["lora_A"]
            whole = changes.get(target.name)
            changes[target.name] = Change(
                left=pair["lora_B"],
                right=pair["lora_A"],
                scale=self._scale(asked, pair, target.experts),
                transposed=embedding or target.transposed,
                experts=Experts(target.experts) if target.experts > 1 else None,
                magnitude=pair.get("lora_magnitude_vector"),
                replaced_by=whole.replaced_by if whole else None,
            )
        return changes

    def _token_ids(self, module: str, key: str) -> tuple[int, ...]:
        """Return the tokens whose rows were trained."""
        where = f"{self.folder / CONFIG}: trainable_token_indices"
        trained = self.config.get("trainable_token_indices")
        if isinstance(trained, dict):
            names = [n for n in trained if module == n or module.endswith(f".{n}")]
            trained = trained[names[0]] if names else None
        count = self.tensors[key].shape[0] if self.tensors[key].shape else 0
        if (
            not isinstance(trained, list)
            or not all(type(token) is int and token >= 0 for token in trained)
            or len(trained) != count
        ):
            raise UserError(f"{where}: expected {count} tokens of {module}, but got {trained!r}")
        return tuple(trained)

    def _scale(self, module: str, pair: Mapping[str, str], experts: int) -> float:
        """Return alpha / rank of one module, with its patterns and rank stabilisation."""
        shapes = [self.tensors[pair[n]].shape for n in ("lora_A", "lora_B") if n in pair]
        if len(shapes) != 2:
            raise UserError(f"{self.folder}: {module} has a bias of B, but no factors")
        a, b = shapes
        if len(a) != 2 or len(b) != 2 or a[0] != b[1] or a[0] < 1 or a[0] % experts:
            raise UserError(
                f"{self.folder}: {module}: expected factors (rank, in) and (out, rank), but got "
                f"{list(a)} and {list(b)}; {_REMEDY}"
            )
        rank = self._of_pattern("rank_pattern", module, self.config.get("r"))
        alpha = self._of_pattern("alpha_pattern", module, self.config.get("lora_alpha"))
        if rank != a[0] // experts:
            raise UserError(
                f"{self.folder}: {module}: {CONFIG} says rank {rank}, but its factors have "
                f"{a[0] // experts}"
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
    for key, reason in _REFUSED_BY_PEFT.items():
        if config.get(key):
            raise UserError(
                f"{folder}: cannot be merged into weights ({key}): {reason}; train a LoRA adapter "
                "without it"
            )
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(_CHANGES_BASE):
        raise UserError(
            f"{folder}: cannot be read as a delta (init_lora_weights: {start}): it changed the "
            "model's weights before training; convert it to plain LoRA when saving"
        )
    targets = config.get("target_parameters") or []
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise UserError(f"{file}: target_parameters: expected a list of names")
    for key in ("rank_pattern", "alpha_pattern"):
        if not isinstance(config.get(key) or {}, dict):
            raise UserError(f"{file}: {key}: expected names and numbers")
    return config
