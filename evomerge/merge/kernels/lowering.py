"""Turns a method and its parameters into an `Operation`, for the methods that one pass can do.

What an operation does is the plain function's own arithmetic: the conformance test holds the two
equal to the bit. A method, or a rare option, without an operation runs as the plain function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evomerge.core.errors import UserError
from evomerge.merge.kernels.delta import Delta
from evomerge.merge.kernels.operation import Dropping, Kernels, Kind, Operation, Part, close_bracket
from evomerge.merge.kernels.ranking import EVERYTHING, NOTHING, Bracket
from evomerge.merge.kernels.statistics import Statistics
from evomerge.methods import CounterRandom
from evomerge.methods.deltas import (
    Aggregate,
    Consensus,
    ZeroSign,
    adds_nothing,
    kept_count,
    l1_ratio,
    usable_sum,
)
from evomerge.methods.nuslerp import arc_weights as nuslerp_weights
from evomerge.methods.nuslerp import cosine as nuslerp_cosine
from evomerge.methods.nuslerp import share_of_second
from evomerge.methods.parameters import DropRescale
from evomerge.methods.slerp import arc_weights as slerp_weights
from evomerge.methods.slerp import cosine as slerp_cosine


class Inputs(NamedTuple):
    """The inputs of one tensor's merge.

    Attributes:
        base: Flat, as stored, or ``None``.
        models: Flat, as stored.
        keys: Identify base and models among the tensors of the process.
        working: The dtype that they are rounded to.
        random: Source of chance, for methods that need it.
        statistics: What has been computed of them already.
        kernels: Compute the rest.
    """

    base: Tensor | None
    models: Sequence[Tensor]
    keys: tuple[object, ...]
    working: torch.dtype
    random: CounterRandom | None
    statistics: Statistics
    kernels: Kernels

    @property
    def size(self) -> int:
        """Elements of the tensor."""
        return self.models[0].numel()

    def delta(self, index: int) -> Delta:
        """Return one model's delta."""
        return Delta(self.base, self.models[index], self.working)

    def top(self, index: int, count: int) -> Bracket | None:
        """Return the end of the `kept` largest elements of a model's delta.

        ``None``: all are kept.
        """
        if count <= 0:
            return Bracket(NOTHING, NOTHING)
        if count >= self.size:
            return None
        key = (self.keys[0], self.keys[1 + index], self.working)
        return self.statistics.ranking(key, lambda: self.delta(index)).largest(count)

    def band(self, index: int, density: float, gamma: float) -> Part:
        """Return a model without its outliers and without its smallest elements (trim_outliers)."""
        model, keep = self.models[index], int(density * self.size)
        reach = min(self.size, keep + int(gamma * self.size))
        part = self.closed(Part(model, bracket=self.top(index, reach)))
        if reach == keep:
            return part
        outliers = self.closed(Part(model, bracket=self.top(index, reach - keep))).bracket
        everything = Bracket(EVERYTHING, EVERYTHING)
        return part._replace(
            bracket=part.bracket or everything, outlier=(outliers or everything).sure
        )

    def operation(self, kind: Kind, parts: Sequence[Part], **more: Any) -> Operation:
        """Return an operation on the base."""
        return Operation(kind, self.base, parts, self.working, **more)

    def closed(self, part: Part) -> Part:
        """Return a part whose bracket is closed."""
        return close_bracket(part, self.operation("pruned", [part]), self.kernels)

    def rescaled(self, index: int, part: Part) -> Part:
        """Scale a part such that its delta keeps the L1 norm that it has before the mask."""
        part = self.closed(part)
        key = ("l1", self.keys[0], self.keys[1 + index], self.working)
        before = self.statistics.scalar(key, lambda: self._norm(index, Part(part.model)))
        return part._replace(scale=float(l1_ratio(before, self._norm(index, part))))

    def _norm(self, index: int, part: Part) -> Tensor:
        norm = self.kernels.norm(self.delta(index), part)
        assert norm is not None
        return norm


def operation_of(method: str, inputs: Inputs, parameters: Mapping[str, Any]) -> Operation | None:
    """Return the operation that a method comes to; ``None`` if it has none.

    Raises:
        UserError: The method refuses its parameters; the message starts with the method's name.
    """
    make = _OPERATIONS.get(method)
    if make is None or inputs.size == 0:
        return None
    given = dict(parameters)
    if "lambda" in given:
        given["lambda_"] = given.pop("lambda")
    return make(inputs, **given)


def _copied(inputs: Inputs, model: Tensor | None = None) -> Operation:
    """Return the base's own values, or a model's."""
    if model is None:
        return inputs.operation("copied", [Part(inputs.models[0])])
    return Operation("copied", None, [Part(model)], inputs.working)


def _linear(inputs: Inputs, weight: Sequence[float], normalize: bool) -> Operation:
    total = float(torch.tensor(weight).sum())
    if normalize and total == 0:
        raise UserError(
            f"linear: expected weights whose sum is not 0, but got {list(weight)}: "
            "change a weight, or set normalize to false"
        )
    parts = [Part(m, w) for m, w in zip(inputs.models, weight, strict=True)]
    return Operation("linear", None, parts, inputs.working, total if normalize else None)


def _passthrough(inputs: Inputs, scale: Sequence[float]) -> Operation:
    (model,), (factor,) = inputs.models, scale
    if factor == 1:
        return _copied(inputs, model)
    return Operation("scaled", None, [Part(model, factor)], inputs.working)


def _magnitude_prune(inputs: Inputs, density: Sequence[float]) -> Operation | None:
    (model,), (part,) = inputs.models, density
    count = kept_count(part, inputs.size)
    if count == 0:
        return None
    return Operation("pruned", None, [Part(model, bracket=inputs.top(0, count))], inputs.working)


def _wise_ft(inputs: Inputs, alpha: float) -> Operation:
    assert inputs.base is not None
    if alpha in (0, 1):
        return _copied(inputs, inputs.models[0] if alpha else None)
    parts = [Part(inputs.base, 1 - alpha), Part(inputs.models[0], alpha)]
    return Operation("pair", None, parts, inputs.working)


def _slerp(inputs: Inputs, t: float) -> Operation:
    assert inputs.base is not None
    if t in (0, 1):
        return _copied(inputs, inputs.models[0] if t else None)
    pair = (inputs.base, inputs.models[0])
    angle = inputs.statistics.scalar(
        ("slerp", *inputs.keys, inputs.working),
        lambda: slerp_cosine(*(Delta(None, m, inputs.working).part(0, inputs.size) for m in pair)),
    )
    weights = slerp_weights(angle, t)
    parts = [Part(m, float(w)) for m, w in zip(pair, weights, strict=True)]
    return Operation("pair", None, parts, inputs.working)


def _nuslerp(
    inputs: Inputs, weight: Sequence[float], nuslerp_row_wise: bool, nuslerp_flatten: bool
) -> Operation | None:
    del nuslerp_row_wise  # says nothing of flattened tensors
    if not nuslerp_flatten:
        return None
    angle = inputs.statistics.scalar(
        ("nuslerp", *inputs.keys, inputs.working),
        lambda: nuslerp_cosine(*(inputs.delta(i).part(0, inputs.size) for i in (0, 1))),
    )
    *weights, divisor = nuslerp_weights(angle, share_of_second(*weight))
    parts = [Part(m, float(w)) for m, w in zip(inputs.models, weights, strict=True)]
    return inputs.operation("pair", parts, divisor=float(divisor))


def _task_arithmetic(
    inputs: Inputs, weight: Sequence[float], normalize: bool, lambda_: float
) -> Operation:
    whole = [1.0] * len(weight)
    return _sum(
        "weighted",
        inputs,
        lambda i: Part(inputs.models[i], weight[i]),
        weight,
        whole,
        normalize,
        lambda_,
    )


def _ties(
    inputs: Inputs,
    weight: Sequence[float],
    density: Sequence[float],
    normalize: bool,
    rescale: bool,
    lambda_: float,
    consensus: Consensus,
    aggregate: Aggregate,
    zero_sign: ZeroSign,
) -> Operation | None:
    if zero_sign == "majority":  # needs the votes of the whole tensor
        return None

    def trimmed(index: int) -> Part:
        bracket = inputs.top(index, kept_count(density[index], inputs.size))
        part = Part(inputs.models[index], weight[index], bracket)
        return inputs.rescaled(index, part) if rescale and 0 < density[index] < 1 else part

    merged = _sum("disjoint", inputs, trimmed, weight, density, normalize, lambda_)
    if (consensus, aggregate) == ("sum", "mean"):
        return merged
    return merged._replace(consensus=consensus, aggregate=aggregate)


def _dare(
    kind: Kind,
    inputs: Inputs,
    weight: Sequence[float],
    density: Sequence[float],
    normalize: bool,
    rescale: DropRescale,
    lambda_: float,
) -> Operation:
    assert inputs.random is not None
    random = inputs.random

    def dropped(index: int) -> Part:
        model, share = inputs.models[index], density[index]
        if share >= 1:
            return Part(model, weight[index])
        part = Part(model, weight[index], dropping=Dropping(random, index, share))
        if not rescale or share <= 0:
            return part
        if rescale == "inverse":
            return part._replace(scale=share, divides=True)
        return inputs.rescaled(index, part)

    return _sum(kind, inputs, dropped, weight, density, normalize, lambda_)


def _breadcrumbs(
    kind: Kind,
    inputs: Inputs,
    weight: Sequence[float],
    density: Sequence[float],
    gamma: Sequence[float],
    normalize: bool,
    rescale: bool,
    lambda_: float,
) -> Operation:
    def middling(index: int) -> Part:
        if density[index] >= 1:
            return Part(inputs.models[index], weight[index])
        part = inputs.band(index, density[index], gamma[index])
        part = part._replace(weight=weight[index])
        return inputs.rescaled(index, part) if rescale else part

    return _sum(kind, inputs, middling, weight, density, normalize, lambda_)


def _sum(
    kind: Kind,
    inputs: Inputs,
    part_of: Callable[[int], Part],
    weight: Sequence[float],
    density: Sequence[float],
    normalize: bool,
    lambda_: float,
) -> Operation:
    """Return the operation that adds masked deltas to the base."""
    if adds_nothing(lambda_, weight, density):
        return _copied(inputs)
    parts = [part_of(i) for i in range(len(weight))]
    if kind == "disjoint":
        return inputs.operation(kind, parts, normalize=normalize, lambda_=lambda_)
    divisor = float(usable_sum(weight, torch.empty(0))) if normalize else None
    return inputs.operation(kind, parts, divisor=divisor, lambda_=lambda_)


_OPERATIONS: Mapping[str, Callable[..., Operation | None]] = {
    "breadcrumbs": partial(_breadcrumbs, "weighted"),
    "breadcrumbs_ties": partial(_breadcrumbs, "disjoint"),
    "dare_linear": partial(_dare, "weighted"),
    "dare_ties": partial(_dare, "disjoint"),
    "linear": _linear,
    "magnitude_prune": _magnitude_prune,
    "nuslerp": _nuslerp,
    "passthrough": _passthrough,
    "slerp": _slerp,
    "task_arithmetic": _task_arithmetic,
    "ties": _ties,
    "wise_ft": _wise_ft,
}
