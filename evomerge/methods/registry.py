"""Registers a merge method, as everything else sees it, from a plain function's signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from torch import Tensor

from evomerge.core.errors import UserError, unknown
from evomerge.core.plugins import OWN, installed
from evomerge.methods.parameters import (
    REQUIRED,
    Count,
    ParameterSpec,
    Setting,
    read_annotation,
)
from evomerge.methods.spec import GIVEN as GIVEN
from evomerge.methods.spec import OF_DATA as OF_DATA
from evomerge.methods.spec import MethodSpec as MethodSpec

MethodFunction = TypeVar("MethodFunction", bound=Callable[..., Tensor])
SettingsClass = TypeVar("SettingsClass", bound=type)
METHODS: dict[str, MethodSpec] = {}
ENTRY_POINTS = "evomerge.methods"  # of installed packages; loading one registers its method
_NOT_PARAMETERS = ("base", "models", "random", *GIVEN)
FactorPair = tuple[Tensor, Tensor]  # an adapter's delta: left @ right


def merge_method(
    *, reference: str, in_mergekit: bool = False
) -> Callable[[MethodFunction], MethodFunction]:
    """Register a function of tensors as a merge method, and return the function itself.

    The signature says everything else. These arguments are filled in by the merge:

    models: the models' tensors, all of one shape, whatever it is; annotate it with a `Count`
        unless the method merges any number of models.
    base: the base model's tensor, of the models' shape; ``Tensor | None`` makes it optional.
    random: a `CounterRandom`, for a method that draws random numbers.
    factors: of each model, what a LoRA adapter adds as (B with its scale: rows, r; A: r, columns),
        or ``None`` for a model that is no adapter.
    thresholds: of each model, the least magnitude that the part `density` of the whole model has.
    gram: of each model, the `Gram` of its own rows' inputs to this tensor; ``None`` where the
        tensor multiplies no inputs.
    fisher: of each model, the `Squares` of its own rows' gradients by this tensor.
    base_fisher: that of the base; ``None`` where it has no rows.
    mask: of each model, what each element of its delta is multiplied by, learned along the rows of
        all models.
    recall: ``recall(name, version, make)`` returns what `make` returned for this name and version
        in a candidate before: for tensors, never written to, that follow from the models' tensors,
        what is given of their rows, and the version. Its default is `methods.of_data.made_anew`.

    Every other argument is a parameter of the method, annotated with its type, its `Range` and its
    description (`Doc`), as in `evomerge.methods.parameters`. A trailing underscore is no part of a
    parameter's name (``lambda_`` is `lambda`).

    Args:
        reference: The source, as ``Author year, https://...``.
        in_mergekit: Whether mergekit 0.1.5 has a method of this name, with the same meaning.
    """

    def register(function: MethodFunction) -> MethodFunction:
        spec = _read_function(function, reference, in_mergekit)
        other = METHODS.get(spec.name)
        if other is not None and _origin(other.function) != _origin(function):
            raise UserError(
                f"merge method '{spec.name}' is already registered, by {_origin(other.function)}; "
                "choose another name"
            )
        METHODS[spec.name] = spec
        return function

    return register


def structure(
    name: str,
    *,
    reference: str,
    takes: frozenset[str] = frozenset(),
    data_if: tuple[str, Setting] | None = None,
    takes_base: bool = True,
    max_models: int | None = None,
    brings_code: bool = False,
) -> Callable[[SettingsClass], SettingsClass]:
    """Register a dataclass as the settings of a structure: a merge into a model of another shape.

    Its fields are annotated as the arguments of a `merge_method` are. It takes one model or
    more, and a base; planning makes the tensors (`merge.plan.structures`).

    Args:
        name: As recipes spell it.
        reference: The source, as ``Author year, https://...``.
        takes: What it is given of each model besides its tensors, of `GIVEN`.
        data_if: See `MethodSpec`.
        takes_base: See there, as the next.
        max_models: See there.
        brings_code: See `MethodSpec`.
    """

    def register(settings: SettingsClass) -> SettingsClass:
        docstring = inspect.getdoc(settings) or ""
        METHODS[name] = MethodSpec(
            name=name,
            function=settings,
            parameters=tuple(_read_parameters(settings, name)),
            takes_base=takes_base,
            base_optional=False,
            min_models=1,
            max_models=max_models,
            takes=takes,
            stochastic=False,
            reference=reference,
            summary=docstring.splitlines()[0],
            in_mergekit=False,
            is_structure=True,
            data_if=data_if,
            brings_code=brings_code,
        )
        return settings

    return register


def register_method(
    function: Callable[..., Tensor], *, reference: str, in_mergekit: bool = False
) -> None:
    """Register a function as a merge method without a decorator; see `merge_method`.

    Workers are processes of their own: a study whose workers need it names its file in `methods`.

    Raises:
        UserError: Another method has its name.
    """
    merge_method(reference=reference, in_mergekit=in_mergekit)(function)


def get(name: str) -> MethodSpec:
    """Find a method by name; an unknown one is a `UserError` that lists the known.

    >>> get("ties").parameter("density").default
    1.0
    """
    if name not in METHODS:
        installed(ENTRY_POINTS)
    if name not in METHODS:
        raise UserError(unknown("method", name, METHODS))
    return METHODS[name]


def registered() -> tuple[MethodSpec, ...]:
    """Return every registered method that is a function of tensors, sorted by name."""
    return tuple(METHODS[name] for name in names() if not METHODS[name].is_structure)


def structures() -> tuple[MethodSpec, ...]:
    """Return every registered method that makes a model of another shape, sorted by name."""
    return tuple(METHODS[name] for name in names() if METHODS[name].is_structure)


def names() -> tuple[str, ...]:
    """Return the name of every registered method, sorted, structures among them."""
    installed(ENTRY_POINTS)
    return tuple(sorted(METHODS))


def _read_function(
    function: Callable[..., Tensor], reference: str, in_mergekit: bool
) -> MethodSpec:
    name = function.__name__.rstrip("_")
    docstring = inspect.getdoc(function) or ""
    if not docstring or not reference:
        raise TypeError(f"merge method '{name}' needs a docstring and a reference")
    hints = get_type_hints(function, include_extras=True)
    arguments = inspect.signature(function).parameters
    if "models" not in arguments:
        raise TypeError(f"merge method '{name}' needs an argument 'models'")
    count = _count(hints.get("models"))
    return MethodSpec(
        name=name,
        function=function,
        parameters=tuple(_read_parameters(function, name)),
        takes_base="base" in arguments,
        base_optional=NoneType in get_args(hints.get("base")),
        min_models=count.low,
        max_models=count.high,
        takes=frozenset(GIVEN) & arguments.keys(),
        stochastic="random" in arguments,
        reference=reference,
        summary=docstring.splitlines()[0],
        in_mergekit=in_mergekit,
    )


def _read_parameters(function: Callable[..., Any], name: str) -> Iterator[ParameterSpec]:
    """Yield the parameters that a function's signature, or a dataclass, declares."""
    hints = get_type_hints(function, include_extras=True)
    for argument in inspect.signature(function).parameters.values():
        if argument.name in _NOT_PARAMETERS:
            continue
        if argument.kind not in (argument.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY):
            raise TypeError(f"merge method '{name}': '{argument.name}' must be a named argument")
        if argument.name not in hints:
            raise TypeError(f"merge method '{name}': '{argument.name}' needs an annotation")
        default = REQUIRED if argument.default is argument.empty else argument.default
        spec = read_annotation(argument.name.rstrip("_"), hints[argument.name], default)
        if default is not REQUIRED:
            spec.check(default)
        yield spec


def _origin(function: Callable[..., Tensor]) -> str:
    """Name the place where a function was defined.

    Equal when a notebook cell or a module runs again, and when a file of the user's has changed.
    """
    module = function.__module__
    module = module.rpartition("_")[0] if module.startswith(OWN) else module
    return f"{module}.{function.__qualname__}"


def _count(annotation: Any) -> Count:
    """Return the `Count` of an annotation; one model or more if it has none."""
    if get_origin(annotation) is Annotated:
        for extra in get_args(annotation):
            if isinstance(extra, Count):
                return extra
    return Count(1)
