"""Finds the parameters that an adapter targets by themselves: the fused experts of a layer.

PEFT wraps the module of such a parameter, and wraps the wrapper where it has several: in a file the
last parameter of the module has its factors under the module's name, and each one before it under
one more ``.base_layer``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from evomerge.checkpoint.adapters.change import Experts
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.loaded.layout import Place, layout
from evomerge.checkpoint.loaded.skeleton import skeleton_of

_WRAPPED = ".base_layer"


class Parameter(NamedTuple):
    """A targeted parameter of the live model.

    Attributes:
        name: Its live name.
        experts: How many experts it holds; 1 for a matrix.
        transposed: Whether an expert is stored as (in, out).
    """

    name: str
    experts: int
    transposed: bool


def targeted_parameters(
    modules: Iterable[str], targets: Sequence[str], host: Checkpoint
) -> dict[str, Parameter]:
    """Return the parameter that each module of an adapter's file stands for.

    Args:
        modules: Names in the file, ``.base_layer`` and all.
        targets: The adapter's ``target_parameters``.
        host: The model it is put on.

    Returns:
        Nothing for modules that are targeted as a whole, or that the host does not have.
    """
    skeleton = skeleton_of(host.config)
    if skeleton is None:
        return {}
    parameters = {}
    for path in modules:
        module_name = path
        while module_name.endswith(_WRAPPED):
            module_name = module_name.removesuffix(_WRAPPED)
        depth = (len(path) - len(module_name)) // len(_WRAPPED)
        try:
            module = skeleton.model.get_submodule(module_name)
        except AttributeError:
            continue
        names = [
            name
            for name, _ in module.named_parameters(recurse=False)
            if any(
                f"{module_name}.{name}" == target or f"{module_name}.{name}".endswith(f".{target}")
                for target in targets
            )
        ]
        if depth >= len(names):
            continue
        name = names[len(names) - 1 - depth]
        shape = tuple(getattr(module, name).shape)
        experts = shape[0] if len(shape) == 3 else 1
        transposed = experts > 1 and bool(getattr(module, "is_transposed", False))
        parameters[path] = Parameter(f"{module_name}.{name}", experts, transposed)
    return parameters


def stored_experts(
    parameter: Parameter, host: Checkpoint
) -> dict[str, tuple[Experts, bool]] | None:
    """Return the stored tensors that are parts of fused experts, and whether each is transposed.

    Returns:
        ``None`` where a stored tensor is no block of rows of one expert.
    """
    stored = host.stored_names(parameter.name)
    if stored == [parameter.name]:
        return {parameter.name: (Experts(parameter.experts), parameter.transposed)}
    skeleton = skeleton_of(host.config)
    assert skeleton is not None, "the parameter was found in it"
    shape = skeleton.shapes[parameter.name]
    places: Mapping[str, Place] = layout(skeleton.model, list(host.tensors))
    parts = {}
    for name in stored:
        place = places.get(name)
        if place is None or place.live != parameter.name:
            return None
        if place.stride is None or len(place.shape) == 3:
            if place.shape != shape or place.stride not in (None, _contiguous(shape)):
                return None
            parts[name] = Experts(parameter.experts), parameter.transposed
            continue
        expert, offset = divmod(place.offset, shape[1] * shape[2])
        first, column = divmod(offset, shape[2])
        rows = (first, first + place.shape[0])
        if column or place.stride != (shape[2], 1) or place.shape[1] != shape[2]:
            return None
        if parameter.transposed and place.shape != shape[1:]:
            return None
        whole = place.shape == shape[1:]
        one = Experts(parameter.experts, expert, None if whole else rows)
        parts[name] = one, parameter.transposed
    return parts


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[1] * shape[2], shape[2], 1)
