"""Keeps the live models of a study: the base's, and one for each other config of a candidate.

A candidate with other layers, widths or classes of modules than the base is scored in a model that
transformers makes of the candidate's own config, as it would of the export's. On one device these
models share the memory of every tensor that they have in common by name and shape, so each takes
what it has beyond the base alone, and only what was filled last is whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from evomerge.checkpoint.architecture import vocabulary_size
from evomerge.checkpoint.loaded.config import differences, resolve_config
from evomerge.evaluate.model import load_model, untie
from evomerge.evaluate.scorer import Scorer
from evomerge.evaluate.streamed.streamed import Streamed

_DEPTHS = 16  # other models that are kept where they share memory: a path's candidates differ
_SAYS_NOTHING = ("dtype", "torch_dtype", "transformers_version", "_name_or_path")


@dataclass(eq=False)
class Live:
    """A live model, and its scorer once that is made; what streams it, if it is not whole."""

    model: Any
    scorer: Scorer | None = None
    streamed: Streamed | None = None


class LiveModels:
    """Makes the live model of a config when a candidate first has it, and keeps the last ones.

    Args:
        folder: The base's; its weights are loaded, and its code and generation settings hold for
            all.
        config: The base's config.json.
        dtype: Of the weights.
        devices: Where they are; the layers are spread over several.
        trust_remote_code: Whether Python in the base's folder may run.
        untied: Whether the base's head gets weights of its own, as a parent has.
        streamed: Whether models are streamed: each has the weights of one part at a time.

    Attributes:
        home: The base's model.
        resident: The model that was filled last, and the digest of the recipe in it.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        dtype: str,
        devices: list[str],
        trust_remote_code: bool,
        untied: bool,
        streamed: bool = False,
    ):
        self._folder, self._config, self._streamed = folder, config, streamed
        self._about = dtype, devices, trust_remote_code
        model, _ = load_model(folder, *self._about, empty=streamed)
        if untied:
            untie(model)
        self.home = self._live(model)
        self.resident: tuple[Live, str] | None = None
        self._others: dict[str, Live] = {}  # by config, the latest last

    def of(self, config: Mapping[str, Any]) -> Live:
        """Return the model of a candidate's config: the base's, where they compute alike.

        Raises:
            UserError: transformers cannot make a model of it.
        """
        if config == self._config or _alike(self._config, config):
            return self.home
        shape = {key: value for key, value in config.items() if key not in _SAYS_NOTHING}
        key = json.dumps(shape, sort_keys=True)
        live = self._others.pop(key, None) or self._made(config)
        self._others[key] = live
        return live

    def of_one_kind(self, live: Live) -> bool:
        """Return whether a model is of the base's architecture, so that its fast paths hold."""
        return live.model is not self.home.model and type(live.model) is type(self.home.model)

    def _made(self, config: Mapping[str, Any]) -> Live:
        base = self.home.model
        resolved = resolve_config(config)  # None for an architecture of the folder's own code
        made = deepcopy(resolved) or type(base.config).from_dict(dict(config))
        made._name_or_path = str(self._folder)
        shared = [base, *(live.model for live in reversed(self._others.values()))]
        whole = len(self._about[1]) == 1 and not self._streamed
        memory = _memory(shared) if whole else {}
        # Fast paths are tried out on them.
        drawn = made.model_type != base.config.model_type or "routed" in config
        model, _ = load_model(made, *self._about, memory=memory, drawn=drawn, empty=self._streamed)
        model.generation_config = deepcopy(base.generation_config)
        unlike = not memory or any(
            parameter.shape != memory[name].shape
            for name, parameter in model.named_parameters()
            if name in memory
        )
        most = 1 if unlike else _DEPTHS
        while len(self._others) >= most:
            gone = self._others.pop(next(iter(self._others)))
            if self.resident is not None and self.resident[0] is gone:
                self.resident = None
        return self._live(model)

    def _live(self, model: Any) -> Live:
        return Live(model, streamed=Streamed(model) if self._streamed else None)


def _alike(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Return whether two configs make models that compute alike, ties of their heads aside."""
    return (
        ours.get("model_type") == theirs.get("model_type")
        and vocabulary_size(ours) == vocabulary_size(theirs)
        and not differences(ours, theirs)
    )


def _memory(models: list[Any]) -> dict[str, torch.nn.Parameter]:
    """Return the weights of several models by name; of the first that has one of that name."""
    weights: dict[str, torch.nn.Parameter] = {}
    for model in models:
        for name, parameter in model.named_parameters():
            weights.setdefault(name, parameter)
    return weights
