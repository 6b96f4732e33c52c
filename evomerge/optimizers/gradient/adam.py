"""Adam follows the gradient of a loss, one point after another.

Kingma 2015, https://arxiv.org/abs/1412.6980; the decay is decoupled from the gradient, as in AdamW
(Loshchilov 2019, https://arxiv.org/abs/1711.05101), and leads towards the start instead of 0. For
coefficients of merges: Yang 2024, https://arxiv.org/abs/2310.02575 (AdaMerging).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.core.errors import UserError
from evomerge.optimizers.checks import share_of_range, whole_number
from evomerge.optimizers.coordinates import rounded
from evomerge.optimizers.optimizer import Optimizer
from evomerge.recipe.space.dimension import Dimension, Point

Floats = NDArray[np.float64]
LOSSES = ("answers", "margin", "entropy", "line", "dpo")
_TINY = 1e-12  # keeps a gradient of 0 from dividing by 0


class Adam(Optimizer):
    """Steps down the gradient: m and v are running means of it and of its square.

    x <- x - lr m / sqrt(v) - lr decay (x - start), within the ranges

    Dimensions of whole numbers, of choices, and those without a gradient stay where they start.
    A point whose gradient could not be had is taken back half the way, and steps are half as long
    from then on.

    Args:
        lr: The first step along each dimension, in its own units (on a logarithmic scale for a
            logarithmic one), but at most this share of its range.
        steps: How many points it asks for; then it stops. ``None`` goes on while it is asked.
        loss: What the gradient is of: ``answers``, the cross entropy of the right answers;
            ``margin``, the smooth score; ``entropy``, that of what the model says by itself, which
            takes no right answers (AdaMerging); ``line``, of ``answers`` at five points on the line
            from each task's best parent (MC-SGD); ``dpo``, of tasks of preferences (SOMF).
        decay: How strongly it is drawn back to the start.
        beta1: Weight of the past in m.
        beta2: Weight of the past in v.
        piecewise: Whether to follow weights that elect signs (TIES), as if no sign changed.
        population: 1 point, nothing else.
        seed: Without effect: nothing is drawn.
    """

    any_space = False
    learns_from_gradients = True

    def __init__(
        self,
        lr: float = 0.1,
        steps: int | None = None,
        loss: str = "answers",
        decay: float = 0.0,
        beta1: float = 0.9,
        beta2: float = 0.999,
        piecewise: bool = False,
        population: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(population=population, seed=seed)
        self._lr = share_of_range("Adam lr", lr)
        self._steps = None if steps is None else whole_number("Adam steps", steps, 1)
        self._decay = _number("decay", decay, 0.0, math.inf)
        self._betas = _number("beta1", beta1, 0.0, 1.0), _number("beta2", beta2, 0.0, 1.0)
        if loss not in LOSSES:
            raise UserError(f"Adam loss: expected one of {', '.join(LOSSES)}, but got {loss!r}")
        if not isinstance(piecewise, bool):
            raise UserError(f"Adam piecewise: expected true or false, but got {piecewise!r}")
        self.loss, self.piecewise = loss, piecewise

    @property
    def mean(self) -> Point | None:
        """The mean of the last half of the points whose gradient is known."""
        self._check_started("mean")
        if not self._path:
            return self._initial
        last = self._path[len(self._path) // 2 :]
        return self._point(np.mean(last, axis=0))

    @property
    def milestones(self) -> list[Point]:
        """The points a quarter, half, three quarters of the way, and the last one."""
        self._check_started("milestones")
        n = len(self._path)
        return [self._point(self._path[math.ceil(n * k / 4) - 1]) for k in range(1, 5)] if n else []

    @property
    def stopped(self) -> str | None:
        """The reason for stopping: all steps are taken."""
        self._check_started("stopped")
        if self._steps is None or self._asked_for < self._steps:
            return None
        return f"{self._steps} steps"

    def _choose_population(self, population: int | None) -> int:
        chosen = self._population_option if population is None else population
        return whole_number("search population for Adam", 1 if chosen is None else chosen, 1, 1)

    def _begin(self) -> None:
        dimensions = self._coordinates.dimensions
        self._free = [i for i, d in enumerate(dimensions) if d.kind == "float" and d.low < d.high]
        if not self._free:
            raise UserError(
                "Adam follows gradients, but no dimension is a number in a range: set "
                "search.optimizer: catcma"
            )
        lows = np.array([_scaled(dimensions[i], dimensions[i].low) for i in self._free])
        highs = np.array([_scaled(dimensions[i], dimensions[i].high) for i in self._free])
        self._lows, self._highs = lows, highs
        self._start = np.array([_scaled(dimensions[i], self._initial[i]) for i in self._free])
        self._at = self._start.copy()
        self._step = self._lr * np.minimum(1.0, highs - lows)  # (free,)
        self._m, self._v = np.zeros(len(self._free)), np.zeros(len(self._free))
        self._asked_for = self._learned = 0
        self._path: list[Floats] = []

    def _propose(self) -> list[Point]:
        return [self._point(self._at)]

    def _learn(self, fitness: list[float | None]) -> None:
        self._asked_for += 1
        gradient = self._loss_gradients[0]
        if fitness[0] is None or gradient is None:
            back = self._path[-1] if self._path else self._start
            self._at, self._step = (self._at + back) / 2, self._step / 2
            return
        self._path.append(self._at)
        self._learned += 1
        dimensions = self._coordinates.dimensions
        g = np.array(
            [gradient[i] * (x if dimensions[i].log else 1.0) for i, x in self._values()],
            dtype=np.float64,
        )
        b1, b2 = self._betas
        self._m = b1 * self._m + (1 - b1) * g
        self._v = b2 * self._v + (1 - b2) * g * g
        m = self._m / (1 - b1**self._learned)
        v = self._v / (1 - b2**self._learned)
        moved = self._at - self._step * (m / (np.sqrt(v) + _TINY))
        moved -= self._step * self._decay * (self._at - self._start)
        self._at = np.clip(moved, self._lows, self._highs)

    def _values(self) -> list[tuple[int, float]]:
        """Return each free dimension's index and value."""
        point = self._point(self._at)
        return [(i, float(point[i])) for i in self._free]

    def _point(self, at: Floats) -> Point:
        values = list(self._initial)
        for i, value in zip(self._free, at.tolist(), strict=True):
            dimension = self._coordinates.dimensions[i]
            values[i] = rounded(dimension, math.exp(value) if dimension.log else value)
        return tuple(values)


def _scaled(dimension: Dimension, value: Any) -> float:
    return math.log(value) if dimension.log else float(value)


def _number(name: str, value: Any, low: float, high: float) -> float:
    right = isinstance(value, int | float) and not isinstance(value, bool)
    if not right or not low <= value < high:
        raise UserError(f"Adam {name}: expected a number in [{low:g}, {high:g}), but got {value!r}")
    return float(value)
