"""Checks the parameters of a recipe against its methods, and brings each into its normal form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge import methods
from evomerge.core import schema
from evomerge.core.errors import UserError, unknown
from evomerge.recipe.data import Parameters, Setting


@dataclass(frozen=True)
class _Case:
    """A value for the tensors whose names contain the filter; without one, for all."""

    value: Any
    filter: str | None = None


def normal_parameters(
    parameters: Parameters, used: Sequence[str], where: str, per_model: bool = False
) -> dict[str, Setting]:
    """Return the parameters with numbers as floats and conditional values as lists.

    Args:
        parameters: As written.
        used: The methods that may read them; the first that declares a parameter checks it.
        where: What messages call them.
        per_model: Whether they stand under one model.

    Raises:
        UserError: No method has such a parameter, a value is out of its range, or what holds for
            all models stands under one.
    """
    specs = [methods.get(name) for name in used]
    owners = {p.name: (spec, p) for spec in reversed(specs) for p in spec.parameters}
    result = {}
    for name, setting in parameters.items():
        if name not in owners and name == "int8_mask":
            continue  # of mergekit: how it stores masks, never what comes out
        if name not in owners:
            kind = f"parameter of {', '.join(used)}"
            raise UserError(f"{where}: {unknown(kind, name, owners)}")
        owner, parameter = owners[name]
        if per_model and not parameter.per_model:
            raise UserError(
                f"{where}.{name}: holds for all models at once; move it to the recipe's parameters"
            )
        result[name] = _normal(setting, owner, name, f"{where}.{name}")
    return result


def _normal(setting: Any, owner: methods.MethodSpec, name: str, where: str) -> Setting:
    """Return one setting in normal form: numbers as floats, conditional values as a list."""
    if isinstance(setting, Mapping):
        setting = [setting]
    if not isinstance(setting, list):
        return _scalar(setting, owner, name, where)
    if not setting:
        raise UserError(f"{where}: expected at least one value, but got []")
    if not any(isinstance(item, Mapping) for item in setting):
        return [_scalar(item, owner, name, where) for item in setting]
    cases = []
    for item in setting:
        case = schema.read(_Case, item, where)
        inner = case.value if isinstance(case.value, list) else [case.value]
        if any(isinstance(one, Mapping | list) for one in inner):
            raise UserError(
                f"{where}: expected a value or a list of values beside the filter, got "
                f"{case.value!r}"
            )
        value = _normal(case.value, owner, name, where)
        cases.append({"value": value, **({"filter": case.filter} if case.filter else {})})
    return cases


def _scalar(value: Any, owner: methods.MethodSpec, name: str, where: str) -> Any:
    try:
        return owner.check(name, value)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except OverflowError:
        raise UserError(f"{where}: expected a number that a float holds") from None
