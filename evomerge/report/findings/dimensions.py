"""Says which dimensions of a space mattered, and where the best trials lie along each of them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.recipe.space.dimension import Dimension
from evomerge.report.run import Run
from evomerge.study.analysis.allocation import allocation
from evomerge.study.analysis.importance import importance

BEST = 0.1  # share of the trials that counts as the best ones
_PREDICTED = 0.05  # share of the variance that has to be predicted before anything is claimed

Scored = tuple[float, tuple[Any, ...], int]  # gain, point, trial


@dataclass(frozen=True)
class Strip:
    """One dimension with a number in a range.

    Attributes:
        dimension: The dimension.
        name: For people: model, parameter, layers.
        share: Its share of what `Dimensions.measure` says; ``None`` if nothing is known.
        best: Positions of the best trials in the range, 0 to 1.
        others: Those of the other trials.
        start: Where the search began.
        chosen: Where the recommended trial is (else the leader); ``None`` if it is no point.
    """

    dimension: Dimension
    name: str
    share: float | None
    best: Sequence[float]
    others: Sequence[float]
    start: float
    chosen: float | None


@dataclass(frozen=True)
class Choice:
    """One choice of a nominal dimension: how often it was tried, and the gains.

    Attributes:
        value: The choice.
        count: Trials that had it, of those that were scored.
        best: How many of the best trials had it.
        mean: Mean gain of its trials; ``None`` without any.
        error: Standard error of the mean; ``None`` for fewer than two trials.
    """

    value: Any
    count: int
    best: int
    mean: float | None
    error: float | None


@dataclass(frozen=True)
class Nominal:
    """A dimension without order, and what came of each of its choices."""

    name: str
    share: float | None
    choices: Sequence[Choice]


@dataclass(frozen=True)
class Dimensions:
    """What the scored trials say of a space's dimensions.

    Attributes:
        measure: What shares are of: ``regression`` (of the variance of gains), ``path`` (of the
            fall of the loss along a gradient search), or ``apart`` (how far the best trials lie
            from the others, where neither can be said).
        predicted: For a regression, the share of held-back gains' variance that it predicts.
        trials: How many were scored.
        n_best: How many of them count as the best.
        strips: Dimensions with a range, the most important first.
        nominal: Dimensions without order, likewise.
        groups: Shares by what dimensions set at whatever depth, largest first.
        layers: Shares by group and layer, for dimensions that belong to one layer each.
    """

    measure: str
    predicted: float | None
    trials: int
    n_best: int
    strips: Sequence[Strip]
    nominal: Sequence[Nominal]
    groups: Mapping[str, float]
    layers: Mapping[tuple[str, int], float]


def dimensions(run: Run) -> Dimensions | None:
    """Return the findings; ``None`` before two trials are scored."""
    record, trials = run.record, scored(run)
    if len(trials) < 2 or not record.dimensions:
        return None
    n_best = max(2, math.ceil(BEST * len(trials)))
    best, others = trials[:n_best], trials[n_best:]
    measure, predicted, shares = _shares(run, best, others)
    chosen = _chosen(run, trials)
    names = named(record.dimensions, run.depth)
    strips: list[Strip] = []
    nominal: list[Nominal] = []
    for i, d in enumerate(record.dimensions):
        if d.kind == "categorical":
            nominal.append(Nominal(names[i], shares[i], _choices(d, i, trials, n_best)))
            continue
        strips.append(
            Strip(
                d,
                names[i],
                shares[i],
                [d.position(point[i]) for _, point, _ in best],
                [d.position(point[i]) for _, point, _ in others],
                d.position(d.start),
                None if chosen is None else d.position(chosen[i]),
            )
        )
    groups: dict[str, float] = {}
    layers: dict[tuple[str, int], float] = {}
    for d, share in zip(record.dimensions, shares, strict=True):
        group = short(d.group or d.name)
        groups[group] = groups.get(group, 0.0) + share
        if d.layers is not None and d.layers[1] - d.layers[0] == 1:
            at = (group, d.layers[0])
            layers[at] = layers.get(at, 0.0) + share
    return Dimensions(
        measure,
        predicted,
        len(trials),
        n_best,
        sorted(strips, key=lambda s: -(s.share or 0.0)),
        sorted(nominal, key=lambda n: -(n.share or 0.0)),
        dict(sorted(groups.items(), key=lambda pair: -pair[1])),
        layers,
    )


def scored(run: Run) -> list[Scored]:
    """Return trials with their gain over the reference (else fitness), the best first."""
    trials: list[Scored] = []
    for standing in run.record.standings():
        trial = run.record.trials[standing.trial]
        if trial.point is not None and len(trial.point) == len(run.record.dimensions):
            trials.append((standing.value, trial.point, trial.number))
    return sorted(trials, key=lambda one: (-one[0], one[2]))


def named(space: Sequence[Dimension], depth: int | None) -> list[str]:
    """Return each dimension's name for people, with the layers that it stands for.

    >>> weights = [Dimension(f"models[a].weight[{k}]", knot=k, gradient="models[a].weight",
    ...                      group="models[a].weight") for k in range(3)]
    >>> named(weights, 9)
    ['a weight, layer 0', 'a weight, layer 4', 'a weight, layer 8']
    """
    knots = Counter(d.gradient for d in space if d.knot is not None)
    names = []
    for d in space:
        of = short(d.group or d.name)
        if d.layers is not None:
            first, end = d.layers
            of += f", layer {first}" if end - first == 1 else f", layers {first}–{end - 1}"
        if d.knot is not None and (d.layers is None or d.layers[1] - d.layers[0] > 1):
            of += f", {_where(d, knots[d.gradient], depth)}"
        names.append(of)
    twice = Counter(names)
    return [n if twice[n] == 1 else short(d.name) for n, d in zip(names, space, strict=True)]


def short(name: str) -> str:
    """Return a dimension's or a group's name, shorter.

    >>> short("blocks[1].models[expert-a].weight[2]"), short("models[a].weight[mlp.up.weight]")
    ('blocks[1] expert-a weight[2]', 'a weight mlp.up')
    """
    text = re.sub(r"models\[([^][]*)\]\.", r"\1 ", name).replace("].", "] ")
    return re.sub(r"\[([^][]*[a-z][^][]*)\]$", r" \1", text).removesuffix(".weight")


def _where(d: Dimension, knots: int, depth: int | None) -> str:
    """Say which layer a knot of a gradient lies at; gradients go from the first to the last."""
    assert d.knot is not None
    if depth is None or d.layers is not None or knots < 2:
        return f"knot {d.knot + 1} of {knots}"
    at = d.knot * (depth - 1) / (knots - 1)
    return f"layer {at:.0f}" if abs(at - round(at)) < 0.01 else f"near layer {at:.1f}"


def _shares(
    run: Run, best: Sequence[Scored], others: Sequence[Scored]
) -> tuple[str, float | None, list[float]]:
    """Return the measure that can be given, what a regression predicts, and each one's share."""
    space = run.record.dimensions
    along = allocation(run.record)
    if along is not None:
        return "path", None, along
    fit = importance(run.record)
    if fit is not None and fit["predicted"] > _PREDICTED:
        return "regression", fit["predicted"], [fit["dimensions"][d.name] for d in space]
    apart = [_apart(d, i, best, others) for i, d in enumerate(space)]
    return "apart", None if fit is None else fit["predicted"], apart


def _apart(d: Dimension, i: int, best: Sequence[Scored], others: Sequence[Scored]) -> float:
    """Return how far the best trials lie from the others: in ranges, or of a choice's share."""
    rest = others or best
    if d.kind == "categorical":
        counts = [Counter(point[i] for _, point, _ in trials) for trials in (best, rest)]
        return sum(abs(counts[0][c] / len(best) - counts[1][c] / len(rest)) for c in d.choices) / 2
    means = [
        math.fsum(d.position(point[i]) for _, point, _ in trials) / len(trials)
        for trials in (best, rest)
    ]
    return abs(means[0] - means[1])


def _chosen(run: Run, trials: Sequence[Scored]) -> tuple[Any, ...] | None:
    """Return the point of the recommended trial, or the leader's."""
    number = run.recommended if run.recommended is not None else trials[0][2]
    point = run.record.trials[number].point
    return point if point is not None and len(point) == len(run.record.dimensions) else None


def _choices(d: Dimension, i: int, trials: Sequence[Scored], n_best: int) -> list[Choice]:
    rows = []
    for choice in d.choices:
        gains = [gain for gain, point, _ in trials if point[i] == choice]
        n = len(gains)
        mean = math.fsum(gains) / n if n else None
        error = None
        if mean is not None and n > 1:
            error = math.sqrt(math.fsum((g - mean) ** 2 for g in gains) / (n - 1) / n)
        among = sum(point[i] == choice for _, point, _ in trials[:n_best])
        rows.append(Choice(choice, n, among, mean, error))
    return rows
