"""Writes what a study found, when a worker is asked to: a model, an adapter, mergekit's recipe."""

from __future__ import annotations

from pathlib import Path

from evomerge.checkpoint.files.remote_code import code_files, named_code
from evomerge.core.errors import UserError
from evomerge.merge.build import write
from evomerge.merge.output.merged_adapter import NoAdapterError, write_merged_adapter
from evomerge.merge.parents.nested import with_merges
from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.plan import plan as make_plan
from evomerge.recipe.mergekit import to_mergekit as mergekit
from evomerge.recipe.recipe import Recipe
from evomerge.study.journal.exports import ModelExport
from evomerge.study.workers.requests import (
    Export,
    ExportAdapter,
    Exported,
    ExportedAdapter,
    Translate,
    Translation,
)


def export(request: Export, opened: Parents) -> Exported:
    """Write a recipe's model to disk."""
    recipe = Recipe.from_dict(request.recipe)
    parents = with_merges(recipe, opened)
    plan = make_plan(recipe, parents.checkpoints)
    out = Path(request.out)
    digest = write(plan, parents, out, replace=True)
    code = code_files(out) if named_code(out) else {}
    return Exported(digest, vars(ModelExport(plan.parameters, plan.parameters_per_token, code)))


def export_adapter(request: ExportAdapter, parents: Parents, base: str) -> ExportedAdapter:
    """Write what a recipe changes of the base as an adapter, or say why none can."""
    recipe = Recipe.from_dict(request.recipe)
    about = base, Path(request.out), request.rank
    try:
        adapter = write_merged_adapter(recipe, with_merges(recipe, parents), *about)
    except NoAdapterError as error:
        return ExportedAdapter(str(error))
    return ExportedAdapter(None, **vars(adapter), sentence=adapter.sentence)


def translate(request: Translate, parents: Parents) -> Translation:
    """Translate a recipe to mergekit's format, or say why mergekit cannot express it."""
    recipe = Recipe.from_dict(request.recipe)
    names = list(with_merges(recipe, parents).checkpoints[recipe.donor].tensors)
    try:
        return Translation(mergekit.as_yaml(mergekit.to_mergekit(recipe, names)), None)
    except UserError as error:
        return Translation(None, str(error))
