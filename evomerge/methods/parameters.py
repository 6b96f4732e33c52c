"""Reads a merge method's signature: its parameters, their ranges, the number of models."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from inspect import cleandoc
from numbers import Real
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from torch import Tensor

from evomerge.core.errors import UserError

Kind = Literal["float", "int", "bool", "choice"]
Setting = float | int | bool | str  # one value of a parameter


class _Required(Enum):
    REQUIRED = "required"

    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED: Final = _Required.REQUIRED  # the default of a parameter that has none


def _violates(value: float, low: float | None, high: float | None) -> bool:
    """Return whether `value` lies outside [low, high], where ``None`` is no limit."""
    return (low is not None and value < low) or (high is not None and value > high)


@dataclass(frozen=True)
class Range:
    """The range a number is searched in by default, and the limits outside which it is a mistake.

    Attributes:
        low: Low end of the range that a search uses unless told otherwise.
        high: High end of it.
        valid_low: Smallest value that means anything; ``None``: any finite number does.
        valid_high: Largest value that means anything; ``None``: any finite number does.
    """

    low: float
    high: float
    valid_low: float | None = None
    valid_high: float | None = None

    def __post_init__(self) -> None:
        ends = (self.low, self.high)
        if not (all(map(math.isfinite, ends)) and self.low <= self.high):
            raise ValueError(f"`low <= high` must hold, but got (low={self.low}, high={self.high})")
        if any(_violates(end, self.valid_low, self.valid_high) for end in ends):
            raise ValueError(f"the search range must lie within the valid range, but got {self}")


@dataclass(frozen=True)
class Count:
    """The number of models that a method merges: from `low` to `high`; ``None``: any number."""

    low: int
    high: int | None = None

    def __str__(self) -> str:
        if self.high is None:
            return f"at least {self.low} model{'s' if self.low != 1 else ''}"
        if self.low == self.high:
            return f"exactly {self.low} model{'s' if self.low != 1 else ''}"
        return f"{self.low} to {self.high} models"


# What methods annotate their arguments with. A per-model argument takes one number for every
# model, or one number that holds for all of them; the numbers may be a tensor.
PerModelFloat = float | Sequence[float] | Tensor
PerModelWeight = Annotated[PerModelFloat, Range(0.0, 1.0)]
PerModelDensity = Annotated[PerModelFloat, Range(0.0, 1.0, valid_low=0.0, valid_high=1.0)]
PerModelScale = Annotated[PerModelFloat, Range(0.0, 2.0)]
Lambda = Annotated[float, Range(0.0, 2.0)]
Fraction = Annotated[float, Range(0.0, 1.0, valid_low=0.0, valid_high=1.0)]
PerModelSpread = Annotated[PerModelFloat, Range(0.0, 0.5, valid_low=0.0, valid_high=1.0)]
PerModelOutliers = Annotated[PerModelFloat, Range(0.0, 0.1, valid_low=0.0, valid_high=1.0)]
DropRescale = Literal[False, True, "inverse"]


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter of a method.

    Attributes:
        name: As recipes spell it (`lambda`, not `lambda_`).
        kind: ``float``, ``int``, ``bool``, or ``choice``: one of `choices`.
        per_model: Whether each merged model has its own value.
        low: Low end of the default search range; ``None`` for bool and choice.
        high: High end of it.
        valid_low: Smallest valid value; ``None``: any finite number.
        valid_high: Largest valid value; ``None``: any finite number.
        default: The value when none is given, or `REQUIRED`.
        choices: The values of a choice, ``(False, True)`` for a bool, else empty.
        doc: The sentence about it in the method's docstring.
    """

    name: str
    kind: Kind
    per_model: bool = False
    low: float | None = None
    high: float | None = None
    valid_low: float | None = None
    valid_high: float | None = None
    default: Setting | _Required = REQUIRED
    choices: tuple[Setting, ...] = ()
    doc: str = ""

    @property
    def required(self) -> bool:
        """Return whether a recipe must give it."""
        return self.default is REQUIRED

    @property
    def expected(self) -> str:
        """Describe a valid value in words: ``a number in [0, 1]``, ``true or false``."""
        if self.kind == "bool":
            return "true or false"
        if self.kind == "choice":
            return "one of " + ", ".join(_as_yaml(choice) for choice in self.choices)
        noun = "a number" if self.kind == "float" else "a whole number"
        if self.valid_low is None and self.valid_high is None:
            return "a finite number" if self.kind == "float" else noun
        if self.valid_low is None:
            return f"{noun} of at most {self.valid_high:g}"
        if self.valid_high is None:
            return f"{noun} of at least {self.valid_low:g}"
        return f"{noun} in [{self.valid_low:g}, {self.valid_high:g}]"

    def check(self, value: object) -> Setting:
        """Return one value (one model's, if per model) in its canonical type, or say what it isn't.

        A float may be written as a whole number, a whole number as 3.0, a truth as 0 or 1
        (mergekit recipes do); nan and infinity are never valid.

        Raises:
            UserError: With a message that starts at the parameter's name.
        """
        converted = self._convert(value)
        if converted is None:
            raise UserError(f"{self.name} must be {self.expected}, but got {_as_yaml(value)}")
        return converted

    def _convert(self, value: object) -> Setting | None:
        if self.kind in ("bool", "choice"):
            for choice in self.choices:
                if type(value) is type(choice) and value == choice:
                    return choice
            truth = next((c for c in self.choices if isinstance(c, bool) and c == value), None)
            return truth if isinstance(value, Real) else None
        if isinstance(value, bool) or not isinstance(value, Real):
            return None
        number = float(value)
        if not math.isfinite(number) or _violates(number, self.valid_low, self.valid_high):
            return None
        if self.kind == "int":
            return int(number) if number.is_integer() else None
        return number


def one_per_model(name: str, values: PerModelFloat, n_models: int) -> list[float]:
    """Give each model its number: one number is repeated, a sequence must have one per model.

    >>> one_per_model("density", 0.5, 3)
    [0.5, 0.5, 0.5]
    """
    numbers: float | Sequence[float] = values.tolist() if isinstance(values, Tensor) else values
    if isinstance(numbers, (int, float)):
        return [float(numbers)] * n_models
    if len(numbers) != n_models:
        raise UserError(
            f"expected {name} to have {n_models} value{'s' if n_models != 1 else ''} "
            f"(one per model), but it had {len(numbers)}"
        )
    return [float(number) for number in numbers]


def read_annotation(name: str, annotation: Any, default: Any, doc: str) -> ParameterSpec:
    """Derive a parameter's spec from its annotation, or raise TypeError saying what it lacks."""
    base, ranges = annotation, []
    if get_origin(annotation) is Annotated:
        base, *extras = get_args(annotation)
        ranges = [extra for extra in extras if isinstance(extra, Range)]
    if base is bool:
        return ParameterSpec(name, "bool", default=default, choices=(False, True), doc=doc)
    if get_origin(base) is Literal:
        return ParameterSpec(name, "choice", default=default, choices=get_args(base), doc=doc)
    if base is not int and base is not float and base != PerModelFloat:
        raise TypeError(
            f"parameter '{name}' must be annotated as float, int, bool, Literal[...] or "
            f"PerModelFloat, but it is {annotation!r}"
        )
    if len(ranges) != 1:
        raise TypeError(f"parameter '{name}' needs exactly one Range in Annotated[...]")
    kind: Kind = "int" if base is int else "float"
    per_model = base == PerModelFloat
    return ParameterSpec(name, kind, per_model, **vars(ranges[0]), default=default, doc=doc)


def argument_docs(docstring: str) -> dict[str, str]:
    """Read the ``Args:`` section of a Google docstring: what it says of each argument.

    >>> argument_docs("Do it.\\n\\nArgs:\\n    t: From 0\\n        to 1.\\n    k: A count.")
    {'t': 'From 0 to 1.', 'k': 'A count.'}
    """
    docs: dict[str, str] = {}
    _, _, section = cleandoc(docstring).partition("\nArgs:\n")
    name = ""
    for line in section.splitlines():
        if line and not line.startswith(" "):
            break  # the next section
        entry = re.match(r" {4}(\w+):\s*(.*)", line)
        if entry:
            name = entry[1]
            docs[name] = entry[2].strip()
        elif name and line.strip():
            docs[name] = f"{docs[name]} {line.strip()}".strip()
    return docs


def _as_yaml(value: object) -> str:
    """A value as a recipe would spell it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else repr(value) if isinstance(value, str) else str(value)
