"""Runs searches of equal item evaluations: ``python bench.py ZOO OUT --arms … --seeds …``.

One JSON line per finished search is appended to OUT/searches.jsonl; a search that is there is not
run again, so the command resumes. Every (candidate, item) pair that an arm looks at is charged to
it: anchors, the reference anchor in each generation and the final race too. Held-out scores are the
judge's and are charged to nobody.
"""

import argparse
import fcntl
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from arms import ARMS, HEADLINE, Arm
from peers import MergekitEvolve, Mergenetic
from spaces import bound_space, parents

from evomerge.evaluate.outcomes import OutcomeRow, passes_of, score_kind_of
from evomerge.merge.gradient.segment import alone
from evomerge.optimizers import create
from evomerge.optimizers.relay import Relay
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.space.inverse import point_of
from evomerge.study.config import StudyConfig
from evomerge.study.journal.shards import PRICES
from evomerge.study.phases.anchors import anchors
from evomerge.study.phases.gradients import Chain, item_weights
from evomerge.study.statistics.outcome import fitness, item_scores
from evomerge.study.statistics.pools import generation_items, split
from evomerge.study.statistics.race import Race
from evomerge.study.workers.evaluator import Evaluator
from evomerge.study.workers.requests import Describe, Evaluate, Failure, Gradient

BUDGET = 11_200  # item evaluations: 100 candidates on 16 items of each of seven tasks
SHARES = {"search": 0.5, "race": 0.1, "holdout": 0.4}  # of 512 documents a task
RACERS, RACED_PER_TASK = 6, 40
WATCHED = (0.2,)  # shares of the budget after which the answer so far is judged too
WATCHED_PER_TASK = 100


class Judge:
    """A zoo with its models in memory: scores recipes on items, and on held-out items once."""

    def __init__(
        self, zoo: Path, labels: int | None = None, tasks: Sequence[Any] | None = None
    ) -> None:
        """Prepare a zoo: all its generation tasks, or those given as in a study file."""
        if tasks is None:
            tasks = sorted(p.stem for p in (zoo / "tasks").glob("*.yaml"))
            tasks = [t for t in tasks if not t.endswith(("_ll", "_mc"))]
        self.zoo = zoo
        base, models = parents(zoo)
        document = {
            "base_model": base,
            "models": models,
            "space": "global_linear",
            "evaluate": {"tasks": list(tasks), "include_path": [str(zoo / "tasks")]},
            "output": {"dtype": "float32"},
        }
        self.config = StudyConfig.from_dict(document, zoo)
        self._evaluator = Evaluator(self.config)
        described = self._evaluator.handle(Describe()).evaluation
        self.tasks = {
            task: {"metric": m["name"], "higher_is_better": m["higher_is_better"], "weight": 1.0}
            for task, m in described["metrics"].items()
        }
        self.pools = split(described["item_keys"], SHARES, seed=0)  # the same for every search
        if labels is not None:
            search = self.pools["search"]
            self.pools["search"] = {task: ids[:labels] for task, ids in search.items()}
        self._judged: dict[tuple[str, int], float] = {}
        self._lines: dict[str, str] | None = None

    def rows(self, recipe: Recipe, items: dict, mode: str) -> list[OutcomeRow]:
        answer = self._evaluator.handle(Evaluate(recipe.to_dict(), [items], mode))
        if isinstance(answer, Failure):
            raise RuntimeError(answer.message)
        return [OutcomeRow(*row) for row in answer.rows]

    def gradient(self, search: "Search", point: tuple, items: dict) -> tuple[list, list[float]]:
        """Return outcomes, and the derivative of the loss along each dimension."""
        optimizer, recipe = search.optimizer, search.space.fill(point)
        if search.chain is None or search.chained_at != optimizer.origin:
            search.chained_at = optimizer.origin
            base = self.config.base_model
            search.chain = Chain(search.space, optimizer.origin, base, optimizer.piecewise)
        weights = item_weights(dict.fromkeys(items, 1.0), items)
        lines = self.lines(search) if optimizer.loss == "line" else None
        answer = self._evaluator.handle(
            Gradient(recipe.to_dict(), items, optimizer.loss, weights, optimizer.piecewise, lines)
        )
        if isinstance(answer, Failure):
            raise RuntimeError(answer.message)
        return [OutcomeRow(*row) for row in answer.rows], search.chain(answer, point)

    def lines(self, search: "Search") -> dict[str, str]:
        """Return each task's best parent by a few search items, which the search pays for."""
        if self._lines is None:
            items = {task: ids[:4] for task, ids in self.pools["search"].items()}
            scores = {}
            for model in self.config.models:
                rows = self.rows(
                    alone(model, search.space.fill(search.optimizer.origin)), items, "smooth"
                )
                for task in items:
                    of_task = [row for row in rows if row.task == task]
                    scores[model, task] = fitness(of_task, {task: self.tasks[task]}, "smooth")
            self._lines = {
                task: max(self.config.models, key=lambda model: scores[model, task])
                for task in items
            }
        if not search.lined:
            search.lined = True
            search.spent += len(self.config.models) * sum(
                min(4, len(i)) for i in self.pools["search"].values()
            )
        return self._lines

    def held_out(self, recipe: Recipe, per_task: int = 10**9) -> float:
        key = (recipe.digest, per_task)
        if key not in self._judged:
            items = {task: ids[:per_task] for task, ids in self.pools["holdout"].items()}
            self._judged[key] = fitness(self.rows(recipe, items, "metric"), self.tasks, "metric")
        return self._judged[key]


class Search:
    """One search: an arm, a space, a seed."""

    def __init__(self, judge: Judge, arm: Arm, space_name: str, seed: int, budget: int) -> None:
        self.judge, self.arm, self.seed = judge, arm, seed
        self.brief = False
        base, models = judge.config.base_model, list(judge.config.models)
        self.space = bound_space(space_name, base, models)
        self.spent, self.budget = 0, budget
        self.best_seen: tuple[float, Recipe] | None = None
        self.gains: list[tuple[float, Recipe]] = []
        self.told: list[dict] = []  # what the item matrices are made of
        self.reference: Recipe | None = None
        self.chain: Chain | None = None
        self.lined = False
        self.chained_at: tuple | None = None
        start = None
        if arm.anchored or arm.options.get("start") == "anchor":
            start = self._anchors()
        dimensions = len(self.space.dimensions)
        if arm.optimizer == "mergekit-evolve":
            self.space = bound_space(space_name, base, models, 0.0, 100.0)
            self.optimizer = MergekitEvolve(dimensions, len(models), seed, start)
        elif arm.optimizer == "mergenetic":
            self.optimizer = Mergenetic(dimensions, seed)
        else:
            self.optimizer = self._made()
            self.optimizer.start(self.space.dimensions, seed, start)

    def _made(self) -> Any:
        """The arm's optimizer, or the relay of two, the first of which has a share of the cost."""
        first = create(self.arm.optimizer, **self.arm.options)
        if self.arm.then is None:
            return first
        first.start(self.space.dimensions, self.seed)
        n_items = self.arm.per_task * len(self.judge.tasks)
        left = self.budget - self.spent - RACERS * RACED_PER_TASK * len(self.judge.tasks)
        generation = (first.population + 1) * n_items
        points = int(self.arm.share * left / generation) * first.population
        name, options = self.arm.then
        return Relay([(first, max(points, first.population)), (create(name, **options), 10**9)])

    def run(self) -> dict:
        began, watched = time.process_time(), {}
        reserve = RACERS * RACED_PER_TASK * len(self.judge.tasks) if self.arm.anchored else 0
        generation, judging = 0, 0.0
        while not getattr(self.optimizer, "stopped", None):
            n = self.optimizer.population + self.arm.anchored
            if self.follows:
                n = self._price()
            cost = n * self.arm.per_task * len(self.judge.tasks)
            if generation and self.spent + cost > self.budget - reserve:
                break
            self._generation(generation)
            generation += 1
            at = time.process_time()
            for share in () if self.brief else WATCHED:
                if share not in watched and self.spent >= share * self.budget:
                    watched[share] = self.judge.held_out(self.answer(), WATCHED_PER_TASK)
            judging += time.process_time() - at
        early = self.answer()
        final = self._race(early) if self.arm.anchored else early
        seconds = time.process_time() - began - judging
        return {
            "held_out": round(self.judge.held_out(final), 4),
            **({} if self.brief else {"unraced": round(self.judge.held_out(early), 4)}),
            **({"watched": {str(k): round(v, 4) for k, v in watched.items()}} if watched else {}),
            "item_evaluations": self.spent,
            "candidates": len(self.gains),
            "generations": generation,
            "search_score": None if self.best_seen is None else round(self.best_seen[0], 4),
            "seconds": round(seconds, 2),
            "digest": final.digest,
            "recipe": final.to_dict() if final.digest != self._anchor_digest() else "best anchor",
        }

    def answer(self) -> Recipe:
        """What the arm would answer now, without a race."""
        mean = getattr(self.optimizer, "mean", None)
        if mean is not None and (self.arm.anchored or self.follows):
            return self.space.fill(mean)
        if self.arm.anchored:
            return max(self.gains, key=lambda pair: pair[0])[1]
        assert self.best_seen is not None
        return self.best_seen[1]

    @property
    def follows(self) -> bool:
        """Whether the optimizer learns from gradients."""
        return getattr(self.optimizer, "learns_from_gradients", False)

    def _price(self) -> int:
        """Item evaluations that a gradient over an item counts."""
        loss = self.optimizer.loss
        return PRICES[score_kind_of(loss)] * passes_of(loss)

    def _anchors(self) -> tuple | None:
        """Score the anchors; the best one that the space holds is the start."""
        pool, n = self.judge.pools["search"], 2 * self.arm.per_task
        items = generation_items(pool, n, self.seed, -1)
        scored = []
        for anchor in anchors(self.judge.config):
            rows = self._scored(anchor.recipe, items)
            scored.append((fitness(rows, self.judge.tasks, self.arm.score), anchor.recipe))
        scored.sort(key=lambda pair: -pair[0])
        self.reference = scored[0][1]
        points = (point_of(self.space, recipe) for _, recipe in scored)
        return next((point for point in points if point is not None), None)

    def _generation(self, generation: int) -> None:
        seen = generation if self.arm.redraw else 0
        items = generation_items(self.judge.pools["search"], self.arm.per_task, self.seed, seen)
        points = self.optimizer.ask()
        recipes = [self.space.fill(point) for point in points]
        if self.follows:
            mode = score_kind_of(self.optimizer.loss)
            rows, gradient = self.judge.gradient(self, points[0], items)
            self.spent += self._price() * len(rows)
            value = fitness(rows, self.judge.tasks, mode)
            self.gains.append((value, recipes[0]))
            self.best_seen = value, recipes[0]
            self.optimizer.tell(points, [value], gradients=[gradient])
            return
        rows = [self._scored(recipe, items) for recipe in recipes]
        values = [fitness(outcomes, self.judge.tasks, self.arm.score) for outcomes in rows]
        reference = 0.0
        if self.arm.anchored:
            reference = fitness(
                self._scored(self.reference, items), self.judge.tasks, self.arm.score
            )
        for value, recipe in zip(values, recipes, strict=True):
            self.gains.append((value - reference, recipe))
            if self.best_seen is None or value > self.best_seen[0]:
                self.best_seen = (value, recipe)
        self.told.append({"points": points, "items": items, "rows": rows})
        gains = [value - reference for value in values] if self.arm.is_paired else values
        if not getattr(self.optimizer, "learns_from_items", False):
            self.optimizer.tell(points, gains)
            return
        scores = [item_scores(outcomes, self.judge.tasks, self.arm.score) for outcomes in rows]
        self.optimizer.tell(points, gains, scores)

    def _race(self, answer: Recipe) -> Recipe:
        """The study's own race: the best anchor, the answer and the leaders by paired gain."""
        leaders = sorted(self.gains, key=lambda pair: -pair[0])
        racers: dict[str, Recipe] = {}
        others = [recipe for _, recipe in leaders]
        if self.follows:
            others = [self.space.fill(point) for point in reversed(self.optimizer.milestones)]
        for recipe in (self.reference, answer, *others):
            if len(racers) < RACERS:
                racers.setdefault(recipe.digest, recipe)
        runners = list(racers.values())
        pool = {t: ids[:RACED_PER_TASK] for t, ids in self.judge.pools["race"].items()}
        race = Race(range(len(runners)), pool, self.judge.tasks)
        while (items := race.next_items()) is not None:
            values = {}
            for i in race.alive:
                rows = self.judge.rows(runners[i], items, "metric")
                self.spent += len(rows)
                values[i] = {(row.task, row.doc_id): row.metric for row in rows}
            race.observe(values)
        return runners[race.winner]

    def _scored(self, recipe: Recipe, items: dict) -> list[OutcomeRow]:
        rows = self.judge.rows(recipe, items, self.arm.score)
        self.spent += len(rows)
        return rows

    def _anchor_digest(self) -> str | None:
        return None if self.reference is None else self.reference.digest

    def matrices(self) -> dict[str, np.ndarray]:
        """Points, and for each the items it saw and what it scored there, in hundredths."""
        tasks = sorted(self.judge.tasks)
        rows = [row for feedback in self.told for of_point in feedback["rows"] for row in of_point]
        value = [row.smooth if self.arm.score == "smooth" else row.metric for row in rows]
        n = len(self.told)
        if not n:
            return {}
        n = len(self.gains)
        return {
            "points": np.array(
                [p for feedback in self.told for p in feedback["points"]], np.float32
            ),
            "generation": np.repeat(
                np.arange(len(self.told)), [len(t["points"]) for t in self.told]
            ).astype(np.uint16),
            "task": np.array([tasks.index(r.task) for r in rows], np.uint8).reshape(n, -1),
            "doc": np.array([r.doc_id for r in rows], np.uint16).reshape(n, -1),
            "score": np.clip(np.round(100 * np.array(value, float)), 0, 255)
            .astype(np.uint8)
            .reshape(n, -1),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--arms", nargs="+", default=list(HEADLINE))
    parser.add_argument("--spaces", nargs="+", default=["parts", "depth", "global"])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(8)))
    parser.add_argument("--budget", type=int, default=BUDGET)
    parser.add_argument("--labels", type=int, help="items a task that the search pool has")
    parser.add_argument("--brief", action="store_true", help="judge the last answer alone")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no search after")
    arguments = parser.parse_args()
    (arguments.out / "matrices").mkdir(parents=True, exist_ok=True)
    began, judge = time.monotonic(), Judge(arguments.zoo, arguments.labels)
    for space in arguments.spaces:
        for seed in arguments.seeds:
            for arm in arguments.arms:
                key = {"arm": arm, "space": space, "seed": seed, "budget": arguments.budget}
                if arguments.labels is not None:
                    key["labels"] = arguments.labels
                if time.monotonic() - began > arguments.seconds:
                    raise SystemExit(75)  # there is more to do: call again
                if not _claim(arguments.out, key):
                    continue
                search = Search(judge, ARMS[arm], space, seed, arguments.budget)
                search.brief = arguments.brief
                result = {**key, **search.run()}
                name = "-".join(str(v) for v in key.values()).replace(" ", "_").replace(",", "")
                np.savez_compressed(arguments.out / "matrices" / f"{name}.npz", **search.matrices())
                with (arguments.out / "searches.jsonl").open("a") as file:
                    file.write(json.dumps(result, ensure_ascii=False) + "\n")
                shown = {k: v for k, v in result.items() if k not in ("recipe", "digest")}
                print(json.dumps(shown, ensure_ascii=False), flush=True)
    if not (arguments.out / "anchors.json").exists():
        _anchors_held_out(judge, arguments.out)


def _claim(out: Path, key: dict) -> bool:
    """Take a search for this process unless it is done, or another process that lives has it."""
    done = out / "searches.jsonl"
    if done.exists():
        lines = [json.loads(line) for line in done.read_text().splitlines()]
        wanted = {"labels": None, **key}
        if any(all(line.get(k) == v for k, v in wanted.items()) for line in lines):
            return False
    name = json.dumps(key, sort_keys=True, ensure_ascii=False).replace("/", "_")
    lock = (out / "matrices" / f".{hashlib.sha1(name.encode()).hexdigest()[:16]}.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    _HELD.append(lock)
    return True


_HELD: list = []


def _anchors_held_out(judge: Judge, out: Path) -> None:
    """What all arms are measured against: every anchor's held-out score."""
    scores = {a.name: round(judge.held_out(a.recipe), 4) for a in anchors(judge.config)}
    watched = {
        a.name: round(judge.held_out(a.recipe, WATCHED_PER_TASK), 4) for a in anchors(judge.config)
    }
    (out / "anchors.json").write_text(
        json.dumps({"held_out": scores, "watched": watched}, ensure_ascii=False, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
