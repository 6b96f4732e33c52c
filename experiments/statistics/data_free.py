"""Tries merges without data, or on random tokens, against task arithmetic; none is in the package.

    data_free.py FOLDER      a zoo of `evomerge demo`

Each is a page or less, registered as a method for this process alone, and scored at scales chosen
on search items, as `measure.py` does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import measure as m
import numpy as np
import torch
from torch import Tensor

from evomerge.evaluate.model import load_tokenizer
from evomerge.methods.parameters import Doc, Range
from evomerge.methods.registry import merge_method
from evomerge.recipe.rows import Data

Scale = Annotated[float, Range(0.0, 4.0), Doc("Of what is added.")]


def nan_weights(base: Tensor, models: Sequence[Tensor], scale: Scale = 1.0) -> Tensor:
    """Weigh changes by their inverse norm, tensor by tensor; the weights add up to scale."""
    deltas = [model - base for model in models]
    inverse = [1.0 / float(delta.norm().clamp_min(1e-12)) for delta in deltas]
    shares = [scale * one / sum(inverse) for one in inverse]
    return base + sum(s * d for s, d in zip(shares, deltas, strict=True))


def geometric_median(base: Tensor, models: Sequence[Tensor], scale: Scale = 1.0) -> Tensor:
    """The point of least summed distance to the models' tensors, as vectors."""
    stack = torch.stack([model - base for model in models])
    x = (stack.mean(0) + stack.median(0).values) / 2
    for _ in range(100):
        weights = 1.0 / (stack - x).flatten(1).norm(dim=1).clamp_min(1e-9)
        shape = (-1, *[1] * (stack.dim() - 1))
        x = (weights.view(shape) * stack).sum(0) / weights.sum()
    return base + scale * x


def iso_c(base: Tensor, models: Sequence[Tensor], scale: Scale = 1.0) -> Tensor:
    """The sum of changes with all singular values set to their mean; vectors are averaged."""
    total = sum(model - base for model in models)
    assert isinstance(total, Tensor)
    if base.dim() != 2:
        return base + scale * total / len(models)
    u, s, v = torch.linalg.svd(total, full_matrices=False)
    return base + scale * s.mean() * (u @ v)


def wudi(base: Tensor, models: Sequence[Tensor], scale: Scale = 1.0) -> Tensor:
    """Minimise sum_i norm2((t - t_i) t_i^T) / norm2(t_i) over t, exactly; vectors are summed.

    The minimum is t = (sum_i t_i C_i)(sum_i C_i)^-1, C_i = t_i^T t_i / norm2(t_i): least squares
    with the changes' own Gram matrices in the inputs' place.
    """
    deltas = [(model - base).double() for model in models]
    if base.dim() != 2:
        return base + scale * sum(deltas).to(base.dtype)  # type: ignore[union-attr]
    grams = [d.T @ d / d.square().sum().clamp_min(1e-24) for d in deltas]
    left = sum(grams)
    assert isinstance(left, Tensor)
    ridge = 1e-6 * left.diagonal().mean() * torch.eye(len(left), dtype=left.dtype)
    right = sum(d @ g for d, g in zip(deltas, grams, strict=True))
    assert isinstance(right, Tensor)
    solved = torch.linalg.solve(left + ridge, right.T).T
    return base + scale * solved.to(base.dtype)


WIDER = (1.0, 1.5, 2.0, 2.5, 3.0)  # of merges by random tokens
METHODS = {
    nan_weights: "arXiv 2505.16148",
    geometric_median: "Weiszfeld 1937",
    iso_c: "Marczak 2025, arXiv 2502.04959",
    wudi: "Cheng 2025, arXiv 2503.08099",
}


def random_rows(zoo: m.Zoo, count: int = 64) -> dict[str, Data]:
    """Rows of tokens drawn evenly from the vocabulary."""
    tokenizer: Any = load_tokenizer(zoo.evaluator.parents.checkpoints[zoo.config.base_model].folder)
    draw = np.random.default_rng(0)
    ids = [draw.integers(4, len(tokenizer), 16).tolist() for _ in range(count)]
    rows = [{"text": tokenizer.decode(one)} for one in ids]
    file = zoo.folder / "random.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return dict.fromkeys(zoo.models, Data(**Data.kind_of(str(file), "random")[1]))


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    for function, reference in METHODS.items():
        merge_method(reference=reference)(function)
    zoo = m.Zoo(folder)

    def tried(name: str, recipes: dict[str, Any]) -> None:
        def chosen() -> dict[str, Any]:
            best, recipe = zoo.best(recipes)
            return {"chosen": best, "held_out": round(zoo.score(recipe, "holdout"), 4)}

        zoo.line(name, chosen)

    scales = {
        "nan_weights": (1.2, 1.6, 2.0, 2.4, 2.8),
        "geometric_median": (1.2, 1.6, 2.0, 2.4, 2.8),
        "iso_c": (0.5, 0.8, 1.1, 1.5, 2.0),
        "wudi": (0.5, 0.7, 1.0, 1.3, 1.6),
    }
    for method, listed in scales.items():
        tried(f"{method}, scale chosen", {str(s): zoo.recipe(method, scale=s) for s in listed})
    random = random_rows(zoo)
    fim = {str(s): zoo.recipe("fisher", data=random, lambda_=s) for s in WIDER}
    tried("fisher on random tokens, λ chosen", fim)
    gram = {str(s): zoo.recipe("regmean", data=random, lambda_=s) for s in WIDER}
    tried("regmean on random tokens, λ chosen", gram)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
