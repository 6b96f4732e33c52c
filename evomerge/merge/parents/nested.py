"""Makes merges parents of other merges: computed tensor by tensor when read; nothing is written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from evomerge import methods
from evomerge.checkpoint.architecture import with_dtype
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.dtypes import CODES, FLOATS
from evomerge.checkpoint.files.header import TensorInfo
from evomerge.checkpoint.opening import inspect_models
from evomerge.checkpoint.store import Factors
from evomerge.core.errors import UserError
from evomerge.merge.compute import merged
from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.plan import MergePlan, plan
from evomerge.merge.vocabulary.align import aligned
from evomerge.recipe import nested as nesting
from evomerge.recipe.recipe import Recipe

_MOST_KEPT = 2


def open_parents(models: Iterable[str], device: str = "cpu") -> Parents:
    """Open parents by name; one that is a recipe's file is merged as it is read.

    Raises:
        UserError: A model cannot be read, or a recipe's file is wrong.
    """
    names = list(dict.fromkeys(models))
    folders = [name for name in names if not nesting.is_file(name)]
    inspect_models(folders)
    parents = Parents(folders, device)
    for name in names:
        if nesting.is_file(name):
            recipe = Recipe.from_yaml(name)
            inner_parents = with_merges(
                recipe, open_parents(recipe.model_names, device), checked=True
            )
            inner_parents.check(recipe)
            parents.opened[name] = _checkpoint(recipe, inner_parents, name)
    return parents


def with_merges(recipe: Recipe, parents: Parents, *, checked: bool = False) -> Parents:
    """Return the parents of a recipe with merges in it: its inputs, merges by their names there.

    Args:
        recipe: The recipe; without merges its parents are `parents` as they are.
        parents: Every model that it names.
        checked: Whether the parents of each merge are checked first, as for a separate build.

    Raises:
        UserError: A tensor that a merge needs is not there, or parents do not fit.
    """
    if not recipe.merges:
        return parents
    opened = dict(parents.opened)
    for name, inner in recipe.merges.items():
        inner_parents = parents.beside(
            {model: opened[model] for model in inner.inputs}, recipe.merges
        )
        if checked:
            inner_parents.check(inner)
        opened[name] = _kept(inner, inner_parents, name)
    return parents.beside({model: opened[model] for model in recipe.inputs}, recipe.merges)


def _kept(recipe: Recipe, parents: Parents, name: str) -> Checkpoint:
    """Return a merge as a checkpoint, whose tensors stay in memory if they may be asked for again.

    They stay if the recipe before had the same merge under that name, or if models' own data go
    into it, which takes seconds a layer; of the last two such merges, and only if all their models
    are on disk.
    """
    cache, where = parents.kept, f"merges.{name}"
    if cache is None or any(map(parents.is_passing, recipe.inputs)):
        return _checkpoint(recipe, parents, where)
    digest = recipe.digest
    if digest in cache.made:
        cache.made[digest] = cache.made.pop(digest)
        return cache.made[digest]
    of_data = any(methods.get(method).needs_data for method in recipe.method_names)
    stays = of_data or cache.before.get(name) == digest
    cache.before[name] = digest
    checkpoint = _checkpoint(recipe, parents, where, stays)
    if stays:
        cache.made[digest] = checkpoint
        while len(cache.made) > _MOST_KEPT:
            del cache.made[next(iter(cache.made))]
    return checkpoint


def _checkpoint(recipe: Recipe, parents: Parents, where: str, stays: bool = False) -> Checkpoint:
    """Return a merge as a checkpoint: the tensors that a build to disk would hold."""
    brought = aligned(recipe, parents.opened)
    if any(brought[model] is not checkpoint for model, checkpoint in parents.opened.items()):
        raise UserError(
            f"{where}: its tokenizer changes its models' vocabulary; build it separately first, "
            "and name the folder"
        )
    built = plan(recipe, parents.checkpoints)
    code = CODES[built.recipe.output_dtype]
    tensors = {}
    for job in built.jobs:
        ref = job.base or job.models[0]
        stored = parents.checkpoints[ref.model].tensors[ref.name]
        tensors[job.name] = TensorInfo(
            code if stored.dtype in FLOATS else stored.dtype, job.shape, file=""
        )
    donor = parents.checkpoints[built.recipe.donor]
    config = with_dtype(built.config, built.recipe.output_dtype)
    return Checkpoint(donor.folder, config, tensors, _Merge(built, parents, stays))


class _Merge:
    """The tensors of a merge, each made when it is asked for; the last one is remembered, or all.

    A merge asks for all inputs of one tensor before it goes on to the next, some more than once.
    """

    def __init__(self, built: MergePlan, parents: Parents, stays: bool = False):
        self._built = built
        self._parents = parents
        self._made: dict[str, Tensor] | None = {} if stays else None
        self._jobs: Mapping[str, int] = {job.name: i for i, job in enumerate(built.jobs)}
        self._last: tuple[str, Tensor] | None = None

    @property
    def fingerprint(self) -> str:
        checkpoints, recipe = self._parents.checkpoints, self._built.recipe
        parts = [recipe.digest, *(checkpoints[name].fingerprint for name in recipe.inputs)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def files(self) -> list[Path]:
        return [
            file
            for checkpoint in self._parents.checkpoints.values()
            for file in checkpoint.store.files
        ]

    def tensor(self, name: str) -> Tensor:
        if self._made is not None:
            if name not in self._made:
                job = self._built.jobs[self._jobs[name]]
                self._made[name] = merged(job, self._parents, self._built.recipe)
            return self._made[name]
        if self._last is None or self._last[0] != name:
            self._last = None  # free it before the next one is computed
            job = self._built.jobs[self._jobs[name]]
            self._last = (name, merged(job, self._parents, self._built.recipe))
        return self._last[1]

    def factors(self, name: str, adapters: int) -> list[Factors] | None:
        del name
        return None if adapters else []

    def computes(self, name: str) -> bool:
        del name
        return True
