"""Build a plan: into a live model in place, or to disk. One code path, equal digests."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from evomerge import methods
from evomerge.checkpoint.dtypes import DTYPES
from evomerge.checkpoint.files.remote_code import copy_code
from evomerge.checkpoint.files.shards import write_shards
from evomerge.core.atomic import atomic_folder
from evomerge.core.errors import UserError
from evomerge.merge.kernels.lowering import Inputs, operation_of
from evomerge.merge.output.card import model_card
from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.plan import Job, Plan
from evomerge.merge.vocabulary.tokenizer import write_tokenizer
from evomerge.recipe.data import DTYPES as DTYPE_NAMES
from evomerge.recipe.recipe import Recipe

TORCH_DTYPES = {name: getattr(torch, name) for name in DTYPE_NAMES}


def merged(job: Job, parents: Parents, recipe: Recipe) -> Tensor:
    """Compute one output tensor in float32 and cast it once to the recipe's output dtype.

    A recipe whose dtype is float64 is computed in that, method by method, without operations.
    Tensors that are not floating point (buffers) must be equal in all parents and are copied.

    Raises:
        UserError: Such a tensor differs, or a method refuses its inputs; names the tensor.
    """
    first = parents.tensor(job.base or job.models[0])
    dtype = TORCH_DTYPES[recipe.output_dtype] if first.is_floating_point() else first.dtype
    out = torch.empty(first.shape, dtype=dtype, device=first.device)  # a stack may take one twice
    merge_into(out, job, parents, recipe)
    return out


def merge_into(out: Tensor, job: Job, parents: Parents, recipe: Recipe) -> None:
    """Like `merged`, written into a tensor of the result's shape and any floating dtype.

    A method that has an operation runs as one, in a single pass where `out` is contiguous; the
    others run as the plain function. The bits are the same.
    """
    device = parents.device_for(out)
    keys, base, models = parents.flat(job, device)
    first = models[0] if base is None else base
    if not first.is_floating_point():
        if any(not torch.equal(first, other) for other in models):
            raise UserError(f"{job.name}: whole numbers cannot be merged, and they differ")
        out.copy_(first.view(job.shape))
        return
    spec = methods.get(job.method)
    spec.check_models(len(models))
    random = methods.CounterRandom(recipe.seed, job.name) if spec.stochastic else None
    working, dtype = TORCH_DTYPES[recipe.dtype], TORCH_DTYPES[recipe.output_dtype]
    try:
        inputs = Inputs(
            base,
            models,
            keys,
            working,
            random,
            parents.statistics_of(job),
            parents.kernels,
        )
        exact = torch.promote_types(working, torch.float32)  # what arithmetic runs in
        if exact == torch.float64 and (spec.takes_thresholds or spec.takes_factors):
            raise UserError(f"{spec.name}: it computes in float32; set dtype to float32")
        operation = (
            None if exact == torch.float64 else operation_of(job.method, inputs, job.parameters)
        )
        if operation is not None:
            direct = out.is_contiguous() and out.dtype == dtype and out.device == first.device
            flat = (
                out.view(-1)
                if direct
                else torch.empty(out.numel(), dtype=dtype, device=first.device)
            )
            if not parents.kernels.run(operation, flat):  # the last of them, PyTorch's, always can
                raise RuntimeError(f"{job.name}: no kernel could merge it, so nothing was written")
            if not direct:
                out.copy_(flat.view(out.shape))
            return
        result = spec.apply(
            None if base is None else base.view(job.shape).to(working).to(exact),
            [model.view(job.shape).to(working).to(exact) for model in models],
            job.parameters,
            random,
            [parents.factors(ref, device) for ref in job.models] if spec.takes_factors else None,
            parents.thresholds(job, working) if spec.takes_thresholds else None,
        )
    except UserError as error:
        raise UserError(f"{job.name}: {error}") from None
    out.copy_(result.to(dtype))


def tensors(built: Plan, parents: Parents) -> Iterator[tuple[str, Tensor]]:
    """Every output tensor of a plan, one at a time.

    Raises:
        UserError: Values are beyond what float16 can hold; names the tensor.
    """
    for job in built.jobs:
        tensor = merged(job, parents, built.recipe)
        _check_range(job.name, tensor)
        yield job.name, tensor


def _check_range(name: str, tensor: Tensor) -> None:
    if tensor.dtype == torch.float16 and not bool(torch.isfinite(tensor).all()):
        count = int((~torch.isfinite(tensor)).sum())
        raise UserError(
            f"{name}: {count} merged values are not finite in float16, which ends at 65,504; "
            "choose bfloat16 or float32"
        )


def fill(model: torch.nn.Module, built: Plan, parents: Parents) -> None:
    """Write a candidate into a live model of the plan's architecture, in place.

    Raises:
        UserError: The live model keeps a tensor under another name, or of another shape; or values
            are beyond what float16 can hold.
    """
    live = live_tensors(model, built)
    with torch.no_grad():
        for job in built.jobs:
            out = live[job.name]
            merge_into(out, job, parents, built.recipe)
            _check_range(job.name, out)


def live_tensors(model: torch.nn.Module, built: Plan) -> dict[str, Tensor]:
    """A live model's tensors under the names that its checkpoint uses.

    Raises:
        UserError: A tensor of the plan has no place in the model.
    """
    held: Mapping[str, Tensor] = model.state_dict(keep_vars=True)
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    found = {}
    for job in built.jobs:
        tensor = held.get(job.name)
        if tensor is None:
            tensor = held.get(prefix + job.name)
        if tensor is not None and tensor.shape == job.shape:
            found[job.name] = tensor.detach()
            continue
        if tensor is not None and _differs_in_rows(tuple(tensor.shape), job.shape):
            raise UserError(
                f"{type(model).__name__}: its {job.name} has {tensor.shape[0]} rows, and the merge "
                f"{job.shape[0]}: call resize_token_embeddings({job.shape[0]}) first"
            )
        raise UserError(
            f"{type(model).__name__} has no tensor {job.name} of shape {list(job.shape)}: it "
            "stores its weights otherwise than it runs them, and cannot be merged in place"
        )
    return found


def _differs_in_rows(live: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return live != wanted and live[1:] == wanted[1:] and len(live) == len(wanted) > 0


def digest(named: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes: equal exactly when the weights are."""
    return _combined(f"{name} {_content(tensor)}" for name, tensor in named)


def write(built: Plan, parents: Parents, out: Path, *, replace: bool = False) -> str:
    """Write a merged model as a Hugging Face folder that appears only when whole.

    The folder holds config, safetensors, the tokenizer, the recipe and a model card, and the
    Python files that the config names.

    Returns:
        The digest of its weights.

    Raises:
        UserError: `out` exists and holds something, or a parent does not fit.
    """
    recipe = built.recipe
    dtype = TORCH_DTYPES[recipe.output_dtype]
    sizes = {}
    for job in built.jobs:
        ref = job.base or job.models[0]
        stored = DTYPES[parents.checkpoints[ref.model].tensors[ref.name].dtype]
        itemsize = dtype.itemsize if stored.is_floating_point else stored.itemsize
        sizes[job.name] = math.prod(job.shape) * itemsize
    parts: list[str] = []

    def recorded() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in tensors(built, parents):
            parts.append(f"{name} {_content(tensor)}")
            yield name, tensor.cpu()

    with atomic_folder(out, replace=replace) as folder:
        copy_code(parents.checkpoints[recipe.donor].folder, folder)  # may refuse: before the work
        write_shards(folder, recorded(), sizes)
        config = {**built.config, "dtype": recipe.output_dtype}
        config.pop("torch_dtype", None)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        write_tokenizer(recipe, parents.opened, folder)
        recipe.to_yaml(folder / "evomerge_recipe.yaml")
        (folder / "README.md").write_text(model_card(recipe), encoding="utf-8")
    return _combined(parts)


def _content(tensor: Tensor) -> str:
    """Dtype, shape and the digest of the bytes of one tensor."""
    held = tensor.detach().cpu().contiguous()
    data = held.flatten().view(torch.uint8).numpy()
    return f"{held.dtype} {list(held.shape)} {hashlib.sha256(data.data).hexdigest()}"


def _combined(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()
