"""Weights on the simplex: the models' shares are the softmax of the dimensions, and sum to 1.

    w_i = exp(x_i) / sum_j exp(x_j)

A hole with ``simplex: true`` is the x of its model; with `knots` or `per` there is a softmax for
each knot or group. Wortsman 2022, https://arxiv.org/abs/2203.05482 (the learned soup).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from evomerge.core.errors import UserError
from evomerge.recipe.space import labels
from evomerge.recipe.space.dimension import Dimension, Point, Value

RANGE = (-5.0, 5.0)  # of x: of two models, the smaller share can be 5e-5
Simplices = Sequence[Sequence[int]]  # of each simplex, the indices of its dimensions


class _Hole(Protocol):
    """The part of a `holes.Hole` that is read here."""

    @property
    def path(self) -> labels.DocumentPath:
        """Where it stands."""

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """What fills it."""

    @property
    def simplex(self) -> bool:
        """Whether its values are softmaxed."""


def opened(value: Mapping[str, Any], path: labels.DocumentPath, at: str) -> dict[str, Any]:
    """Return a hole with ``simplex: true`` with the range of x where it gives none.

    Raises:
        UserError: It is no model's parameter, or `simplex` is no truth.
    """
    if type(value["simplex"]) is not bool:
        raise UserError(f"{at}: simplex: expected true or false, but got {value['simplex']!r}")
    if not value["simplex"]:
        return dict(value)
    if "models" not in path or path[-1] != "weight":
        raise UserError(
            f"{at}: simplex: expected the weight of a model, in the model's own parameters"
        )
    if value.get("log"):
        raise UserError(f"{at}: simplex: expected no log beside it: shares are exponentials anyway")
    return {"low": RANGE[0], "high": RANGE[1], "initial": 0.0, **value}


def simplices(document: dict[str, Any], holes: Sequence[_Hole], where: str) -> Simplices:
    """Return the simplices of a space: the dimensions at one knot or group, of all models.

    Raises:
        UserError: A simplex has only one model, models whose holes differ, or models that may be
            left out.
    """
    rows: dict[labels.DocumentPath, list[tuple[int, int]]] = {}
    first = 0
    for hole in holes:
        if hole.simplex:
            at = len(hole.path) - 1 - hole.path[::-1].index("models")
            key = (*hole.path[: at + 1], *hole.path[at + 2 :])
            rows.setdefault(key, []).append((first, len(hole.dimensions)))
        elif hole.path[-1] == "include" and any(one.simplex for one in holes):
            raise UserError(
                f"{where}: simplex: expected every model to take part, but "
                f"{labels.label(document, hole.path)} may leave one out: drop include"
            )
        first += len(hole.dimensions)
    groups: list[list[int]] = []
    for starts in rows.values():
        counts = {count for _, count in starts}
        if len(starts) < 2 or len(counts) > 1:
            raise UserError(
                f"{where}: simplex: expected two models or more whose weights have the same "
                f"`knots` or `per`, but {len(starts)} with {sorted(counts)} values"
            )
        groups += [[start + k for start, _ in starts] for k in range(counts.pop())]
    return groups


def shares(simplices: Simplices, point: Sequence[Value]) -> list[Value]:
    """Return the point with the softmax of each simplex in place of its dimensions' values.

    >>> shares([[0, 2]], [0.0, 0.7, math.log(3.0)])
    [0.25, 0.7, 0.75]
    """
    values = list(point)
    for members in simplices:
        for j, share in zip(members, _softmax(point, members).tolist(), strict=True):
            values[j] = share
    return values


def from_shares(simplices: Simplices, values: Sequence[Value]) -> list[Value] | None:
    """Return the point whose `shares` these are up to a scale: ln w_i, less its mean.

    Returns:
        ``None`` if a share is not positive: the softmax never is 0.
    """
    point = list(values)
    for members in simplices:
        weights = [float(values[j]) for j in members]
        if min(weights) <= 0:
            return None
        logs = np.log(weights)
        for j, x in zip(members, (logs - logs.mean()).tolist(), strict=True):
            point[j] = x
    return point


def pulled_back(simplices: Simplices, point: Point, gradient: Sequence[float]) -> list[float]:
    """Return the derivative by x, given that by the shares.

        dL/dx_j = w_j (dL/dw_j - sum_i w_i dL/dw_i)

    >>> pulled_back([[0, 1]], (0.0, 0.0), [3.0, 1.0])
    [0.5, -0.5]
    """
    result = list(gradient)
    for members in simplices:
        w = _softmax(point, members)
        g = np.array([gradient[j] for j in members])
        for j, value in zip(members, (w * (g - w @ g)).tolist(), strict=True):
            result[j] = value
    return result


def _softmax(point: Sequence[Value], members: Sequence[int]) -> np.ndarray[Any, np.dtype[Any]]:
    x = np.array([float(point[j]) for j in members])
    powers = np.array([math.exp(value) for value in (x - x.max()).tolist()])
    return powers / math.fsum(powers)
