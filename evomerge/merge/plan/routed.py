"""Plans routed models: linear layers with low-rank changes beside them, gates, and the config."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from evomerge import methods
from evomerge.checkpoint.architecture import layer_count, locate, stack_depths
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.loaded.skeleton import skeleton_of
from evomerge.checkpoint.loaded.tying import config_for
from evomerge.core.errors import UserError
from evomerge.merge.plan.jobs import MergePlan, Ref, TensorJob
from evomerge.recipe.parameters import resolve_parameters
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.values import levels_of

GATES = ("mole", "smile", "twin_merging", "wemoe")  # methods, and what weighs the changes
INPUTS, OUTPUTS, BIASES = "routed: inputs", "routed: outputs", "routed: biases"  # of jobs
GATE = "routed: gate"
_LAYER = re.compile(r".*?\.\d+(?=\.)")


def plan_routed(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> MergePlan:
    """Plan a recipe whose method is one of `GATES`.

    Args:
        recipe: The recipe, whose out_dtype is known.
        checkpoints: Every model that it names, opened.

    Raises:
        UserError: The base has no linear layers by their own names, or a rank is too large.
    """
    donor, gate = checkpoints[recipe.donor], recipe.merge_method
    settings = {
        p.name: recipe.parameters.get(p.name, p.default)
        for p in methods.get(gate).parameters
        if not p.per_model
    }
    skeleton = skeleton_of(donor.config)
    if skeleton is None or donor.config.get("auto_map"):
        raise UserError(
            f"{gate}: {donor.folder}: expected an architecture of transformers itself, got "
            f"{donor.config.get('model_type')}"
        )
    routed = _routed(donor, gate)
    _check(recipe, settings, donor, routed)
    about: dict[str, Any] = {
        "gate": gate,
        "experts": len(recipe.models),
        "rank": settings["rank"],
        "modules": [name.removesuffix(".weight") for name in routed],
    }
    if gate == "smile":
        about |= {"gate_rank": settings["gate_rank"], "top": settings["top"]}
    elif gate != "mole":
        width = skeleton.model.config.get_text_config(decoder=True).hidden_size
        gates = [""] if gate == "twin_merging" else _mlps(donor, routed)
        layer = _LAYER.match(routed[0])
        assert layer is not None, "routed layers are within the stack"
        about |= {"gates": gates, "hidden": settings.get("hidden", 0), "width": width}
        about["first"] = re.sub(r"\d+$", "0", layer.group())
    jobs = _Jobs(recipe, checkpoints, settings, routed, about)
    architecture = type(skeleton.model).__name__
    config = {**donor.config, "architectures": [architecture], "routed": about}
    return MergePlan(recipe, tuple(jobs), config_for(config, list(donor.tensors)))


def _routed(donor: Checkpoint, gate: str) -> list[str]:
    """Return the weights of linear layers within the stack; for `wemoe` those of MLPs.

    Raises:
        UserError: The live model has another place or class for one of its matrices.
    """
    names = []
    for name, info in donor.tensors.items():
        at = locate(name)
        if at.layer is None or len(info.shape) != 2 or at.component == "norm":
            continue
        if gate == "wemoe" and at.component != "mlp":
            continue
        classes = donor.module_classes(name) or ["fused"]
        if donor.live_names[name] != name or "Linear" not in classes:
            raise UserError(
                f"{gate}: {donor.folder}: {name} is in a {classes[0]} of the live model, and only "
                "linear layers under their own names can choose"
            )
        names.append(name)
    if not names:
        what = "MLPs of linear layers" if gate == "wemoe" else "linear layers"
        raise UserError(f"{gate}: {donor.folder}: it has no {what} in a stack")
    return names


def _mlps(donor: Checkpoint, routed: list[str]) -> list[str]:
    """Return the paths of the modules that hold each layer's routed matrices.

    Raises:
        UserError: They are not in one module within the layer.
    """
    mlps = list(dict.fromkeys(name.rsplit(".", 2)[0] for name in routed))
    layers = {locate(name).layer for name in routed}
    if len(mlps) != len(layers) or any(_LAYER.fullmatch(f"{path}.") for path in mlps):
        raise UserError(
            f"wemoe: {donor.folder}: expected one module for the MLP of each layer, got "
            f"{', '.join(mlps[:3])}"
        )
    return mlps


def _check(
    recipe: Recipe, settings: Mapping[str, Any], donor: Checkpoint, routed: list[str]
) -> None:
    gate, rank = recipe.merge_method, settings["rank"]
    smallest = min(routed, key=lambda name: min(donor.tensors[name].shape))
    shape = donor.tensors[smallest].shape
    if rank > min(shape):
        raise UserError(
            f"{gate}: rank: expected at most {min(shape)}, since {smallest} is {list(shape)}, but "
            f"got {rank}"
        )
    if settings.get("gate_rank", 0) > rank:
        raise UserError(
            f"{gate}: gate_rank: expected at most {rank}, the rank, but got {settings['gate_rank']}"
        )
    if settings.get("top", 0) > len(recipe.models):
        raise UserError(
            f"{gate}: top: expected at most {len(recipe.models)}, the models, but got "
            f"{settings['top']}"
        )


@dataclass(frozen=True)
class _Jobs:
    """The jobs of a model with routed layers, in the base's order."""

    recipe: Recipe
    checkpoints: Mapping[str, Checkpoint]
    settings: Mapping[str, Any]
    routed: list[str]
    about: Mapping[str, Any]

    def __iter__(self) -> Iterator[TensorJob]:
        donor = self.checkpoints[self.recipe.donor]
        matrices, biases = set(self.routed), {f"{path}.bias" for path in self.about["modules"]}
        for name, info in donor.tensors.items():
            base = Ref(self.recipe.donor, name)
            if name in matrices or name in biases:
                yield TensorJob(name, info.shape, None, (base,), "passthrough", {"scale": [1.0]})
                yield from self._changes(name, info.shape, base)
            else:
                yield self._rest(name, info.shape, base)
        yield from self._gates()

    def _rest(self, name: str, shape: tuple[int, ...], base: Ref) -> TensorJob:
        """Return the job of a tensor that has no changes beside it."""
        if self.settings.get("rest") == "base":
            return TensorJob(name, shape, None, (base,), "passthrough", {"scale": [1.0]})
        refs = self._refs(name, shape)
        if "lambda" in self.settings:
            weights = {"weight": [self.settings["lambda"]] * len(refs), "normalize": False}
            return TensorJob(name, shape, base, refs, "task_arithmetic", weights | {"lambda": 1.0})
        weights = {"weight": [1.0] * len(refs), "normalize": True}
        return TensorJob(name, shape, None, refs, "linear", weights)

    def _gates(self) -> Iterator[TensorJob]:
        """Yield the tensors of gates, with what they are before anything is learned."""
        experts, of = len(self.recipe.models), self.about
        if of["gate"] == "mole":
            for path in of["modules"]:
                yield self._gate(f"{path}.gate_weight", (experts, experts * of["rank"]))
        for path in of.get("gates", ()):
            router, hidden = f"{path}.router".lstrip("."), of["hidden"]
            if hidden:
                yield self._gate(f"{router}.first.weight", (hidden, of["width"]), drawn=True)
                yield self._gate(f"{router}.first.bias", (hidden,))
            yield self._gate(f"{router}.last.weight", (experts, hidden or of["width"]))
            start = float(self.settings.get("lambda", 0.0))
            yield self._gate(f"{router}.last.bias", (experts,), start)

    def _gate(
        self, name: str, shape: tuple[int, ...], start: float = 0.0, drawn: bool = False
    ) -> TensorJob:
        """Return the job of a gate's tensor: at `start`, drawn by the recipe's seed, or trained."""
        base = Ref(self.recipe.donor, self.routed[0])  # for its dtype and device
        refs = tuple(Ref(entry.model, base.name) for entry in self.recipe.models)
        about = {"train": self.settings["train"], "start": start, "drawn": drawn}
        return TensorJob(name, shape, base, refs, GATE, about)

    def _changes(self, name: str, shape: tuple[int, ...], base: Ref) -> Iterator[TensorJob]:
        """Yield what all models change of a linear layer's matrix, or of its bias."""
        refs = self._refs(name, shape)
        path, _, kind = name.rpartition(".")
        about = {"rank": self.settings["rank"], "scale": self._scales(name)}
        count, rank = len(refs), self.settings["rank"]
        if kind == "bias":
            yield TensorJob(f"{path}.expert_bias", (count, *shape), base, refs, BIASES, about)
            return
        inputs, outputs = (count, rank, shape[1]), (count, shape[0], rank)
        yield TensorJob(f"{path}.expert_in", inputs, base, refs, INPUTS, about)
        yield TensorJob(f"{path}.expert_out", outputs, base, refs, OUTPUTS, about)

    def _scales(self, name: str) -> list[float]:
        donor = self.checkpoints[self.recipe.donor]
        depth = stack_depths(donor.tensors, layer_count(donor.config) or 0)[""]
        sources = [(entry.model, name) for entry in self.recipe.models]
        levels = levels_of(self.recipe, name, depth)
        values = resolve_parameters(levels, name, sources, range(len(sources)))["scale"]
        return [float(value) for value in values]

    def _refs(self, name: str, shape: tuple[int, ...]) -> tuple[Ref, ...]:
        refs = []
        for entry in self.recipe.models:
            checkpoint = self.checkpoints[entry.model]
            stored = checkpoint.stored_name(name)
            if stored is None or checkpoint.tensors[stored].shape != shape:
                raise UserError(
                    f"{self.recipe.merge_method}: {entry.model} does not fit "
                    f"{self.recipe.donor}: expected {name} of {list(shape)}"
                )
            refs.append(Ref(entry.model, stored))
        return tuple(refs)
