"""Builds the model of a config without its weights, and asks it what its names mean.

transformers itself is asked: which tensors are tied, which name of a file is which tensor of the
live model, and which names it ignores. Nothing is downloaded and no code of a model's folder runs.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache
from typing import Any

from evomerge.checkpoint.loaded.config import resolve_config

_SCALAR = (int, float, str, bool, type(None))
_NOT_OF_A_KIND = {"layer_idx", "training", "layer_id", "layer_number"}
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block|layer)\.(\d+)(?:\.|$)")
_ALWAYS_IGNORED = {  # transformers ignores these where the model has such a buffer
    "rotary_emb.inv_freq": re.compile(r"rotary_emb\.inv_freq"),
    "position_ids": re.compile(r"(?:^|\.)position_ids$"),
}


class Skeleton:
    """A live model without weights.

    Attributes:
        model: A ``PreTrainedModel`` on the meta device.
    """

    def __init__(self, model: Any):
        self.model = model
        self._live_names: tuple[tuple[str, ...], dict[str, str]] = ((), {})  # the last answer

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor of the live model by its name there, tied ones each by itself."""
        return {name: tuple(t.shape) for name, t in self.model.state_dict(keep_vars=True).items()}

    @cached_property
    def tied(self) -> dict[str, str]:
        """Live names of tensors that are another one, and that one's."""
        return dict(self.model.all_tied_weights_keys or {})

    def live_names(self, stored: Iterable[str]) -> dict[str, str]:
        """The live model's tensor for each name of a file; experts of a layer share theirs.

        A name that the live model does not have is mapped as far as transformers would rename it.
        """
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import (
            WeightConverter,
            WeightRenaming,
            dot_natural_key,
            rename_source_key,
        )

        asked = tuple(sorted(stored, key=dot_natural_key))
        if asked == self._live_names[0]:
            return dict(self._live_names[1])
        transforms = get_model_conversion_mapping(self.model)
        renamings = [entry for entry in transforms if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in transforms if isinstance(entry, WeightConverter)]
        prefix, shapes = self.model.base_model_prefix, self.shapes
        names = {}
        for name in asked:
            live, _ = rename_source_key(name, renamings, converters, prefix, shapes)
            if live not in shapes and name in shapes:
                live, _ = rename_source_key(name, [], [], prefix, shapes)
            names[name] = live
        self._live_names = asked, names
        return dict(names)

    def ignores(self, live_name: str) -> bool:
        """Return whether transformers drops a tensor of this live name without a word."""
        if live_name in self.shapes:
            return False
        return any(pattern.search(live_name) for pattern in self._ignored)

    @cached_property
    def _ignored(self) -> list[re.Pattern[str]]:
        patterns = [
            re.compile(pattern)
            for pattern in getattr(self.model, "_keys_to_ignore_on_load_unexpected", None) or ()
        ]
        buffers = [name for name, _ in self.model.named_buffers()]
        return patterns + [
            pattern
            for ending, pattern in _ALWAYS_IGNORED.items()
            if any(name.endswith(ending) for name in buffers)
        ]

    def module_classes(self, live_name: str) -> list[str]:
        """The class of the module that holds a tensor, and those that it derives from."""
        path = live_name.rpartition(".")[0]
        try:
            return [base.__name__ for base in type(self.model.get_submodule(path)).__mro__]
        except AttributeError:
            return []

    @cached_property
    def layer_kinds(self) -> dict[str, dict[int, dict[str, Any]]]:
        """Every layer by stack and number: what its modules are, and each one's plain settings.

        Two layers are of one kind if these are equal: equal classes, shapes, windows, rotations.
        """
        kinds: dict[str, dict[int, dict[str, Any]]] = {}
        for path, module in self.model.named_modules():
            match = _LAYER.search(path)
            if match is None:
                continue
            stack, rest = path[: match.start(1)], path[match.end() :]
            kind = kinds.setdefault(stack, {}).setdefault(int(match[1]), {})
            kind[f"{rest} class"] = type(module).__name__
            for key, value in vars(module).items():
                if not key.startswith("_") and key not in _NOT_OF_A_KIND and type(value) in _SCALAR:
                    kind[f"{rest}.{key}".lstrip(".")] = value
            for name, tensor in [
                *module.named_parameters(recurse=False),
                *module.named_buffers(recurse=False),
            ]:
                kind[f"{rest}.{name} shape"] = tuple(tensor.shape)
        return kinds


def skeleton_of(config: Mapping[str, Any]) -> Skeleton | None:
    """The model of a config without weights.

    The class is the one in ``architectures``, else the causal language model of its type.

    Returns:
        ``None`` where transformers does not know the type, or cannot make it without weights.

    Raises:
        UserError: transformers refuses the config.
    """
    if resolve_config(config) is None:
        return None
    return _skeleton(json.dumps(config, sort_keys=True))


@lru_cache(maxsize=32)
def _skeleton(text: str) -> Skeleton | None:
    import torch
    import transformers
    from transformers.initialization import no_init_weights

    config = json.loads(text)
    resolved = resolve_config(config)
    names = config.get("architectures") or []
    name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    model_class: Any = (
        getattr(transformers, name, None) if re.fullmatch(r"[A-Z]\w+", name) else None
    )
    if not isinstance(model_class, type) or not issubclass(
        model_class, transformers.PreTrainedModel
    ):
        mapping = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
        model_class = mapping.get(type(resolved), None)
    if model_class is None:
        return None
    try:
        with (
            warnings.catch_warnings(),
            torch.device("meta"),
            no_init_weights(),
            torch.random.fork_rng(devices=[]),
        ):
            warnings.simplefilter("ignore")
            return Skeleton(model_class._from_config(resolved))
    except Exception:  # any error of a model's constructor: then names alone decide
        return None
