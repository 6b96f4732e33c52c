"""Reads a merge method's signature: its parameters, their ranges, the number of models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from numbers import Real
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from torch import Tensor
from typing_extensions import Doc as Doc  # of the standard library once PEP 727 is

from evomerge.core.errors import UserError

ParameterKind = Literal["float", "int", "bool", "choice"]
Setting = float | int | bool | str  # one value of a parameter
Smooth = Literal[False, True, "piecewise"]


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
        low: Low end of the range that a search uses by default.
        high: High end of it.
        valid_low: Smallest value that means anything; ``None``: any finite number does.
        valid_high: Largest value that means anything; ``None``: any finite number does.
        smooth: Whether the merge changes smoothly with it, so that a gradient says how;
            ``piecewise``: it does as long as no elected sign changes.
    """

    low: float
    high: float
    valid_low: float | None = None
    valid_high: float | None = None
    smooth: Smooth = False

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


# What methods annotate their arguments with: the type, the `Range` of a number, and the sentence
# that `evomerge methods` and the documentation print (`Doc`). A method to which a parameter means
# something special annotates it once more: ``Annotated[PerModelDensity, Doc("...")]``; the last
# `Doc` counts. A per-model argument takes one number for every model, or one number that holds for
# all of them; the numbers may be a tensor.
PerModelFloat = float | Sequence[float] | Tensor
Fraction = Annotated[float, Range(0.0, 1.0, valid_low=0.0, valid_high=1.0)]
SmoothFraction = Annotated[float, Range(0.0, 1.0, valid_low=0.0, valid_high=1.0, smooth=True)]

PerModelWeight = Annotated[
    PerModelFloat,
    Range(0.0, 1.0, smooth=True),
    Doc("How much of each model's delta is added; any finite number."),
]
PerModelVote = Annotated[
    PerModelFloat,
    Range(0.0, 1.0, smooth="piecewise"),
    Doc(
        "How much of each model's delta is added, and how much its sign counts; any finite number."
    ),
]
PerModelShare = Annotated[PerModelWeight, Doc("The share of each model; any finite number.")]
PerModelDensity = Annotated[
    PerModelFloat,
    Range(0.0, 1.0, valid_low=0.0, valid_high=1.0),
    Doc(
        "Part of each delta's elements that is kept, those of largest magnitude: 0 keeps none, "
        "more than 0 at least one, 1 all."
    ),
]
PerModelRandomDensity = Annotated[
    PerModelDensity, Doc("Part of each delta's elements that is kept, on average.")
]
Lambda = Annotated[
    float,
    Range(0.0, 2.0, smooth=True),
    Doc("Scale of what is added to the base; any finite number."),
]
Normalize = Annotated[
    bool, Doc("Divide by the sum of the weights, unless its magnitude is below 1e-8.")
]
NormalizeAgreeing = Annotated[
    bool, Doc("Divide each element by the sum of the weights that agree there.")
]
L1Rescale = Annotated[bool, Doc("Give what is left of each delta the L1 norm that it had.")]
DropRescale = Annotated[
    Literal[False, True, "inverse"],
    Doc(
        "true gives each delta back the L1 norm that it had (mergekit's), ``inverse`` divides it "
        "by its density (the paper's, right on average), false does nothing."
    ),
]


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter of a method.

    Attributes:
        name: As recipes spell it (`lambda`, not `lambda_`).
        kind: ``float``, ``int``, ``bool``, or ``choice``: one of `choices`.
        per_model: Whether each merged model has a value to itself.
        low: Low end of the default search range; ``None`` for bool and choice.
        high: High end of it.
        valid_low: Smallest valid value; ``None``: any finite number.
        valid_high: Largest valid value; ``None``: any finite number.
        smooth: Whether the merge changes smoothly with it, see `Range`.
        default: The value when none is given, or `REQUIRED`.
        choices: The values of a choice, ``(False, True)`` for a bool, else empty.
        doc: What it does, in a sentence (`Doc`).
    """

    name: str
    kind: ParameterKind
    per_model: bool = False
    low: float | None = None
    high: float | None = None
    valid_low: float | None = None
    valid_high: float | None = None
    smooth: Smooth = False
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


def read_annotation(name: str, annotation: Any, default: Any) -> ParameterSpec:
    """Derive a parameter's spec from its annotation; a TypeError says what the annotation lacks."""
    base: Any = annotation
    extras: list[Any] = []
    if get_origin(annotation) is Annotated:
        base, *extras = get_args(annotation)
    ranges = [extra for extra in extras if isinstance(extra, Range)]
    docs = [extra.documentation for extra in extras if isinstance(extra, Doc)]
    if not docs:
        raise TypeError(f"parameter '{name}' needs a description: Annotated[..., Doc(\"...\")]")
    doc = docs[-1]
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
    kind: ParameterKind = "int" if base is int else "float"
    per_model = base == PerModelFloat
    return ParameterSpec(name, kind, per_model, **vars(ranges[0]), default=default, doc=doc)


def _as_yaml(value: object) -> str:
    """Return a value as a recipe would spell it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else repr(value) if isinstance(value, str) else str(value)
