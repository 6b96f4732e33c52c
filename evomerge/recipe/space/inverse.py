"""Finds the point of a space at which a recipe lies."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from evomerge import methods
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.space.dimension import Point, Value
from evomerge.recipe.space.holes import is_choice, method_scope, model_of
from evomerge.recipe.space.path import has_path, path_depth, path_values
from evomerge.recipe.space.simplex import from_shares
from evomerge.recipe.space.space import SearchSpace
from evomerge.recipe.space.through_merges import point_through


def point_of(space: SearchSpace, recipe: Recipe) -> Point | None:
    """Return the point whose recipe merges as `recipe` does, or ``None`` if the space has none.

    Looks only for recipes without blocks, slices, merges, gradients and filters, as anchors are.
    """
    document = space.document
    if has_path(document):
        return _point_of_path(space, recipe)
    if document.get("merges") and not recipe.merges:
        return point_through(space, recipe)
    if recipe.blocks or recipe.slices or recipe.merges:
        return None
    parameters_of = {entry.model: entry.parameters for entry in recipe.models}
    values: list[Value] = []
    for hole in space.holes:
        scope, name = method_scope(document, hole.path), str(hole.path[-1])
        model = model_of(document, hole.path)
        if name == "merge_method":
            value: Any = recipe.merge_method
        elif name == "include":
            value = model in parameters_of
        elif model is not None and model not in parameters_of:
            value = None
        else:
            method = scope.get("merge_method")
            if method != recipe.merge_method and not is_choice(method):
                return None
            parameters = {**recipe.parameters, **parameters_of.get(model or "", {})}
            value = parameters.get(name, _default(recipe.merge_method, name))
        for dimension in hole.dimensions:
            if value is None:  # the method has no such parameter: any value will do
                values.append(dimension.start)
            elif hole.simplex and isinstance(value, int | float):
                values.append(float(value))
            elif not isinstance(value, list) and dimension.contains(value):
                values.append(value)
            else:
                return None
    on_simplex = from_shares(space.simplices, values)
    if on_simplex is None or not _inside(space, on_simplex):
        return None
    point = tuple(on_simplex)
    wanted = _of_sum_one(recipe) if space.simplices else recipe
    return point if _agrees(space.fill(point), wanted) else None


def _point_of_path(space: SearchSpace, recipe: Recipe) -> Point | None:
    """Return the point of a path that runs one model's layers alone, as a parent's recipe does.

    Where the path runs through a merge of the space, the merge has to be the recipe.
    """
    document = space.document
    merges = document.get("merges") or {}
    plain = [*recipe.method_names, len(recipe.models)] == ["linear", 1] and not recipe.merges
    model = next(iter(merges), None) or (recipe.models[0].model if plain else None)
    if model is None or len(merges) > 1:
        return None
    inner: Point | None = ()
    if merges:
        types: dict[str, Any] = {
            key: document[key] for key in ("dtype", "out_dtype", "seed") if key in document
        }
        inner = point_of(SearchSpace({**merges[model], **types}, space.where), recipe)
    depth = path_depth(document, model, space.where)
    values = path_values(document, model, depth)
    if values is None or inner is None:
        return None
    first = [d for hole in space.holes if hole.path[0] == "merges" for d in hole.dimensions]
    point = (*inner, *values)
    if len(first) != len(inner) or len(point) != len(space.dimensions):
        return None
    if not _inside(space, list(point)):
        return None
    filled = space.fill(point)
    ranges = [
        (s.model, s.layer_range, s.parameters) for part in filled.slices for s in part.sources
    ]
    whole = ranges == [(model, (0, depth), {})]
    return point if whole and filled.output_dtype == recipe.output_dtype else None


def _inside(space: SearchSpace, values: list[Value]) -> bool:
    return all(d.contains(v) for d, v in zip(space.dimensions, values, strict=True))


def _of_sum_one(recipe: Recipe) -> Recipe:
    """Return a recipe that divides by the sum of its weights with shares of 1 in their place."""
    normalize = recipe.parameters.get("normalize", _default(recipe.merge_method, "normalize"))
    given = [{**recipe.parameters, **entry.parameters}.get("weight") for entry in recipe.models]
    weights = [float(weight) for weight in given if isinstance(weight, int | float)]
    if normalize is not True or len(weights) < len(given) or not sum(weights):
        return recipe
    models = [
        replace(entry, parameters={**entry.parameters, "weight": weight / sum(weights)})
        for entry, weight in zip(recipe.models, weights, strict=True)
    ]
    return replace(recipe, models=tuple(models))


def _default(method: str, name: str) -> Any:
    for parameter in methods.get(method).parameters:
        if parameter.name == name:
            return None if parameter.required else parameter.default
    return None


def _agrees(filled: Recipe, wanted: Recipe) -> bool:
    """Compare recipes: wherever the filled one has a value, it must be the wanted one's."""
    spec = methods.get(wanted.merge_method)
    parameters_of = {entry.model: entry.parameters for entry in filled.models}
    if filled.method_names != wanted.method_names or [*parameters_of] != [
        e.model for e in wanted.models
    ]:
        return False
    if spec.takes_base and filled.base_model != wanted.base_model:
        return False
    if (filled.dtype, filled.output_dtype) != (wanted.dtype, wanted.output_dtype):
        return False
    if spec.stochastic and filled.seed != wanted.seed:
        return False
    for entry in wanted.models:
        for parameter in spec.parameters:
            name, default = parameter.name, _default(spec.name, parameter.name)
            want = {**wanted.parameters, **entry.parameters}.get(name, default)
            levels = [{**filled.parameters, **parameters_of[entry.model]}]
            for block in filled.blocks:
                of_model = {e.model: e.parameters for e in block.models}.get(entry.model, {})
                levels.append({**levels[0], **block.parameters, **of_model})
            for level in levels:
                have = level.get(name, default)
                values = have if isinstance(have, list) else []
                values = [v["value"] if isinstance(v, dict) else v for v in values]
                if len(set(map(str, values))) == 1:
                    have = values[0]
                if have != want and not _are_close(have, want):
                    return False
    return True


def _are_close(have: Any, want: Any) -> bool:
    """Return whether two numbers differ by rounding alone, as shares of a softmax may."""
    numbers = isinstance(have, float) and isinstance(want, float)
    return numbers and math.isclose(have, want, rel_tol=1e-12)
