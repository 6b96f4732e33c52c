"""Tries RegMean++ and coefficients by activations against RegMean and task arithmetic.

    activations.py FOLDER      a zoo of `evomerge demo`

None is in the package: RegMean++ is `regmean` with other matrices, and the others are methods of a
few lines, registered for this process alone. Settings are chosen on search items, as `measure.py`
does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import measure as m
import torch
from torch import Tensor

from evomerge.calibration.gram import grams
from evomerge.calibration.live import live_parent
from evomerge.calibration.rows import Row, batches, read_rows
from evomerge.checkpoint.architecture import locate
from evomerge.evaluate.model import load_tokenizer
from evomerge.merge.live_layout import views
from evomerge.methods import regmean
from evomerge.methods.of_data import Gram
from evomerge.methods.parameters import Doc, Range
from evomerge.methods.registry import merge_method
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.rows import Calibration

Scale = Annotated[float, Range(0.0, 9.0), Doc("Of what is added.")]
Power = Annotated[float, Range(-4.0, 4.0), Doc("Of the distance, or of what a channel keeps.")]
Floor = Annotated[float, Range(0.0, 1.0), Doc("What the base's strongest channel keeps.")]


def layered(
    base: Tensor,
    models: Sequence[Tensor],
    scale: Scale = 1.0,
    power: Power = 1.0,
    gram: Sequence[Gram | None] | None = None,
) -> Tensor:
    """Weigh each change by how far its model's layer moves its own rows, mean 1 over the models."""
    far = [1.0 if g is None else float(g.matrix[0, 0]) for g in gram or [None] * len(models)]
    weights = [one**power for one in far]
    mean = sum(weights) / len(weights)
    return base + scale * sum(w / mean * (t - base) for w, t in zip(weights, models, strict=True))


def damped(
    base: Tensor,
    models: Sequence[Tensor],
    scale: Scale = 1.0,
    floor: Floor = 0.4,
    gram: Sequence[Gram | None] | None = None,
) -> Tensor:
    """Add changes, less of them in the input channels that the base uses most (AIM's scaling)."""
    total = sum(model - base for model in models)
    assert isinstance(total, Tensor)
    if gram and gram[0] is not None:
        strength = gram[0].matrix.diagonal()
        total = total * (1 - (1 - floor) * strength / strength.max())
    return base + scale * total


METHODS = {
    layered: "Yao 2025, https://arxiv.org/abs/2505.14009",
    damped: "Nobari 2025, https://arxiv.org/abs/2502.02421",
}


class Activations:
    """What a zoo's models do with their rows, as matrices handed to methods."""

    def __init__(self, zoo: m.Zoo) -> None:
        self.zoo, self.parents = zoo, zoo.evaluator.parents
        self.parents.memo = None  # other matrices for the same rows
        self.base = zoo.config.base_model
        self.names = list(self.parents.opened[self.base].tensors)
        tokenizer = load_tokenizer(self.parents.opened[self.base].folder)
        self.rows: dict[str, Sequence[Row]] = {
            model: read_rows(data, Calibration(rows=64), tokenizer, 4096).rows
            for model, data in zoo.data.items()
        }

    def hand(self, of: Callable[[str, str], Gram | None]) -> None:
        """Have methods given these matrices, by model and tensor."""
        self.parents.provider = lambda model, *_: partial(of, model)

    def plus_plus(self, shrink: float, scale: float) -> None:
        """Make each layer's matrices of what the merged layers below it make of the rows."""
        live = live_parent(self.base, self.parents)
        tensors = views(live, self.names)
        matrices: dict[tuple[str, str], Gram] = {}
        depth = {name: locate(name).layer for name in self.names}
        depths = sorted({d for d in depth.values() if d is not None})
        with torch.no_grad():
            for layer in [None, *depths]:
                here = [name for name in self.names if depth[name] == layer]
                if layer is None:  # embeddings; norms and a head of its own play no part below
                    here = [name for name in here if "embed" in name]
                for model in self.zoo.models if layer is not None else ():
                    for name in here:
                        tensors[name].copy_(self.parents.opened[model].tensor(name))
                    self._add(matrices, model, live, here)
                for name in here:
                    tensors[name].copy_(self._merged(name, matrices, shrink, scale))
            rest = [name for name in self.names if depth[name] is None and "embed" not in name]
            for model in self.zoo.models:
                self._add(matrices, model, live, rest)
        self.hand(lambda model, name: matrices.get((model, name)))

    def _add(self, matrices: dict, model: str, live: Any, names: list[str]) -> None:
        made: dict[str, Tensor] = {}
        for name, shared in grams(live, names, self.rows[model], made.update).items():
            matrices[model, name] = Gram(made[shared.leader], shared.transposed)

    def _merged(self, name: str, matrices: dict, shrink: float, scale: float) -> Tensor:
        opened = self.parents.opened
        return regmean(
            opened[self.base].tensor(name).float(),
            [opened[model].tensor(name).float() for model in self.zoo.models],
            shrink=shrink,
            lambda_=scale,
            gram=[matrices.get((model, name)) for model in self.zoo.models],
        )

    def distances(self) -> None:
        """By layer: how far a model's hidden states of its own rows are from the base's."""
        base = live_parent(self.base, self.parents)
        far: dict[tuple[str, int], float] = {}
        for model, rows in self.rows.items():
            live = live_parent(model, self.parents)
            sums: dict[int, list[float]] = {}
            with torch.inference_mode():
                for batch in batches(rows):
                    tokens = torch.tensor([row.tokens for row in batch])
                    states = [one(tokens, output_hidden_states=True) for one in (base, live)]
                    pairs = zip(*(one.hidden_states for one in states), strict=True)
                    for layer, (before, after) in enumerate(pairs):
                        moved = (after - before).norm(dim=-1) / before.norm(dim=-1)
                        sums.setdefault(layer, []).append(float(moved.mean()))
            for layer, values in sums.items():
                far[model, layer] = sum(values) / len(values)

        def of(model: str, name: str) -> Gram | None:
            layer = locate(name).layer
            return None if layer is None else Gram(torch.full((1, 1), far[model, layer + 1]))

        self.hand(of)

    def strengths(self) -> None:
        """By input channel: the root of the base's mean square over everyone's rows."""
        live = live_parent(self.base, self.parents)
        rows = [row for listed in self.rows.values() for row in listed]
        made: dict[str, Tensor] = {}
        leaders = grams(live, self.names, rows, made.update)

        def of(_: str, name: str) -> Gram | None:
            shared = leaders.get(name)
            return shared and Gram(made[shared.leader].diagonal().sqrt().diag())

        self.hand(of)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    for function, reference in METHODS.items():
        merge_method(reference=reference)(function)
    zoo = m.Zoo(folder)
    activations = Activations(zoo)

    def recipe(method: str, **parameters: Any) -> Recipe:
        document = zoo.recipe("regmean").to_dict()
        return Recipe.from_dict({**document, "merge_method": method, "parameters": parameters})

    def tried(name: str, recipes: dict[str, Recipe], before: Callable[[], None]) -> None:
        def chosen() -> dict[str, Any]:
            before()
            best, made = zoo.best(recipes)
            return {"chosen": best, "held_out": round(zoo.score(made, "holdout"), 4)}

        zoo.line(name, chosen)

    steps = (0.3, 0.4, 0.5, 0.6, 0.7, 1.0)
    plain = {str(s): zoo.recipe("task_arithmetic", weight=s) for s in steps}
    tried("task arithmetic, λ chosen", plain, lambda: None)
    powers = {
        f"power {p} scale {s}": recipe("layered", power=p, scale=s)
        for p in (-1.0, -0.5, 0.5, 1.0)
        for s in steps
    }
    tried("layers by distance of activations", powers, activations.distances)
    floors = {
        f"floor {f} scale {s}": recipe("damped", floor=f, scale=s)
        for f in (0.2, 0.4, 0.7)
        for s in steps
    }
    tried("channels by the base's activations", floors, activations.strengths)

    def plus_plus() -> dict[str, Any]:
        scored = {}
        for shrink, scale in ((s, w) for s in (0.9, 0.98) for w in (1.0, 1.3, 1.6, 2.0)):
            activations.plus_plus(shrink, scale)
            made = zoo.recipe("regmean", shrink=shrink, lambda_=scale)
            scored[shrink, scale] = zoo.score(made, "search"), zoo.score(made, "holdout")
        best = max(scored, key=lambda one: scored[one][0])
        first = scored[0.9, 1.0][1]
        return {
            "chosen": "shrink {} λ {}".format(*best),
            "held_out": round(scored[best][1], 4),
            "at shrink .9, λ 1": round(first, 4),
        }

    zoo.line("regmean++, shrink and λ chosen", plus_plus)
    activations.parents.provider = zoo.statistics
    grid = {
        f"shrink {s} λ {w}": zoo.recipe("regmean", shrink=s, lambda_=w, calibration={"rows": 64})
        for s in (0.9, 0.98)
        for w in (1.0, 1.3, 1.6, 2.0)
    }
    tried("regmean, 64 rows, shrink and λ chosen", grid, lambda: None)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
