"""Fronts at equal item evaluations: ``python front.py ZOO OUT``.

Each task is an objective. An arm answers with a set of recipes, as many as preferences on a grid of
the simplex; it is worth the volume that their held-out exact matches dominate above 0, and the mean
over preferences of the best weighted score among them. A gradient over an item counts as three item
evaluations; an item of a task without weight is not looked at.

amortised     One run of Adam for all preferences, the idea of PWE-MoE (Tang 2024,
              https://arxiv.org/abs/2406.09770): x(r) = a + B r, r drawn anew for each step; it
              answers with x at the grid.
separate      A run of Adam for each preference of a coarser grid, and the midpoints between.
swept         The same, from the middle outwards, each started where its neighbour ended.
corners       A run of Adam for each task alone, and the mixtures between their ends.
one           A single run at equal weights: one recipe.
nsga2         The optimizer of that name on vectors of leads over the best anchor.
simplex_grid  All mixtures of the parents on a grid (rewarded soups).
"""

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from bench import Judge
from spaces import bound_space

from evomerge.optimizers import create
from evomerge.optimizers.procedures.simplex_grid import compositions
from evomerge.recipe.space.inverse import point_of
from evomerge.study.phases.anchors import anchors
from evomerge.study.phases.gradients import Chain
from evomerge.study.statistics.outcome import fitness
from evomerge.study.statistics.pareto import hypervolume, pareto_front
from evomerge.study.statistics.pools import generation_items
from evomerge.study.workers.requests import Gradient

COMPOSITES = ("demo_ja_sort", "demo_ja_max", "demo_ja_reverse")
PER_TASK = 4
LR, BETAS = 0.1, (0.9, 0.999)


class Steps:
    """Adam on an array; the answer is the mean of the last half of its points."""

    def __init__(self, start, lr):
        self.x, self.lr = np.array(start, float), lr
        self.m, self.v, self.n = np.zeros_like(self.x), np.zeros_like(self.x), 0
        self.path = []

    def step(self, g):
        self.path.append(self.x.copy())
        self.n += 1
        b1, b2 = BETAS
        self.m = b1 * self.m + (1 - b1) * g
        self.v = b2 * self.v + (1 - b2) * g * g
        m, v = self.m / (1 - b1**self.n), self.v / (1 - b2**self.n)
        self.x = self.x - self.lr * m / (np.sqrt(v) + 1e-12)

    @property
    def mean(self):
        return np.mean(self.path[len(self.path) // 2 :], axis=0) if self.path else self.x


class Front:
    """One search for a front on one judge."""

    def __init__(self, judge, space_name, seed, budget):
        self.judge, self.seed, self.budget, self.spent = judge, seed, budget, 0
        self.tasks = list(judge.tasks)
        self.k = len(self.tasks)
        self.space = bound_space(space_name, judge.config.base_model, list(judge.config.models))
        dimensions = self.space.dimensions
        self.low = np.array([d.low for d in dimensions])
        self.high = np.array([d.high for d in dimensions])
        self.lr = LR * np.minimum(1.0, self.high - self.low)
        self.looked = 0
        self.start = self._anchors()
        self.chain = Chain(self.space, self.start, judge.config.base_model, False)
        self.fine = compositions(self.k, {2: 10, 3: 4}[self.k])
        self.coarse = compositions(self.k, {2: 5, 3: 2}[self.k])

    def _anchors(self):
        items = generation_items(self.judge.pools["search"], 2 * PER_TASK, self.seed, -1)
        scored = []
        for anchor in anchors(self.judge.config):
            scored.append((sum(self.vector(anchor.recipe, items)), anchor.recipe))
        scored.sort(key=lambda pair: -pair[0])
        self.reference = scored[0][1]
        points = (point_of(self.space, recipe) for _, recipe in scored)
        return next(point for point in points if point is not None)

    def vector(self, recipe, items):
        """Score a recipe on each task."""
        rows = self.judge.rows(recipe, items, "smooth")
        self.spent += len(rows)
        return [
            fitness([r for r in rows if r.task == t], {t: self.judge.tasks[t]}, "smooth")
            for t in self.tasks
        ]

    def clipped(self, x):
        return np.clip(x, self.low, self.high)

    def recipe(self, x):
        return self.space.fill(tuple(np.round(self.clipped(x), 6).tolist()))

    def gradient(self, x, r):
        """Return the derivative of the loss weighted by r, on items not looked at before."""
        point = tuple(np.round(self.clipped(x), 6).tolist())
        self.looked += 1
        pool = {t: self.judge.pools["search"][t] for t, w in zip(self.tasks, r, strict=True) if w}
        items = generation_items(pool, PER_TASK, self.seed, self.looked)
        weights = {t: w / PER_TASK for t, w in zip(self.tasks, r, strict=True) if w}
        answer = self.judge._evaluator.handle(
            Gradient(self.space.fill(point).to_dict(), items, "answers", weights, False, None)
        )
        self.spent += 3 * len(answer.rows)
        return np.array(self.chain(answer, point))

    def price(self, r):
        return 3 * PER_TASK * sum(w > 0 for w in r)

    # the arms: each returns recipes

    def amortised(self, common=True):
        rng = np.random.default_rng(self.seed)
        d = len(self.start)
        start = np.zeros((d, self.k + 1))  # a, and B's columns
        start[:, 0] = self.start
        if not common:  # without a: a column for each corner of the simplex
            start = np.tile(start[:, :1], self.k)
        steps = Steps(start, self.lr[:, None])

        def at(values, r):
            return values[:, 0] + values[:, 1:] @ r if common else values @ r

        while self.spent + 3 * PER_TASK * self.k <= self.budget:
            r = rng.dirichlet(np.ones(self.k))
            g = self.gradient(at(steps.x, r), r)
            steps.step(np.outer(g, np.concatenate([[1.0], r]) if common else r))
        return [self.recipe(at(steps.mean, r)) for r in self.fine]

    def run(self, start, r, budget):
        steps = Steps(start, self.lr)
        until = self.spent + budget
        while self.spent + self.price(r) <= until:
            steps.step(self.gradient(steps.x, r))
            steps.x = self.clipped(steps.x)
        return steps

    def one(self):
        r = np.full(self.k, 1 / self.k)
        return [self.recipe(self.run(self.start, r, self.budget - self.spent).mean)]

    def between(self, ends):
        """Fill the finer grid: each of its points is halfway between two of the coarser one."""
        found = []
        for r in self.fine:
            pairs = [
                (p, q)
                for p in ends
                for q in ends
                if np.allclose((np.array(p) + np.array(q)) / 2, r)
            ]
            p, q = min(pairs, key=lambda pair: sum(abs(a - b) for a, b in zip(*pair, strict=True)))
            found.append(self.recipe((ends[p] + ends[q]) / 2))
        return found

    def separate(self, swept=False):
        order = sorted(self.coarse, key=lambda r: tuple(np.abs(r - 1 / self.k).round(6)))
        if swept:  # from the middle outwards, each from the nearest that is done
            order = sorted(self.coarse, key=lambda r: float(np.sum((r - 1 / self.k) ** 2)))
        share = (self.budget - self.spent) / sum(self.price(r) for r in order)
        ends, last = {}, {}
        for r in order:
            start = self.start
            if swept and last:
                start = last[min(last, key=lambda p: float(np.sum((np.array(p) - r) ** 2)))]
            steps = self.run(start, r, int(share * self.price(r)))
            ends[tuple(r.tolist())] = last[tuple(r.tolist())] = steps.mean
        return self.between(ends)

    def corners(self):
        each = (self.budget - self.spent) // self.k
        ends = [self.run(self.start, np.eye(self.k)[i], each).mean for i in range(self.k)]
        return [self.recipe(np.array(ends).T @ r) for r in self.fine]

    def nsga2(self):
        optimizer = create("nsga2")
        optimizer.start(self.space.dimensions, self.seed, self.start, None, self.k)
        generation, seen = 0, []
        while self.spent + (optimizer.population + 1) * PER_TASK * self.k <= self.budget:
            items = generation_items(self.judge.pools["search"], PER_TASK, self.seed, generation)
            generation += 1
            points = optimizer.ask()
            there = np.array(self.vector(self.reference, items))
            recipes = [self.space.fill(point) for point in points]
            leads = [(np.array(self.vector(recipe, items)) - there).tolist() for recipe in recipes]
            optimizer.tell(points, leads)
            seen += zip(leads, recipes, strict=True)
        return self.most(seen)

    def simplex_grid(self):
        config = self.judge.config
        space = bound_space("global", config.base_model, list(config.models))
        grid = compositions(len(self.judge.config.models), 4)
        left = (self.budget - self.spent) // len(grid) // self.k
        items = generation_items(self.judge.pools["search"], max(1, left), self.seed, 0)
        recipes = [space.fill(tuple(np.round(r, 6).tolist())) for r in grid]
        return self.most([(self.vector(recipe, items), recipe) for recipe in recipes])

    def most(self, seen):
        """Choose as many as others answer with: each adds most to the volume by search scores."""
        front = [seen[i] for i in pareto_front([v for v, _ in seen])]
        low = np.min([v for v, _ in front], axis=0) - 0.1
        chosen = []
        while front and len(chosen) < len(self.fine):
            of = [v for v, _ in chosen]
            best = max(range(len(front)), key=lambda i: hypervolume([*of, front[i][0]], low))
            chosen.append(front.pop(best))
        return [recipe for _, recipe in chosen]


def worth(judge, recipes, grid):
    """Judge a set of recipes on held-out items, by exact match."""
    vectors = []
    for recipe in recipes:
        rows = judge.rows(recipe, judge.pools["holdout"], "metric")
        vectors.append(
            [
                fitness([r for r in rows if r.task == t], {t: judge.tasks[t]}, "metric")
                for t in judge.tasks
            ]
        )
    utility = np.mean([max(float(np.dot(v, r)) for v in vectors) for r in grid])
    return {
        "volume": round(hypervolume(vectors, [0.0] * len(judge.tasks)), 4),
        "utility": round(float(utility), 4),
        "recipes": len(recipes),
        "front": len(pareto_front(vectors)),
        "best": [round(max(v[i] for v in vectors), 3) for i in range(len(judge.tasks))],
    }


ARMS = {
    "amortised": lambda f: f.amortised(),
    "amortised, corners": lambda f: f.amortised(common=False),
    "separate": lambda f: f.separate(),
    "swept": lambda f: f.separate(swept=True),
    "corners": lambda f: f.corners(),
    "one": lambda f: f.one(),
    "nsga2": lambda f: f.nsga2(),
    "simplex_grid": lambda f: f.simplex_grid(),
}


def table(file: Path) -> None:
    """Print medians over zoos and seeds, and in how many searches the first arm was ahead."""
    lines = [json.loads(x) for f in sorted(file.parent.glob("*.jsonl")) for x in f.open()]
    groups: dict[tuple, dict[str, dict[tuple, dict]]] = {}
    for x in lines:
        of = groups.setdefault((x["objectives"], x["space"], x["budget"]), {})
        of.setdefault(x["arm"], {})[x["zoo"], x["seed"]] = x
    print("| objectives, space, item evaluations | arm | n | volume | utility | amortised's lead |")
    for key, arms in sorted(groups.items(), key=str):
        first = arms.get("amortised", {})
        for arm, runs in arms.items():
            shown = [statistics.median(x[n] for x in runs.values()) for n in ("volume", "utility")]
            leads = [first[k]["volume"] - x["volume"] for k, x in runs.items() if k in first]
            ahead = f"{statistics.mean(leads):+.3f} ({sum(v > 0 for v in leads)} of {len(leads)})"
            print(
                "|", *key, "|", arm, "|", len(runs), "| {:.3f} | {:.3f}".format(*shown), "|", ahead
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tasks", nargs="+", default=None)
    parser.add_argument("--objectives", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--spaces", nargs="+", default=["global", "depth", "tensor"])
    parser.add_argument("--budgets", type=int, nargs="+", default=[3360])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    a = parser.parse_args()
    torch.set_num_threads(1)
    a.out.mkdir(parents=True, exist_ok=True)
    file = a.out / f"{a.zoo.name}.jsonl"
    done = [json.loads(x) for x in file.read_text().splitlines()] if file.exists() else []
    tasks = a.tasks or COMPOSITES
    judges = {k: Judge(a.zoo, tasks=tasks[:k]) for k in a.objectives}
    forms = itertools.product(a.seeds, a.spaces, a.objectives, a.budgets, a.arms)
    for seed, space, k, budget, arm in forms:
        key = {"zoo": a.zoo.name, "objectives": k, "space": space, "budget": budget}
        key |= {"seed": seed, "arm": arm}
        if any(all(line[n] == v for n, v in key.items()) for line in done):
            continue
        began = time.process_time()
        search = Front(judges[k], space, seed, budget)
        recipes = ARMS[arm](search)
        seconds = round(time.process_time() - began, 1)
        result = {**key, **worth(judges[k], recipes, search.fine)}
        result |= {"spent": search.spent, "seconds": seconds}
        done.append(result)
        with file.open("a") as stream:
            stream.write(json.dumps(result, ensure_ascii=False) + "\n")
        print(json.dumps(result, ensure_ascii=False), flush=True)
    table(file)


if __name__ == "__main__":
    main()
