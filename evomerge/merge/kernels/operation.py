"""Describes one tensor's merge once all that needs a whole tensor is known.

Thresholds, norms and angles are numbers here, so that an operation is one pass over its inputs,
block by block in any order. `kernels` and `native` run it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from evomerge.merge.kernels.delta import Delta
from evomerge.merge.kernels.ranking import Bracket, Edge
from evomerge.methods.deltas import Aggregate, Consensus
from evomerge.methods.random import CounterRandom

# copied:    the base, or the first model
# linear:    sum_k weight_k model_k [ / divisor ], each product and sum rounded once, together
# pair:      [ base + ] (weight_1 d_1 + weight_2 d_2) [ / divisor ]
# scaled:    weight * model
# pruned:    the one model, masked
# weighted:  base + lambda * sum_k weight_k d_k [ / divisor ]
# disjoint:  the same over the models that agree with the elected sign
Kind = Literal["copied", "linear", "pair", "scaled", "pruned", "weighted", "disjoint"]


@dataclass(frozen=True)
class Dropping:
    """A random mask: which numbers it is drawn from, and what part of the elements it keeps."""

    random: CounterRandom
    model_index: int
    density: float


class Part(NamedTuple):  # as `Operation`: a frozen dataclass takes four times as long to make
    """One model of a merge; its delta is masked, then scaled, then weighted.

    Attributes:
        model: Flat, as stored.
        weight: What its delta is multiplied by.
        bracket: The end of the elements of largest magnitude that stay; ``None``: all do.
        outlier: Where those end that are too large; the bracket is then closed.
        dropping: A random mask instead.
        scale: What the masked delta is multiplied by, or divided by if `divides`.
        divides: See `scale`.
    """

    model: Tensor
    weight: float = 1.0
    bracket: Bracket | None = None
    outlier: Edge | None = None
    dropping: Dropping | None = None
    scale: float = 1.0
    divides: bool = False


class Operation(NamedTuple):
    """One tensor's merge.

    Attributes:
        kind: The formula; see `Kind`.
        base: Flat, as stored, or ``None``.
        parts: The models.
        working: The dtype that inputs are rounded to; arithmetic is in float32.
        divisor: What the sum is divided by; ``None``: nothing.
        normalize: Of a disjoint merge: whether each element is divided by the weights that agree.
        consensus: How its sign is elected.
        aggregate: What is made of the deltas that agree.
        lambda_: Scale of what is added to the base.
    """

    kind: Kind
    base: Tensor | None
    parts: Sequence[Part]
    working: torch.dtype
    divisor: float | None = None
    normalize: bool = False
    consensus: Consensus = "sum"
    aggregate: Aggregate = "mean"
    lambda_: float = 1.0


class Kernels(Protocol):
    """Runs operations; two of them give the same bits."""

    def run(self, operation: Operation, out: Tensor) -> bool:
        """Write the result into `out`, flat; false if these kernels cannot."""
        ...

    def between(self, delta: Delta, bracket: Bracket) -> Tensor | None:
        """Return the keys of elements that a bracket leaves open, any order; ``None``: cannot."""
        ...

    def norm(self, delta: Delta, part: Part) -> Tensor | None:
        """Return a delta's L1 norm, shape (), under a closed mask; ``None``: cannot."""
        ...


def close_brackets(operation: Operation, kernels: Kernels) -> Operation:
    """Return the same operation with no bracket left open."""
    parts = [close_bracket(part, operation, kernels) for part in operation.parts]
    return operation._replace(parts=parts)


def close_bracket(part: Part, operation: Operation, kernels: Kernels) -> Part:
    """Return a part of an operation with its bracket closed."""
    if part.bracket is None or part.bracket.missing == 0:
        return part
    keys = kernels.between(Delta(operation.base, part.model, operation.working), part.bracket)
    assert keys is not None
    return part._replace(bracket=part.bracket.closed(keys))
