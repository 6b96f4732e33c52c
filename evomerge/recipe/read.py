"""Reads a recipe from plain data and refuses what is wrong by the name of its key.

`data` says what each field may be; what depends on the methods, or on two fields, is checked here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from evomerge import methods
from evomerge.checkpoint import names as model_name
from evomerge.core import schema
from evomerge.core.errors import UserError, unknown
from evomerge.recipe import nested as nesting
from evomerge.recipe import tokenizer as token_rows
from evomerge.recipe.data import PARENTS, Entry, RecipeData, Slice, Source
from evomerge.recipe.path import expanded
from evomerge.recipe.rows import AS_USUAL
from evomerge.recipe.settings import normal_parameters

R = TypeVar("R", bound=RecipeData)
OfModel = TypeVar("OfModel", Entry, Source)


def read(kind: type[R], document: Any, where: str) -> R:
    """Check a recipe written as a mapping.

    Args:
        kind: The class of recipe to make, for the recipe and for each of its `merges`.
        document: The mapping.
        where: How messages name it.

    Raises:
        UserError: A key is unknown, a value out of its range, a model missing; names the key.
    """
    document = expanded(nesting.flattened(model_name.joined(document, where), where), where)
    if isinstance(document, dict) and document.get("merge_method") is None:
        known = ", ".join(sorted(methods.names()))
        raise UserError(f"{where}: expected a merge_method, one of {known}")
    recipe: R = schema.read(kind, document, where)
    if not any(document.get(key) for key in ("dtype", "out_dtype")):
        recipe = replace(recipe, out_dtype=PARENTS)  # of `merges` not: those are never written
    return _checked(recipe, where)


def _checked(recipe: R, where: str) -> R:
    """Return the recipe with its parameters in normal form."""
    _check_method(recipe.merge_method, f"{where}: merge_method")
    for i, block in enumerate(recipe.blocks):
        _check_method(block.merge_method, f"{where}: blocks[{i}].merge_method")
    if recipe.slices and recipe.blocks:
        raise UserError(f"{where}: blocks go with models, not with slices")
    if recipe.slices and (recipe.heads, recipe.unmatched) != ("merge", "error"):
        raise UserError(f"{where}: heads and unmatched go with models, not with slices")
    recipe = _with_normal_parameters(recipe, where)
    _check_structure(recipe, where)
    _check_models(recipe, where)
    _check_data(recipe, where)
    if recipe.config is not None and recipe.config not in recipe.inputs:
        raise UserError(
            f"{where}: config: expected one of the merged models or the base, but got "
            f"{recipe.config}"
        )
    if recipe.tokenizer_source is not None:
        if recipe.tokenizer is not None:
            raise UserError(f"{where}: expected tokenizer_source or tokenizer, not both")
        word = recipe.tokenizer_source.removeprefix("model:")
        token_rows.check_source(word, recipe.inputs, f"{where}: tokenizer_source")
    if recipe.tokenizer is not None:
        token_rows.check(recipe.tokenizer, recipe.inputs, f"{where}: tokenizer")
    merges = {n: _checked(inner, f"{where}: merges.{n}") for n, inner in recipe.merges.items()}
    return replace(recipe, merges=merges)


def _check_method(name: str, where: str) -> None:
    if name not in methods.names():
        raise UserError(f"{where}: {unknown('merge method', name, methods.names())}")


def _with_normal_parameters(recipe: R, where: str) -> R:
    used = recipe.method_names

    def entries(listed: Sequence[OfModel], names: Sequence[str], path: str) -> tuple[OfModel, ...]:
        return tuple(
            replace(
                entry,
                parameters=normal_parameters(
                    entry.parameters, names, f"{where}: {path}[{i}].parameters", per_model=True
                ),
            )
            for i, entry in enumerate(listed)
        )

    blocks = tuple(
        replace(
            block,
            parameters=normal_parameters(
                block.parameters, [block.merge_method], f"{where}: blocks[{i}].parameters"
            ),
            models=entries(block.models, [block.merge_method], f"blocks[{i}].models"),
        )
        for i, block in enumerate(recipe.blocks)
    )
    slices = tuple(
        replace(
            part,
            parameters=normal_parameters(part.parameters, used, f"{where}: slices[{i}].parameters"),
            sources=entries(part.sources, used, f"slices[{i}].sources"),
        )
        for i, part in enumerate(recipe.slices)
    )
    return replace(
        recipe,
        parameters=normal_parameters(recipe.parameters, used, f"{where}: parameters"),
        models=entries(recipe.models, used, "models"),
        blocks=blocks,
        slices=slices,
    )


def _check_structure(recipe: RecipeData, where: str) -> None:
    """Refuse blocks and slices of a structure, and values that vary where a model has only one."""
    names = [name for name in recipe.method_names if methods.get(name).is_structure]
    if not names:
        return
    if recipe.slices:
        raise UserError(f"{where}: {names[0]} goes with models, not with slices")
    if recipe.method_names != names[:1]:
        raise UserError(
            f"{where}: {names[0]} makes the whole model: expected blocks of {names[0]} alone; what "
            "else is to be merged goes into base_model, which may be a recipe"
        )
    if (recipe.heads, recipe.unmatched) != ("merge", "error"):
        raise UserError(f"{where}: heads and unmatched do not go with {names[0]}")
    if recipe.config is not None:
        raise UserError(f"{where}: config does not go with {names[0]}, which makes one")
    whole = {p.name for p in methods.get(names[0]).parameters if not p.per_model}
    for name, setting in recipe.parameters.items():
        if name in whole and isinstance(setting, list):
            raise UserError(
                f"{where}: parameters.{name}: expected one value for the whole model, got {setting}"
            )
    for i, block in enumerate(recipe.blocks):
        if extra := sorted(whole & block.parameters.keys()):
            raise UserError(
                f"{where}: blocks[{i}].parameters.{extra[0]}: it holds for the whole model: move "
                "it to the recipe's parameters"
            )


def _check_models(recipe: RecipeData, where: str) -> None:
    """Check that each method gets its base and number of models, and that none is listed twice."""
    listed = [entry.model for entry in recipe.models]
    twice = next((model for model in listed if listed.count(model) > 1), None)
    if twice is not None:
        raise UserError(f"{where}: models: {twice} appears twice")
    if listed:
        _check_counts(recipe, listed, recipe.base_model, where, "models")
    for i, part in enumerate(recipe.slices):
        _check_lengths(part, f"{where}: slices[{i}]")
        sources = [source.model for source in part.sources]
        _check_counts(recipe, sources, part.base_model or recipe.base_model, where, f"slices[{i}]")
    for i, block in enumerate(recipe.blocks):
        for entry in block.models:
            if entry.model not in listed:
                raise UserError(
                    f"{where}: blocks[{i}].models: {unknown('model', entry.model, listed)}"
                )


def _check_data(recipe: RecipeData, where: str) -> None:
    """Refuse rows that nothing reads, and methods that read some where none can be given."""
    specs = map(methods.get, recipe.method_names)
    users = [spec.name for spec in specs if spec.reads_data(recipe.parameters)]
    if users and recipe.slices:
        raise UserError(f"{where}: {users[0]} goes with models, not with slices")
    if not users and recipe.calibration != AS_USUAL:
        known = [name for name in methods.names() if methods.get(name).needs_data]
        raise UserError(f"{where}: calibration: only {', '.join(known)} read rows of data")
    if any(entry.data for block in recipe.blocks for entry in block.models):
        raise UserError(f"{where}: data belongs to the recipe's models, not to those of a block")


def _check_lengths(part: Slice, where: str) -> None:
    lengths = {source.layer_range[1] - source.layer_range[0] for source in part.sources}
    if len(lengths) != 1:
        raise UserError(f"{where}: expected sources of one length, got {sorted(lengths)} layers")


def _check_counts(
    recipe: RecipeData, models: Sequence[str], base: str | None, where: str, path: str
) -> None:
    for name in recipe.method_names:
        spec = methods.get(name)
        if spec.takes_base and not spec.base_optional and base is None:
            raise UserError(f"{where}: {name} needs a base_model")
        for host, adapter in map(model_name.split, models) if "factors" in spec.takes else ():
            if adapter is not None and host != base:  # its factors are changes of the base itself
                raise UserError(
                    f"{where}: {path}: {name} needs adapters on its base_model {base}, but got one "
                    f"on {host}"
                )
        try:
            spec.check_models(len([m for m in models if not (spec.takes_base and m == base)]))
        except UserError as error:
            raise UserError(f"{where}: {path}: {error}") from None
