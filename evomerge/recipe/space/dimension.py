"""An optimizer searches dimensions; a point has a value for each of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

Value = float | int | bool | str
Point = tuple[Value, ...]
Clause = tuple[tuple[str, tuple[Value, ...]], ...]  # (dimension, its values that suit), ...


@dataclass(frozen=True)
class Dimension:
    """One coordinate of a search space.

    Attributes:
        name: Where its value goes in the recipe, e.g. ``models[a].weight[2]``; unique in a space.
        kind: ``float`` and ``int`` take values in [low, high]; ``categorical`` one of `choices`.
        low: Smallest value (unused for categories).
        high: Largest value (unused for categories).
        log: Search the range on a logarithmic scale (then ``low > 0``).
        choices: The values of a category, in order; booleans are categories of two.
        initial: The value at which a search starts; ``None`` means the middle of the range, or the
            first choice.
        needs: Activation condition in conjunctive normal form: every clause must hold; a clause
            holds if any (dimension, values) pair in it matches. Empty means always active.
        parameter: What it sets: a method's parameter, ``merge_method`` or ``include``.
        model: Whose parameter it is, by the short name that stands in `name`; ``None`` for all.
        block: Which block it belongs to, as written in `name`; ``None`` for the whole recipe.
        layers: The block's layers [first, end); ``None`` if it names none.
        gradient: The name that all knots of its gradient share; ``None`` if it is no knot.
        knot: Its index in the gradient, from the first layer on; ``None`` if it is no knot.
        group: The name without layers and knot: what it sets, at whatever depth.
    """

    name: str
    kind: Literal["float", "int", "categorical"] = "float"
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: tuple[Value, ...] = ()
    initial: Value | None = None
    needs: tuple[Clause, ...] = ()
    parameter: str = ""
    model: str | None = None
    block: str | None = None
    layers: tuple[int, int] | None = None
    gradient: str | None = None
    knot: int | None = None
    group: str = ""

    def __post_init__(self) -> None:
        if self.kind == "categorical":
            if not self.choices:
                raise ValueError(f"dimension {self.name}: a category needs at least one choice")
        elif not self.low <= self.high:
            raise ValueError(
                f"dimension {self.name}: `low <= high` must hold, "
                f"but got (low={self.low}, high={self.high})"
            )
        elif self.log and not self.low > 0:
            raise ValueError(
                f"dimension {self.name}: `low > 0` must hold for a logarithmic range, "
                f"but got (low={self.low})"
            )

    def contains(self, value: Value) -> bool:
        """Say whether `value` lies in the range, or is one of the choices."""
        if self.kind == "categorical":
            return any(value == choice and type(value) is type(choice) for choice in self.choices)
        if isinstance(value, str):
            return False
        return self.low <= value <= self.high

    def position(self, value: Any) -> float:
        """Return the position of a value in its range, 0 to 1; a choice's by its index.

        >>> Dimension("a", low=1.0, high=100.0, log=True).position(10.0)
        0.5
        """
        if self.kind == "categorical":
            return self.choices.index(value) / max(1, len(self.choices) - 1)
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (float(value) - low) / (high - low) if high > low else 0.5

    @property
    def start(self) -> Value:
        """The initial value, or the middle of the range, or the first choice."""
        if self.initial is not None:
            return self.initial
        if self.kind == "categorical":
            return self.choices[0]
        middle = (self.low * self.high) ** 0.5 if self.log else (self.low + self.high) / 2
        if self.kind == "int":
            return min(max(round(middle), math.ceil(self.low)), math.floor(self.high))
        return middle
