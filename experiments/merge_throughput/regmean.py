"""Times RegMean fits with products made anew and recalled, by turns, in shapes of SmolLM2-135M.

    regmean.py [LAYERS [ROUNDS]]     2 of its 30 layers, 5 rounds; four models; one thread

A line for each way: the median of CPU seconds for all 30 layers, its ratio to the formula as it was
first written (all products anew, relative to the mean), the bytes kept and the largest difference.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from evomerge.merge.parents.memo import Memo
from evomerge.methods import regmean
from evomerge.methods.of_data import Gram, weighted_mean
from evomerge.recipe.recipe import Recipe

SHAPES = [(576, 576)] * 2 + [(192, 576)] * 2 + [(1536, 576)] * 2 + [(576, 1536)]
LAYERS, MODELS = 30, 4


def as_first_written(
    models: Sequence[Tensor], grams: Sequence[Gram], weights: Sequence[float], shrink: float
) -> Tensor:
    """The sum of products of each model's distance from the mean with its own matrix."""
    mean = weighted_mean(models, weights)
    shares = [w / sum(weights) for w in weights]
    level = sum(
        s * float(g.matrix.diagonal().double().mean()) for s, g in zip(shares, grams, strict=True)
    )
    left = torch.zeros_like(grams[0].matrix, dtype=torch.float64)
    right = torch.zeros(models[0].T.shape, dtype=torch.float64)
    for model, one, share in zip(models, grams, shares, strict=True):
        matrix = one.matrix.double()
        diagonal = matrix.diagonal().clone()
        matrix = matrix * shrink
        matrix.diagonal().copy_(diagonal + 1e-6 * level)
        matrix *= share
        right += matrix @ (model - mean).double().T
        left += matrix
    step = torch.cholesky_solve(right, torch.linalg.cholesky(left)).T
    return mean + step.to(mean.dtype)


def main(layers: int, rounds: int) -> None:
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    stack = []
    for rows, columns in SHAPES * layers:
        base = torch.randn(rows, columns, generator=draw) / columns**0.5
        models = [base + 0.1 * torch.randn(base.shape, generator=draw) / 24 for _ in range(MODELS)]
        inputs = [torch.randn(4000, columns, generator=draw) for _ in range(MODELS)]
        scale = torch.logspace(0, -2, columns)
        stack.append((models, [Gram((x * scale).T @ (x * scale) / 4000) for x in inputs]))
    memo = Memo(1 << 33)
    seeds = iter(range(1 << 30))

    def recipe() -> Recipe:
        return Recipe.from_dict({"merge_method": "linear", "models": ["a"], "seed": next(seeds)})

    def recalled(weights: Sequence[float], shrink: float) -> list[Tensor]:
        asks, made = recipe(), []
        for number, (models, grams) in enumerate(stack):
            recall = memo.of(asks, number)
            made.append(
                regmean(None, models, weight=weights, shrink=shrink, gram=grams, recall=recall)
            )
        return made

    def anew(weights: Sequence[float], shrink: float) -> list[Tensor]:
        return [
            regmean(None, models, weight=weights, shrink=shrink, gram=grams)
            for models, grams in stack
        ]

    def first(weights: Sequence[float], shrink: float) -> list[Tensor]:
        return [as_first_written(models, grams, weights, shrink) for models, grams in stack]

    ways: dict[str, Callable[[Sequence[float], float], list[Tensor]]] = {
        "as first written": first,
        "anew": anew,
        "recalled": recalled,
    }
    for n in range(3):  # the anchors, and the first candidate, which fills the memo
        recalled([1.0 + n] * MODELS, 0.5)
    seconds: dict[str, list[float]] = {way: [] for way in [*ways, "recalled, λ alone changed"]}
    worst = 0.0
    for n in range(rounds):
        weights, shrink = [1.0, 0.5 + 0.1 * n, 1.2, 0.8], 0.9 + 0.01 * n
        made = {}
        for way, merge in ways.items():
            began = time.process_time()
            made[way] = merge(weights, shrink)
            seconds[way].append(time.process_time() - began)
        recalled(weights, shrink)  # asked for again: kept
        began = time.process_time()
        again = recalled(weights, shrink)
        seconds["recalled, λ alone changed"].append(time.process_time() - began)
        for a, b, c, d in zip(*made.values(), again, strict=True):
            assert torch.equal(b, c)
            assert torch.equal(b, d)
            worst = max(worst, float((a - b).abs().max() / a.abs().max()))
    for way, spent in seconds.items():
        ratios = [a / b for a, b in zip(spent, seconds["as first written"], strict=True)]
        line = {"way": way, "seconds of 30 layers": statistics.median(spent) * LAYERS / layers}
        line["ratio"] = statistics.median(ratios)
        if way == "recalled":
            line["bytes of 30 layers"] = memo.size * LAYERS / layers
        print(json.dumps({k: v if isinstance(v, str) else round(v, 3) for k, v in line.items()}))
    print(json.dumps({"largest difference from the first formula, relative": worst}))


if __name__ == "__main__":
    main(*(int(one) for one in (sys.argv[1:] + ["2", "5"][len(sys.argv) - 1 :])[:2]))
