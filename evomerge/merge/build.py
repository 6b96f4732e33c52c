"""Builds a recipe as a model folder, or into a live model in place; both give equal digests."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from evomerge.checkpoint.architecture import with_dtype
from evomerge.checkpoint.dtypes import CODES, ELEMENT_BYTES, FLOATS
from evomerge.checkpoint.files.remote_code import copy_code
from evomerge.checkpoint.files.shards import write_shards
from evomerge.core.atomic import atomic_folder
from evomerge.core.errors import UserError
from evomerge.merge.compute import TORCH_DTYPES, merge_into, merged
from evomerge.merge.digest import combined_digest, digest, tensor_digest
from evomerge.merge.live_layout import is_left_out, parts, views
from evomerge.merge.output.card import model_card
from evomerge.merge.output.own_code import code_sentence, with_own_code
from evomerge.merge.parents.nested import open_parents, with_merges
from evomerge.merge.parents.parents import Parents
from evomerge.merge.parents.provider import Provider
from evomerge.merge.plan.configs import config_notes
from evomerge.merge.plan.jobs import sizes_sentence
from evomerge.merge.plan.plan import MergePlan, TensorJob, plan
from evomerge.merge.vocabulary.tokenizer import write_companions
from evomerge.recipe.recipe import Recipe


def build(
    recipe: Recipe | str | Path,
    out: str | Path,
    *,
    device: str = "cpu",
    replace: bool = False,
    note: Callable[[str], None] = warnings.warn,
    statistics: Callable[[Parents], Provider] | None = None,
) -> str:
    """Merge a recipe into a model folder, as `calibration.make.build` says of what it shares.

    Args:
        statistics: Makes the provider of what models' rows say; without one those are refused.

    Returns:
        The digest of the merged weights.
    """
    if not isinstance(recipe, Recipe):
        recipe = _read(Path(recipe))
    opened = open_parents(recipe.model_names, device)
    opened.provider = statistics and statistics(opened)
    parents = with_merges(recipe, opened, checked=True)
    parents.check(recipe)
    for text in config_notes(recipe, parents.checkpoints):
        note(text)
    return write(plan(recipe, parents.checkpoints), parents, Path(out), replace=replace)


def _read(file: Path) -> Recipe:
    if not file.is_file():
        state = "it is a folder" if file.is_dir() else "there is no such file"
        raise UserError(f"{file}: expected a recipe's YAML file, but {state}")
    return Recipe.from_yaml(file)


def tensors(built: MergePlan, parents: Parents) -> Iterator[tuple[str, Tensor]]:
    """Yield every output tensor of a plan, one at a time.

    Raises:
        UserError: Values are beyond what the output's dtype can hold; names the tensor.
    """
    for job in built.jobs:
        tensor = merged(job, parents, built.recipe)
        check_range(job, tensor)
        yield job.name, tensor


def check_range(job: TensorJob, tensor: Tensor) -> None:
    """Refuse a merged tensor with values that are not finite."""
    if not tensor.is_floating_point() or math.isfinite(tensor.sum()):  # a few percent of a merge
        return
    count = int((~torch.isfinite(tensor)).sum())
    if not count:  # the sum alone was too large
        return
    dtype = str(tensor.dtype).removeprefix("torch.")
    remedy = "; choose bfloat16 or float32" if tensor.dtype == torch.float16 else ""
    values = ", ".join(f"{name} {value}" for name, value in job.parameters.items())
    raise UserError(
        f"{job.name}: {count} of {tensor.numel():,} merged values are not finite in {dtype}, whose "
        f"largest value is {torch.finfo(tensor.dtype).max:.5g}: merged by {job.method} with "
        f"{values or 'no parameters'}{remedy or '; choose smaller values'}"
    )


def fill(model: torch.nn.Module, built: MergePlan, parents: Parents) -> None:
    """Write a candidate into a live model of the plan's architecture, in place.

    Raises:
        UserError: The live model has no place for a tensor, or one of another shape; or values
            are beyond what its dtype can hold.
    """
    live = live_tensors(model, built)
    _check_apart(model, live)
    with torch.no_grad():
        for job in built.jobs:
            if job.name in live:
                merge_into(live[job.name], job, parents, built.recipe)
                check_range(job, live[job.name])
        for name, tensor in views(model, built.tied).items():
            source = live[built.tied[name]]  # a head that only this live model has apart
            if tensor.data_ptr() != source.data_ptr():
                tensor.copy_(source)


def live_tensors(model: torch.nn.Module, built: MergePlan) -> dict[str, Tensor]:
    """Return a live model's tensors under the names that its checkpoint uses, sharing its memory.

    Tensors that transformers leaves out when it loads such a checkpoint have no place in the model.

    Raises:
        UserError: The model lacks a tensor of the plan, or has one that the plan does not fill.
    """
    return {name: tensor.detach() for name, tensor in parameters_of(model, built).items()}


def parameters_of(model: torch.nn.Module, built: MergePlan) -> dict[str, Tensor]:
    """The same tensors with their gradients: the model's parameters, or parts of them.

    Raises:
        UserError: The model lacks a tensor of the plan, or has one that the plan does not fill.
    """
    tensors = parts(model, [job.name for job in built.jobs])
    for job in built.jobs:
        tensor = tensors.get(job.name)
        check_place(model, job, None if tensor is None else tuple(tensor.shape))
    apart = views(model, built.tied).values()  # filled as their source is
    addresses = {tensor.data_ptr() for tensor in (*tensors.values(), *apart)}  # tied ones are one
    state = model.state_dict(keep_vars=True)
    check_filled(model, {n: one for n, one in state.items() if one.data_ptr() not in addresses})
    return tensors


def check_place(model: torch.nn.Module, job: TensorJob, shape: tuple[int, ...] | None) -> None:
    """Refuse a live model that has no place for a tensor, or one of another shape.

    Args:
        model: The live model.
        job: What makes the tensor.
        shape: Of its place in the model; ``None`` if there is none.
    """
    if shape == job.shape or (shape is None and is_left_out(model, job.name)):
        return
    if shape is not None and _differs_in_rows(shape, job.shape):
        raise UserError(
            f"{type(model).__name__}: its {job.name} has {shape[0]} rows, and the merge "
            f"{job.shape[0]}: call resize_token_embeddings({job.shape[0]}) first"
        )
    raise UserError(
        f"{type(model).__name__} has no tensor {job.name} of shape {list(job.shape)}, nor does "
        "transformers say how its checkpoints are laid out: it would be dropped; build to a "
        "folder instead"
    )


def live_digest(model: torch.nn.Module, built: MergePlan, parents: Parents) -> str:
    """Digest a live model's weights under the names, shapes and dtypes of what would be written.

    A live model of a wider dtype holds the same values, rounded when they were merged.
    """
    live = live_tensors(model, built)
    dtype = TORCH_DTYPES[built.recipe.output_dtype]
    return digest(
        (job.name, written(live[job.name], dtype))
        if job.name in live
        else (job.name, merged(job, parents, built.recipe))
        for job in built.jobs
    )


def written(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a live tensor in the dtype in which it would be written."""
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def check_filled(model: torch.nn.Module, rest: Mapping[str, Tensor]) -> None:
    """Refuse a model with a tensor that nobody fills: its values would be those it was made with.

    Those of parameters are random. A buffer may stay if the architecture says that it computes it.

    Args:
        model: The live model.
        rest: What no tensor of a merge fills, by name.
    """
    patterns = getattr(model, "_keys_to_ignore_on_load_missing", None) or ()
    for name, tensor in rest.items():
        if tensor.numel() == 0:
            continue
        is_computed = any(re.search(pattern, name) for pattern in patterns)
        if is_computed and not isinstance(tensor, torch.nn.Parameter):
            continue
        raise UserError(
            f"{type(model).__name__} needs a tensor {name} of shape {list(tensor.shape)}, which "
            "the checkpoints lack: nobody can say what it should be; save the models again with "
            "it, or correct config.json (tie_word_embeddings, num_hidden_layers)"
        )


def _check_apart(model: torch.nn.Module, live: Mapping[str, Tensor]) -> None:
    """Refuse a live model in which two tensors of a merge are one."""
    names: dict[int, str] = {}
    for name, tensor in live.items():
        other = names.setdefault(tensor.data_ptr(), name) if tensor.numel() else name
        if other != name:
            raise UserError(
                f"{type(model).__name__}: it ties {name} to {other}, which differ in the merge: "
                "load it with tie_word_embeddings=False"
            )


def _differs_in_rows(live: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return live != wanted and live[1:] == wanted[1:] and len(live) == len(wanted) > 0


def write(built: MergePlan, parents: Parents, out: Path, *, replace: bool = False) -> str:
    """Write a merged model as a Hugging Face folder, which appears only when it is complete.

    The folder holds config, safetensors, the recipe, a model card, the Python files that the
    config names, and all that loaders read beside: tokenizer, templates, processors, licences.

    Returns:
        The digest of its weights.

    Raises:
        UserError: `out` exists and is not empty, or a parent does not fit.
    """
    recipe = built.recipe
    merged_bytes = ELEMENT_BYTES[CODES[recipe.output_dtype]]
    sizes = {}
    for job in built.jobs:
        ref = job.base or job.models[0]
        stored = parents.checkpoints[ref.model].tensors[ref.name].dtype
        bytes_each = merged_bytes if stored in FLOATS else ELEMENT_BYTES[stored]
        sizes[job.name] = math.prod(job.shape) * bytes_each
    parts: list[str] = []

    def recorded() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in tensors(built, parents):
            parts.append(f"{name} {tensor_digest(tensor)}")
            yield name, tensor.cpu()

    with atomic_folder(out, replace=replace) as folder:
        copy_code(parents.checkpoints[recipe.donor].folder, folder)  # may refuse: before the work
        write_shards(folder, recorded(), sizes)
        config = with_dtype(with_own_code(built.config, folder), recipe.output_dtype)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        write_companions(recipe, parents.opened, folder)
        recipe.to_yaml(folder / "evomerge_recipe.yaml")
        notes = " ".join(filter(None, [sizes_sentence(built), code_sentence(folder)]))
        card = model_card(recipe, results=notes)
        (folder / "README.md").write_text(card, encoding="utf-8")
    return combined_digest(parts)
