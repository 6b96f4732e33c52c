"""Plans SMILE: the base's linear layers, low-rank changes beside them, and the config of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from evomerge import methods
from evomerge.checkpoint.architecture import layer_count, locate, stack_depths
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.loaded.skeleton import skeleton_of
from evomerge.checkpoint.loaded.tying import config_for
from evomerge.core.errors import UserError
from evomerge.merge.plan.jobs import MergePlan, Ref, TensorJob
from evomerge.methods.smile import Smile
from evomerge.recipe.parameters import resolve_parameters
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.values import levels_of

INPUTS, OUTPUTS, BIASES = "smile: inputs", "smile: outputs", "smile: biases"  # of jobs


def plan_smile(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> MergePlan:
    """Plan a recipe whose method is `smile`.

    Args:
        recipe: The recipe, whose out_dtype is known.
        checkpoints: Every model that it names, opened.

    Raises:
        UserError: The base has no linear layers by their own names, or a rank is too large.
    """
    donor = checkpoints[recipe.donor]
    shared = [p for p in methods.get("smile").parameters if not p.per_model]
    values = {p.name: recipe.parameters.get(p.name, p.default) for p in shared}
    settings = Smile(**values)
    skeleton = skeleton_of(donor.config)
    if skeleton is None or donor.config.get("auto_map"):
        raise UserError(
            f"smile: {donor.folder}: expected an architecture of transformers itself, got "
            f"{donor.config.get('model_type')}"
        )
    routed = _routed(donor)
    _check(recipe, settings, donor, routed)
    jobs = _Jobs(recipe, checkpoints, settings, routed)
    architecture = type(skeleton.model).__name__
    config = {
        **donor.config,
        "architectures": [architecture],
        "smile": {
            "experts": len(recipe.models),
            "rank": settings.rank,
            "gate_rank": settings.gate_rank,
            "top": settings.top,
            "modules": [name.removesuffix(".weight") for name in routed],
        },
    }
    return MergePlan(recipe, tuple(jobs), config_for(config, list(donor.tensors)))


def _routed(donor: Checkpoint) -> list[str]:
    """Return the weights of linear layers within the stack.

    Raises:
        UserError: The live model has another place or class for one of its matrices.
    """
    names = []
    for name, info in donor.tensors.items():
        at = locate(name)
        if at.layer is None or len(info.shape) != 2 or at.component == "norm":
            continue
        classes = donor.module_classes(name) or ["fused"]
        if donor.live_names[name] != name or "Linear" not in classes:
            raise UserError(
                f"smile: {donor.folder}: {name} is in a {classes[0]} of the live model, and only "
                "linear layers under their own names can choose"
            )
        names.append(name)
    if not names:
        raise UserError(f"smile: {donor.folder}: it has no linear layers in a stack")
    return names


def _check(recipe: Recipe, settings: Smile, donor: Checkpoint, routed: list[str]) -> None:
    smallest = min(routed, key=lambda name: min(donor.tensors[name].shape))
    shape = donor.tensors[smallest].shape
    if settings.rank > min(shape):
        raise UserError(
            f"smile: rank: expected at most {min(shape)}, since {smallest} is {list(shape)}, but "
            f"got {settings.rank}"
        )
    if settings.gate_rank > settings.rank:
        raise UserError(
            f"smile: gate_rank: expected at most {settings.rank}, the rank, but got "
            f"{settings.gate_rank}"
        )
    if settings.top > len(recipe.models):
        raise UserError(
            f"smile: top: expected at most {len(recipe.models)}, the models, but got {settings.top}"
        )


@dataclass(frozen=True)
class _Jobs:
    """The jobs of a model with routed layers, in the base's order."""

    recipe: Recipe
    checkpoints: Mapping[str, Checkpoint]
    settings: Smile
    routed: list[str]

    def __iter__(self) -> Iterator[TensorJob]:
        donor = self.checkpoints[self.recipe.donor]
        paths = [name.removesuffix(".weight") for name in self.routed]
        matrices, biases = set(self.routed), {f"{path}.bias" for path in paths}
        for name, info in donor.tensors.items():
            base = Ref(self.recipe.donor, name)
            layered = name in matrices or name in biases
            if layered or self.settings.rest == "base":
                yield TensorJob(name, info.shape, None, (base,), "passthrough", {"scale": [1.0]})
            else:
                refs = self._refs(name, info.shape)
                weights = {"weight": [1.0] * len(refs), "normalize": True}
                yield TensorJob(name, info.shape, None, refs, "linear", weights)
            if layered:
                yield from self._changes(name, info.shape, base)

    def _changes(self, name: str, shape: tuple[int, ...], base: Ref) -> Iterator[TensorJob]:
        """Yield what all models change of a linear layer's matrix, or of its bias."""
        refs = self._refs(name, shape)
        path, _, kind = name.rpartition(".")
        about = {"rank": self.settings.rank, "scale": self._scales(name)}
        count, rank = len(refs), self.settings.rank
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
                    f"smile: {entry.model} does not fit {self.recipe.donor}: expected {name} of "
                    f"{list(shape)}"
                )
            refs.append(Ref(entry.model, stored))
        return tuple(refs)
