"""Registers a merge method, as everything else sees it, from a plain function's signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
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
from evomerge.methods.random import CounterRandom

MethodFunction = TypeVar("MethodFunction", bound=Callable[..., Tensor])
METHODS: dict[str, MethodSpec] = {}
ENTRY_POINTS = "evomerge.methods"  # of installed packages; loading one registers its method
# What methods are given beside tensors; the last three come from models' own rows of data.
GIVEN = ("factors", "thresholds", "gram", "fisher", "base_fisher")
OF_DATA = frozenset({"gram", "fisher", "base_fisher"})
_NOT_PARAMETERS = ("base", "models", "random", *GIVEN)
FactorPair = tuple[Tensor, Tensor]  # an adapter's delta: left @ right


@dataclass(frozen=True)
class MethodSpec:
    """A registered merge method.

    Attributes:
        name: As recipes spell it.
        function: The plain function of tensors.
        parameters: What can be set, in the order of the signature.
        takes_base: Whether it uses a base model besides the merged ones.
        base_optional: Whether it does without, where there is none.
        min_models: Fewest models it merges, the base not counted.
        max_models: Most models; ``None``: any number.
        takes: What it is given of each model besides its tensors, of `GIVEN`.
        stochastic: Whether it draws random numbers, and so needs a `CounterRandom`.
        reference: The source: author, year, address.
        summary: The first line of the function's docstring.
        in_mergekit: Whether mergekit 0.1.5 has a method of this name.
    """

    name: str
    function: Callable[..., Tensor]
    parameters: tuple[ParameterSpec, ...]
    takes_base: bool
    base_optional: bool
    min_models: int
    max_models: int | None
    takes: frozenset[str]
    stochastic: bool
    reference: str
    summary: str
    in_mergekit: bool

    @property
    def needs_data(self) -> bool:
        """Whether models need rows of data, which say what of their weights they use."""
        return not self.takes.isdisjoint(OF_DATA)

    def parameter(self, name: str) -> ParameterSpec:
        """Find a parameter by name; an unknown one is a `UserError` that lists the known."""
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        known = [parameter.name for parameter in self.parameters]
        raise UserError(f"{self.name}: {unknown('parameter', name, known)}")

    def check(self, name: str, value: object) -> Setting:
        """Return one value of a parameter in its canonical type.

        For a per-model parameter, that is the value of one model.

        Raises:
            UserError: If there is no such parameter, or the value is not valid for it.
        """
        parameter = self.parameter(name)
        try:
            return parameter.check(value)
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from None

    def check_models(self, count: int) -> None:
        """Raise `UserError` unless the method can merge `count` models (the base not counted)."""
        if count < self.min_models or (self.max_models is not None and count > self.max_models):
            beside = " besides the base" if self.takes_base else ""
            expected = Count(self.min_models, self.max_models)
            raise UserError(f"{self.name}: expected {expected}{beside}, but got {count}")

    def apply(
        self,
        base: Tensor | None,
        models: Sequence[Tensor],
        parameters: Mapping[str, object],
        random: CounterRandom | None = None,
        given: Mapping[str, object] | None = None,
    ) -> Tensor:
        """Check everything, then merge one tensor.

        Args:
            base: The base model's tensor; ignored by a method that takes no base, ``None`` if
                there is none (an error where the method needs it).
            models: The merged models' tensors, all of one shape (any shape).
            parameters: By name; for a per-model parameter a sequence with one value per model, or
                one value for all. A tensor is taken as it is, unchecked.
            random: Where the random numbers come from; needed if the method is stochastic.
            given: What the method `takes`, by name: a sequence with one for each model.

        Returns:
            A new tensor of the inputs' shape and dtype; the inputs are left as they were.

        Raises:
            UserError: If the models, the base or the parameters are not what the method expects.
        """
        self.check_models(len(models))
        arguments: dict[str, Any] = {"models": models}
        if self.takes_base:
            if base is None and not self.base_optional:
                raise UserError(f"{self.name}: expected a base model, but there is none")
            arguments["base"] = base
        if self.stochastic:
            if random is None:
                raise TypeError(f"{self.name} draws random numbers and needs `random`")
            arguments["random"] = random
        arguments |= {name: value for name, value in (given or {}).items() if name in self.takes}
        self._check_shapes([base, *models] if self.takes_base and base is not None else models)
        argument_of = _argument_names(self.function)
        for name, value in parameters.items():
            arguments[argument_of[self.parameter(name).name]] = self._check_values(
                name, value, models
            )
        for parameter in self.parameters:
            if parameter.required and parameter.name not in parameters:
                raise UserError(
                    f"{self.name}: missing parameter '{parameter.name}': {parameter.expected}"
                    + (" for each model" if parameter.per_model else "")
                )
        return self.function(**arguments)

    def _check_values(self, name: str, value: object, models: Sequence[Tensor]) -> object:
        if isinstance(value, Tensor):
            return value
        if isinstance(value, str) or not isinstance(value, Sequence):
            return self.check(name, value)
        if not self.parameter(name).per_model:
            raise UserError(f"{self.name}: expected one value of {name}, but got {list(value)}")
        if len(value) != len(models):
            raise UserError(
                f"{self.name}: expected {name} to have {len(models)} "
                f"value{'s' if len(models) != 1 else ''} (one per model), but it had {len(value)}"
            )
        return [self.check(name, one) for one in value]

    def _check_shapes(self, tensors: Sequence[Tensor]) -> None:
        shapes = [tuple(tensor.shape) for tensor in tensors]
        if len(set(shapes)) > 1:
            raise UserError(f"{self.name}: expected tensors of one shape, but got {shapes}")


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
    """Return every registered method, sorted by name."""
    return tuple(METHODS[name] for name in names())


def names() -> tuple[str, ...]:
    """Return the name of every registered method, sorted."""
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
    parameters = []
    for argument in arguments.values():
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
        parameters.append(spec)
    count = _count(hints.get("models"))
    return MethodSpec(
        name=name,
        function=function,
        parameters=tuple(parameters),
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


@cache
def _argument_names(function: Callable[..., Tensor]) -> dict[str, str]:
    """Map a parameter's name to its argument's: {'lambda': 'lambda_', ...}."""
    return {name.rstrip("_"): name for name in inspect.signature(function).parameters}
