"""Computes one tensor of a merge, in a single pass where its method has a kernel operation."""

from __future__ import annotations

import torch
from torch import Tensor

from evomerge import methods
from evomerge.checkpoint.dtypes import FLOAT_NAMES
from evomerge.core.errors import UserError
from evomerge.merge.kernels.lowering import Inputs, operation_of
from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.plan import TensorJob
from evomerge.merge.routers import made
from evomerge.recipe.recipe import Recipe

TORCH_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in FLOAT_NAMES}


def merged(job: TensorJob, parents: Parents, recipe: Recipe) -> Tensor:
    """Compute one output tensor in float32 and cast it once to the recipe's output dtype.

    A recipe whose dtype is float64 is computed in that, method by method, without operations.
    Tensors that are not floating point (buffers) must be equal in all parents and are copied.

    Raises:
        UserError: Such a tensor differs, or a method refuses its inputs; names the tensor.
    """
    first = parents.tensor(job.base or job.models[0])
    dtype = TORCH_DTYPES[recipe.output_dtype] if first.is_floating_point() else first.dtype
    out = torch.empty(job.shape, dtype=dtype, device=first.device)  # a stack may take one twice
    merge_into(out, job, parents, recipe)
    return out


def merge_into(out: Tensor, job: TensorJob, parents: Parents, recipe: Recipe) -> None:
    """Merge as `merged` does, into a tensor of the result's shape and any floating dtype.

    A method that has an operation runs as one, in a single pass where `out` is contiguous; the
    others run as the plain function. The bits are the same.
    """
    device = parents.device_for(out)
    of_structure = made(job, parents, recipe, device)
    if of_structure is not None:
        out.copy_(of_structure.to(TORCH_DTYPES[recipe.output_dtype]))
        return
    keys, base, models = parents.flat(job, device)
    first = models[0] if base is None else base
    if not first.is_floating_point():
        if any(not torch.equal(first, other) for other in models):
            raise UserError(
                f"{job.name}: an integer tensor cannot be merged, but it differs between the models"
            )
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
        if exact == torch.float64 and spec.takes & {"thresholds", "factors"}:
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
            if not parents.kernels.run(operation, flat):
                raise RuntimeError(
                    f"{job.name}: expected a kernel to run {job.method}, but none did on "
                    f"{first.device}; set EVOMERGE_KERNELS=torch and report it"
                )
            if not direct:
                out.copy_(flat.view(out.shape))
            return
        result = spec.apply(
            None if base is None else base.view(job.shape).to(working).to(exact),
            [model.view(job.shape).to(working).to(exact) for model in models],
            job.parameters,
            random,
            {name: _given(name, job, parents, recipe, device) for name in spec.takes},
        )
    except UserError as error:
        raise UserError(f"{job.name}: {error}") from None
    out.copy_(result.to(dtype))


def _given(
    name: str, job: TensorJob, parents: Parents, recipe: Recipe, device: torch.device
) -> object:
    """Return what a method is given beside tensors, by its name in `methods.registry.GIVEN`."""
    if name == "factors":
        assert job.base is not None, f"{job.method} mixes factors of adapters on its base"
        return [parents.factors(ref, job.base.model, device) for ref in job.models]
    if name == "thresholds":
        return parents.thresholds(job, TORCH_DTYPES[recipe.dtype])
    if name == "recall":
        return parents.recall_for(job, recipe, device)
    if name == "base_fisher":
        return None if job.base is None else parents.of_data("fisher", job.base, recipe, device)
    if name == "mask":
        return parents.masks(job, recipe, device)
    return [parents.of_data(name, ref, recipe, device, required=True) for ref in job.models]
