"""Turns a recipe and its parents into jobs: one per output tensor, every parameter resolved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from evomerge import methods
from evomerge.checkpoint.architecture import (
    Location,
    layer_count,
    locate,
    renumbered,
    stack_depths,
    stack_of,
)
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.loaded.layers import stacked_config
from evomerge.checkpoint.loaded.tying import config_for
from evomerge.core.errors import UserError
from evomerge.merge.plan.configs import stored_dtype
from evomerge.merge.plan.experts import plan_experts
from evomerge.merge.plan.jobs import MergePlan as MergePlan
from evomerge.merge.plan.jobs import Ref as Ref
from evomerge.merge.plan.jobs import TensorJob as TensorJob
from evomerge.merge.plan.matching import sources_of_tensors, with_heads
from evomerge.merge.plan.routed import GATES, plan_routed
from evomerge.merge.plan.wide import plan_wide
from evomerge.recipe.data import PARENTS, Slice
from evomerge.recipe.parameters import resolve_parameters
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.values import Levels, filtered, levels_of, slice_levels_of


def plan(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> MergePlan:
    """Plan every tensor of a recipe.

    Args:
        recipe: The recipe.
        checkpoints: Every model that it names, opened.

    Raises:
        UserError: A layer or tensor that the recipe asks for is not there.
    """
    donor = checkpoints[recipe.donor]
    if recipe.output_dtype == PARENTS:
        recipe = replace(recipe, out_dtype=stored_dtype(recipe, checkpoints))
    if methods.get(recipe.merge_method).is_structure:
        return _STRUCTURES[recipe.merge_method](recipe, checkpoints)
    own_config = checkpoints[recipe.config_donor].config
    names = [*donor.tensors, *_untied_heads(recipe, checkpoints)]
    if not recipe.slices:
        depths = stack_depths(donor.tensors, layer_count(donor.config) or 0)
        depth = depths[""]
        for i, block in enumerate(recipe.blocks):
            if block.layers is not None and block.layers[1] > depth:
                raise UserError(
                    f"blocks[{i}].layers: it ends at layer {block.layers[1]}, but {donor.folder} "
                    f"has {depth} layers"
                )
        jobs = tuple(_jobs_of_models(recipe, names, depths, checkpoints))
        config = config_for(with_heads(recipe, own_config), [job.name for job in jobs])
        return MergePlan(recipe, jobs, config)
    jobs = tuple(_jobs_of_slices(recipe, names, checkpoints))
    firsts = [part.sources[0] for part in recipe.slices]
    origin = [(checkpoints[s.model].config, i) for s in firsts for i in range(*s.layer_range)]
    config = config_for(stacked_config(own_config, origin), [job.name for job in jobs])
    return MergePlan(recipe, jobs, config)


_STRUCTURES = {
    **dict.fromkeys(GATES, plan_routed),
    "moe": plan_experts,
    "widen": plan_wide,
}


def _jobs_of_models(
    recipe: Recipe,
    names: list[str],
    depths: Mapping[str, int],
    checkpoints: Mapping[str, Checkpoint],
) -> Iterator[TensorJob]:
    """Yield jobs of a recipe without slices; tensors of one layer and component share values."""
    shared = not filtered(recipe)
    known: dict[tuple[str, Location], tuple[Levels, Mapping[str, Any]]] = {}
    for name, model in sources_of_tensors(recipe, names, checkpoints).items():
        if model is not None:
            yield _copied(Ref(model, name), checkpoints)
            continue
        sources = [(entry.model, name) for entry in recipe.models]
        stack = stack_of(name)
        location = stack, locate(name)
        levels, parameters = known.get(location) or (levels_of(recipe, name, depths[stack]), None)
        job = _job(name, levels, recipe.base_model, sources, name, checkpoints, parameters)
        if shared:
            known[location] = levels, job.parameters
        yield job


def _copied(ref: Ref, checkpoints: Mapping[str, Checkpoint]) -> TensorJob:
    """Copy one model's tensor as it is."""
    shape = checkpoints[ref.model].tensors[ref.name].shape
    return TensorJob(ref.name, shape, None, (ref,), "passthrough", {"scale": [1.0]})


def _jobs_of_slices(
    recipe: Recipe, names: Sequence[str], checkpoints: Mapping[str, Checkpoint]
) -> list[TensorJob]:
    """Layer tensors slice by slice, renumbered; the others from the first or the last slice."""
    stacks = sorted({stack_of(name) for name in names if locate(name).layer is not None})
    if not stacks:
        raise UserError(f"{recipe.donor}: slices need layers, but no tensor's name has a number")
    if len(stacks) > 1:
        raise UserError(
            f"{recipe.donor}: slices need one stack of layers, but there are {', '.join(stacks)}; "
            "write models, with filters on their names"
        )
    in_layers = {
        part.sources[0].model: _in_layers(checkpoints[part.sources[0].model])
        for part in recipe.slices
    }
    before = [n for n in names if locate(n).layer is None and not _behind_layers(locate(n))]
    behind = [n for n in names if locate(n).layer is None and _behind_layers(locate(n))]
    jobs = [_slice_job(recipe, recipe.slices[0], n, None, checkpoints) for n in before]
    output = 0
    for part in recipe.slices:
        for step in range(part.length):
            source = part.sources[0]
            layer = source.layer_range[0] + step
            layered = in_layers[source.model]
            # Layers may differ in kind; of one that is not there any other's names say what lacks.
            for name in layered.get(layer) or layered[min(layered)]:
                renamed = renumbered(name, output)
                jobs.append(_slice_job(recipe, part, renamed, step, checkpoints))
            output += 1
    return jobs + [_slice_job(recipe, recipe.slices[-1], n, None, checkpoints) for n in behind]


def _in_layers(checkpoint: Checkpoint) -> dict[int, list[str]]:
    layered: dict[int, list[str]] = {}
    for name in checkpoint.tensors:
        layer = locate(name).layer
        if layer is not None:
            layered.setdefault(layer, []).append(name)
    return layered


def _slice_job(
    recipe: Recipe,
    part: Slice,
    name: str,
    step: int | None,
    checkpoints: Mapping[str, Checkpoint],
) -> TensorJob:
    sources = [
        (s.model, name if step is None else renumbered(name, s.layer_range[0] + step))
        for s in part.sources
    ]
    base = part.base_model or recipe.base_model
    base_name = next((n for model, n in sources if model == base), sources[0][1])
    levels = slice_levels_of(recipe, part, step)
    return _job(name, levels, base, sources, base_name, checkpoints)


def _job(
    name: str,
    levels: Levels,
    base: str | None,
    sources: Sequence[tuple[str, str]],
    base_name: str,
    checkpoints: Mapping[str, Checkpoint],
    parameters: Mapping[str, Any] | None = None,
) -> TensorJob:
    """Return one tensor's job; `parameters` are resolved here unless they are known."""
    spec = methods.get(levels.method)
    merged = [i for i, (model, _) in enumerate(sources) if not (spec.takes_base and model == base)]
    base_ref = _ref(base, base_name, checkpoints) if spec.takes_base and base else None
    refs = tuple(_ref(*sources[i], checkpoints) for i in merged)
    read = refs if base_ref is None else (*refs, base_ref)
    shapes = {checkpoints[ref.model].tensors[ref.name].shape for ref in read}
    if len(shapes) > 1:
        raise UserError(f"{name}: its shapes differ: {sorted(map(list, shapes))}")
    if parameters is None:
        parameters = resolve_parameters(levels, name, sources, merged)
    return TensorJob(name, shapes.pop(), base_ref, refs, levels.method, parameters)


def _ref(model: str, name: str, checkpoints: Mapping[str, Checkpoint]) -> Ref:
    stored = checkpoints[model].stored_name(name)
    if stored is None:
        raise UserError(f"{model}: it has no tensor {name}, which the recipe needs")
    return Ref(model, stored)


def _behind_layers(location: Location) -> bool:
    return location.component in ("norm", "head")


def _untied_heads(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> list[str]:
    """Tensors that the donor ties to others, and another model holds by themselves."""
    donor = checkpoints[recipe.donor]
    if recipe.heads != "merge":
        return []
    names = [name for model in recipe.inputs for name in checkpoints[model].tensors]
    return [
        name
        for name in dict.fromkeys(names)
        if name not in donor.tensors and donor.partner(name) is not None
    ]
