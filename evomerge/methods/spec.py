"""Describes a merge method as everything else sees it, and applies it to one tensor."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import Tensor

from evomerge.core.errors import UserError, unknown
from evomerge.methods.parameters import Count, ParameterSpec, Setting
from evomerge.methods.random import CounterRandom

# What methods are given beside tensors; `OF_DATA` come from models' own rows of data.
GIVEN = ("factors", "thresholds", "gram", "fisher", "base_fisher", "inputs", "mask", "recall")
OF_DATA = frozenset({"gram", "fisher", "base_fisher", "inputs", "mask", "gates"})


@dataclass(frozen=True)
class MethodSpec:
    """A registered merge method.

    Attributes:
        name: As recipes spell it.
        function: The plain function of tensors; of a structure the class that holds its settings.
        parameters: What can be set, in the order of the signature.
        takes_base: Whether it uses a base model besides the merged ones.
        base_optional: Whether it does without, where there is none.
        min_models: Fewest models it merges, the base not counted.
        max_models: Most models; ``None``: any number.
        takes: What it is given of each model besides its tensors, of `GIVEN`; a structure may
            take `gates`, which are of all models.
        stochastic: Whether it draws random numbers, and so needs a `CounterRandom`.
        reference: The source: author, year, address.
        summary: The first line of the function's docstring.
        in_mergekit: Whether mergekit 0.1.5 has a method of this name.
        is_structure: Whether it makes a model of another shape, whole, instead of each tensor.
        data_if: A parameter, and the value of it for which alone models need rows of data.
        brings_code: Whether the result has a Python file of ours that has to run.
    """

    name: str
    function: Callable[..., Any]
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
    is_structure: bool = False
    data_if: tuple[str, Setting] | None = None
    brings_code: bool = False

    @property
    def needs_data(self) -> bool:
        """True if models need rows of data, which say what of their weights they use."""
        return not self.takes.isdisjoint(OF_DATA)

    def reads_data(self, parameters: Mapping[str, Any]) -> bool:
        """Return whether models need rows of data with these parameters, as a recipe has them.

        A parameter that a space leaves open may take any value.
        """
        if self.data_if is None or not self.needs_data:
            return self.needs_data
        name, value = self.data_if
        chosen = parameters.get(name, self.parameter(name).default)
        return chosen == value or isinstance(chosen, Mapping) or chosen == "search"

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
        result: Tensor = self.function(**arguments)
        return result

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


@cache
def _argument_names(function: Callable[..., Tensor]) -> dict[str, str]:
    """Map a parameter's name to its argument's: {'lambda': 'lambda_', ...}."""
    return {name.rstrip("_"): name for name in inspect.signature(function).parameters}
