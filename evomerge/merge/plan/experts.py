"""Plans a mixture of experts: which parent's tensor is which expert's, the routers, the config.

Three architectures of transformers have a dense twin whose attention computes the same. All that
differs between a dense config and its mixture's is compared; what would change goes no further.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from evomerge import methods
from evomerge.checkpoint.architecture import layer_count, locate, stack_depths
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.loaded.config import differing_keys, resolved_dict
from evomerge.checkpoint.loaded.tying import config_for
from evomerge.core.errors import UserError
from evomerge.merge.plan.jobs import MergePlan, Ref, TensorJob
from evomerge.methods.moe import MixtureOfExperts
from evomerge.recipe.parameters import resolve_parameters
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.values import levels_of

ROUTER, ZEROS = "router", "zeros"  # jobs that no method of tensors makes; `merge.routers` does
_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class _Layout:
    """An architecture of experts: names within a layer, and what its config calls things.

    Attributes:
        model_type: As its config.json says it.
        architecture: The class that transformers loads.
        expert: A format of an expert's tensor, by its number and projection.
        names: What it calls the projections.
        router: The router's tensor.
        shared: A format of the shared expert's tensors; ``None``: it has no such expert.
        count: The config's key for the number of experts.
    """

    model_type: str
    architecture: str
    expert: str
    router: str
    count: str
    names: Mapping[str, str]
    shared: str | None = None


_AS_DENSE = {name: name for name in _PROJECTIONS}
_QWEN_EXPERT = "mlp.experts.{number}.{name}.weight"
_LAYOUTS = {
    one.model_type: one
    for one in (
        _Layout(
            "mixtral",
            "MixtralForCausalLM",
            "block_sparse_moe.experts.{number}.{name}.weight",
            "block_sparse_moe.gate.weight",
            "num_local_experts",
            {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"},
        ),
        _Layout(
            "qwen2_moe",
            "Qwen2MoeForCausalLM",
            _QWEN_EXPERT,
            "mlp.gate.weight",
            "num_experts",
            _AS_DENSE,
            "mlp.shared_expert.{name}.weight",
        ),
        _Layout(
            "qwen3_moe",
            "Qwen3MoeForCausalLM",
            _QWEN_EXPERT,
            "mlp.gate.weight",
            "num_experts",
            _AS_DENSE,
        ),
    )
}
_SHARED_GATE = "mlp.shared_expert_gate.weight"
_DENSE = {
    "llama": ("mixtral", "qwen2_moe"),
    "mistral": ("mixtral",),
    "qwen2": ("qwen2_moe",),
    "qwen3": ("qwen3_moe",),
}


def plan_experts(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> MergePlan:
    """Plan a recipe whose method is `moe`.

    Args:
        recipe: The recipe, whose out_dtype is known.
        checkpoints: Every model that it names, opened.

    Raises:
        UserError: The base has no mixture's architecture, an expert does not fit, or a setting
            does not go with the others.
    """
    donor = checkpoints[recipe.donor]
    parameters = methods.get("moe").parameters
    shared = [p for p in parameters if not p.per_model]
    settings = MixtureOfExperts(
        **{p.name: recipe.parameters.get(p.name, p.default) for p in shared}
    )
    layout = _layout(donor, settings)
    count = _count(recipe, settings)
    config = _config(donor, layout, settings, count)
    jobs = list(_Jobs(recipe, checkpoints, layout, settings, count))
    return MergePlan(recipe, tuple(jobs), config_for(config, [job.name for job in jobs]))


def _layout(donor: Checkpoint, settings: MixtureOfExperts) -> _Layout:
    """Choose the architecture, and refuse settings that it has no place for."""
    dense = str(donor.config.get("model_type"))
    if dense not in _DENSE:
        raise UserError(
            f"moe: expected a base of {', '.join(_DENSE)}, which have a mixture's architecture in "
            f"transformers, but {donor.folder} is a {dense}"
        )
    possible = _DENSE[dense]
    only_qwen = settings.shared > 0 or settings.every > 1
    name: str = settings.layout
    if name == "auto":
        name = next((one for one in possible if one != "mixtral" or not only_qwen), possible[0])
    if name not in possible:
        raise UserError(
            f"moe: layout: expected {' or '.join(possible)} for a base of {dense}, got {name}"
        )
    layout = _LAYOUTS[name]
    if settings.every > 1 and name == "mixtral":
        raise UserError(f"moe: every: {settings.every}: Mixtral has experts in every layer")
    if settings.shared > 0 and layout.shared is None:
        raise UserError(f"moe: shared: {settings.shared:g}: {name} has no shared expert")
    return layout


def _count(recipe: Recipe, settings: MixtureOfExperts) -> int:
    """Return how many experts a layer has."""
    models = len(recipe.models)
    count = settings.experts or models
    given = [recipe.parameters, *(block.parameters for block in recipe.blocks)]
    listed = [recipe.models, *(block.models for block in recipe.blocks)]
    given += [entry.parameters for entries in listed for entry in entries]
    if count < models and not any("priority" in one for one in given):
        raise UserError(
            f"moe: experts: expected at least {models}, one for each model, but got {count}; "
            "give models a `priority`, leave some out (`include`), or raise it"
        )
    if settings.top > count:
        raise UserError(f"moe: top: expected at most {count}, the experts, but got {settings.top}")
    if settings.router == "hidden" and count > models:
        raise UserError(
            f"moe: experts: {count} of {models} models are copies, which a router by rows "
            "of data cannot tell apart; set router: random"
        )
    return count


def _config(
    donor: Checkpoint, layout: _Layout, settings: MixtureOfExperts, count: int
) -> dict[str, Any]:
    """Return the mixture's config.json, which attends as the dense one does."""
    dense = resolved_dict(donor.config)
    inner = dense["intermediate_size"]
    known = resolved_dict({"model_type": layout.model_type})
    given = {key: value for key, value in donor.config.items() if key.startswith("rope_")}
    config = {
        **{k: v for k, v in dense.items() if k in known or (k == "head_dim" and v is not None)},
        **given,
        "model_type": layout.model_type,
        "architectures": [layout.architecture],
        "sliding_window": dense.get("sliding_window"),
        layout.count: count,
        "num_experts_per_tok": settings.top,
    }
    if layout.model_type != "mixtral":
        config |= {
            "moe_intermediate_size": inner,
            "norm_topk_prob": True,  # so that equal experts are the dense model
            "decoder_sparse_step": settings.every,
            "mlp_only_layers": [],
        }
    if layout.shared is not None:
        config["shared_expert_intermediate_size"] = inner if settings.shared else 1
        config["qkv_bias"] = any("q_proj.bias" in name for name in donor.tensors)
    _check_same_attention(dense, config, donor)
    return config


def _check_same_attention(dense: dict[str, Any], config: dict[str, Any], donor: Checkpoint) -> None:
    """Refuse a config that differs from the dense one in anything but experts."""
    of_experts = set(config) - set(dense) | {"num_local_experts", "router_jitter_noise"}
    for path, before, after in differing_keys(donor.config, config):
        neutral = not before and not after
        unused = path == "max_window_layers" and not dense.get("use_sliding_window")
        if path == "layer_types" and None in (before, after):
            unused = set(before or after) == {"full_attention"}
        if path.split(".")[0] in of_experts or neutral or unused:
            continue
        raise UserError(
            f"moe: {donor.folder}: its {path} is {before}, which {config['model_type']} has no "
            f"place for ({after})"
        )


@dataclass(frozen=True)
class _Jobs:
    """The jobs of a mixture, in the base's order."""

    recipe: Recipe
    checkpoints: Mapping[str, Checkpoint]
    layout: _Layout
    settings: MixtureOfExperts
    count: int

    def __iter__(self) -> Iterator[TensorJob]:
        donor = self.checkpoints[self.recipe.donor]
        depth = stack_depths(donor.tensors, layer_count(donor.config) or 0)[""]
        for name, info in donor.tensors.items():
            at = locate(name)
            sparse = at.layer is not None and (at.layer + 1) % self.settings.every == 0
            if at.component == "mlp" and sparse:
                yield from self._of_layer(name, info.shape, depth)
            else:
                yield TensorJob(name, info.shape, None, (self._base(name),), "passthrough", _AS_IS)

    def _base(self, name: str) -> Ref:
        return Ref(self.recipe.donor, name)

    def _of_layer(self, name: str, shape: tuple[int, ...], depth: int) -> Iterator[TensorJob]:
        """Yield each expert's tensor for one of the base, and with the first one the router."""
        layer, _, rest = name.rpartition(".mlp.")
        projection = rest.removesuffix(".weight")
        if projection not in _PROJECTIONS:
            raise UserError(
                f"moe: {name}: {self.layout.model_type} has no place for it, only for "
                f"{', '.join(_PROJECTIONS)} without biases"
            )
        scales = self._values("scale", name, depth)
        refs = {model: self._expert(model, name, shape) for model in scales}
        experts = self._experts(layer, depth)
        mix = 1.0 - self.settings.shared if projection == "down_proj" else 1.0
        for number, model in enumerate(experts):
            target = self.layout.expert.format(number=number, name=self.layout.names[projection])
            yield self._scaled(f"{layer}.{target}", shape, name, refs[model], scales[model], mix)
        if projection == "gate_proj":
            yield self._router(layer, shape[1], [refs[model] for model in experts])
        if self.layout.shared is not None:
            yield from self._shared(layer, name, shape, projection)

    def _experts(self, layer: str, depth: int) -> list[str]:
        """Return the model of each of a layer's experts, in the recipe's order."""
        priorities = self._values("priority", f"{layer}.mlp.gate_proj.weight", depth)
        first = sorted(priorities, key=lambda model: -priorities[model])[: self.count]
        chosen = [model for model in priorities if model in first]
        return [chosen[number % len(chosen)] for number in range(self.count)]

    def _values(self, parameter: str, name: str, depth: int) -> dict[str, float]:
        """Return a parameter's value for each model at a tensor of the base."""
        levels = levels_of(self.recipe, name, depth)
        sources = [(entry.model, name) for entry in self.recipe.models]
        values = resolve_parameters(levels, name, sources, range(len(sources)))[parameter]
        return {model: value for (model, _), value in zip(sources, values, strict=True)}

    def _expert(self, model: str, name: str, shape: tuple[int, ...]) -> Ref:
        info = self.checkpoints[model].tensors.get(name)
        if info is None or info.shape != shape:
            seen = "has none" if info is None else f"has one of {list(info.shape)}"
            raise UserError(
                f"moe: {model} is no expert for {self.recipe.donor}: {name} is {list(shape)} there,"
                f" and it {seen}"
            )
        return Ref(model, name)

    def _scaled(
        self, target: str, shape: tuple[int, ...], name: str, ref: Ref, scale: float, mix: float
    ) -> TensorJob:
        """Return base + scale (model - base), times `mix`; bits are kept where nothing changes."""
        base = self._base(name)
        if mix == 1 and 0 <= scale <= 1:
            return TensorJob(target, shape, base, (ref,), "wise_ft", {"alpha": scale})
        weights = {"weight": [mix * (1 - scale), mix * scale], "normalize": False}
        return TensorJob(target, shape, None, (base, ref), "linear", weights)

    def _router(self, layer: str, width: int, refs: list[Ref]) -> TensorJob:
        about = {"router": self.settings.router, "sharpness": self.settings.sharpness}
        name = f"{layer}.{self.layout.router}"
        return TensorJob(name, (len(refs), width), None, tuple(refs), ROUTER, about)

    def _shared(
        self, layer: str, name: str, shape: tuple[int, ...], projection: str
    ) -> Iterator[TensorJob]:
        """The base's MLP as the expert that every token takes: half of it, as its gate is of zeros.

        Without a share it has one unit, of zeros: the architecture always has one.
        """
        assert self.layout.shared is not None
        target = f"{layer}.{self.layout.shared.format(name=projection)}"
        base = (self._base(name),)
        down = projection == "down_proj"
        if self.settings.shared:
            scale = 2.0 * self.settings.shared if down else 1.0
            yield TensorJob(target, shape, None, base, "passthrough", {"scale": [scale]})
        else:
            one = (shape[0], 1) if down else (1, shape[1])
            yield TensorJob(target, one, None, base, ZEROS, {})
        if projection == "gate_proj":
            yield TensorJob(f"{layer}.{_SHARED_GATE}", (1, shape[1]), None, base, ZEROS, {})


_AS_IS: Mapping[str, Any] = {"scale": [1.0]}
