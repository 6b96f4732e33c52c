"""Do items chosen by a difficulty model (IRT) rank candidates better than items drawn anew?

    rank.py FOLDER [FOLDER...]     zoos of `evomerge demo`: zoo/ and study.yaml

For each zoo: 96 merges as a search proposes them, scored on all search items by the smooth score
and on 60 held-out items a task by the metric. The first 48 are what an earlier run left: a model
with two parameters for each item (discrimination and difficulty) is fitted to them. Then a
generation of 12 of the others is ranked by n items a task, the same for all: drawn; the most
informative (Fisher information at the ability of the better half), scored by the mean or by the
ability fitted; items whose scores go best with the mean over all items. What is measured is the
rank correlation with the held-out metric, and what is lost by taking the one ranked first, mean of
300 generations.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "statistics"))
import measure as zoos
from scipy.stats import spearmanr

from evomerge.study.workers.requests import Evaluate, Scores

EARLIER, LATER, GENERATION, REPEATS, HELD_OUT = 48, 48, 12, 300, 60


def outcomes(zoo: zoos.Zoo) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return smooth scores (candidates, search items), the items' tasks, and held-out metric."""
    draw = np.random.default_rng(0)
    smooth, truth, tasks = [], [], np.empty(0)
    for number in range(EARLIER + LATER):
        spread = 0.35 if number < EARLIER else 0.2  # an earlier search was wider
        weights = 0.5 + spread * draw.standard_normal((len(zoo.models), 2))
        models = [
            {"model": m, "parameters": {"weight": [float(a), float(b)]}}  # by depth
            for m, (a, b) in zip(zoo.models, weights, strict=True)
        ]
        document = {"merge_method": "task_arithmetic", "base_model": zoo.config.base_model}
        recipe = {**document, "models": models, "dtype": "float32"}
        rows = {}
        held_out = {task: sorted(ids)[:HELD_OUT] for task, ids in zoo.pools["holdout"].items()}
        for mode, items in (("smooth", dict(zoo.pools["search"])), ("metric", held_out)):
            answer = zoo.evaluator.handle(Evaluate(recipe, [items], mode))
            assert isinstance(answer, Scores), answer
            rows[mode] = answer.rows
        tasks = np.array([row[0] for row in rows["smooth"]])
        smooth.append([row[3] for row in rows["smooth"]])
        by_task: dict[str, list[float]] = {}
        for row in rows["metric"]:
            by_task.setdefault(row[0], []).append(row[2])
        truth.append(np.mean([np.mean(of) for of in by_task.values()]))
        print(number, round(float(truth[-1]), 3), file=sys.stderr, flush=True)
    return np.array(smooth), tasks, np.array(truth)


def fitted(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit score = sigmoid(a (ability - b)) to (candidates, items): a > 0, b, abilities.

    Penalised likelihood with standard normal priors, log a about 0; scores in [0, 1] are taken as
    probabilities.
    """
    y = torch.tensor(scores, dtype=torch.float64).clamp(1e-4, 1 - 1e-4)
    ability = torch.zeros(len(y), 1, dtype=torch.float64, requires_grad=True)
    log_a = torch.zeros(1, y.shape[1], dtype=torch.float64, requires_grad=True)
    b = torch.zeros(1, y.shape[1], dtype=torch.float64, requires_grad=True)
    steps = torch.optim.LBFGS([ability, log_a, b], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Any:
        steps.zero_grad()
        logits = log_a.exp() * (ability - b)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, y, reduction="sum")
        loss = loss + 0.5 * (ability.square().sum() + log_a.square().sum() + b.square().sum())
        loss.backward()
        return loss

    steps.step(closure)
    return log_a.exp().detach().numpy()[0], b.detach().numpy()[0], ability.detach().numpy()[:, 0]


def ability_of(scores: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return each candidate's most likely ability by these items, with a standard normal prior."""
    grid = np.linspace(-4, 4, 401)
    logits = a[:, None] * (grid - b[:, None])  # (items, grid)
    log_p, log_q = -np.logaddexp(0, -logits), -np.logaddexp(0, logits)
    joint = scores @ log_p + (1 - scores) @ log_q - 0.5 * grid**2
    return grid[joint.argmax(1)]


def compared(scores: np.ndarray, tasks: np.ndarray, truth: np.ndarray, n: int) -> dict[str, Any]:
    """Return rank correlation and loss of every way, with n items a task."""
    earlier, later = scores[:EARLIER], scores[EARLIER:]
    a, b, abilities = fitted(earlier)
    at = abilities.mean() + abilities.std()  # where a search is when it reuses a run
    p = 1 / (1 + np.exp(-a * (at - b)))
    information = a**2 * p * (1 - p)
    mean = np.mean([earlier[:, tasks == t].mean(1) for t in np.unique(tasks)], 0)
    centred = earlier - earlier.mean(0)
    agreement = (centred * (mean - mean.mean())[:, None]).mean(0) / (earlier.std(0) + 1e-3)

    def top(by: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [np.flatnonzero(tasks == t)[np.argsort(-by[tasks == t])[:n]] for t in np.unique(tasks)]
        )

    fixed = {"informative, mean": top(information), "agreeing, mean": top(agreement)}
    draw = np.random.default_rng(1)
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(REPEATS):
        generation = draw.choice(LATER, GENERATION, replace=False)
        right = truth[EARLIER:][generation]
        pool = np.concatenate(
            [
                draw.choice(
                    np.flatnonzero(tasks == t)[np.argsort(-information[tasks == t])[: 3 * n]],
                    n,
                    replace=False,
                )
                for t in np.unique(tasks)
            ]
        )
        drawn = np.concatenate(
            [draw.choice(np.flatnonzero(tasks == t), n, replace=False) for t in np.unique(tasks)]
        )
        said = {
            "drawn, mean": later[generation][:, drawn].mean(1),
            "drawn, ability": ability_of(later[generation][:, drawn], a[drawn], b[drawn]),
            "informative third drawn, mean": later[generation][:, pool].mean(1),
            "informative third drawn, ability": ability_of(
                later[generation][:, pool], a[pool], b[pool]
            ),
            **{name: later[generation][:, items].mean(1) for name, items in fixed.items()},
        }
        items = fixed["informative, mean"]
        said["informative, ability"] = ability_of(later[generation][:, items], a[items], b[items])
        for name, values in said.items():
            rank = spearmanr(values, right).statistic
            lost = right.max() - right[int(np.argmax(values))]
            found.setdefault(name, []).append((0.0 if np.isnan(rank) else float(rank), float(lost)))
    return {
        name: [round(float(np.mean(column)), 3) for column in zip(*pairs, strict=True)]
        for name, pairs in found.items()
    }


def main(folders: list[str]) -> None:
    torch.set_num_threads(1)
    for folder in folders:
        scores, tasks, truth = outcomes(zoos.Zoo(Path(folder)))
        for n in (1, 2, 4, 8, 16):
            table = compared(scores, tasks, truth, n)
            print(json.dumps({"zoo": Path(folder).name, "items a task": n, **table}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
