"""A study: check, anchors, search, race, verdict, export. Run again, it resumes.

The control flow is written as if nothing could go wrong. Everything it asks for goes through the
ledger, which hands out what the journal holds and pays for the rest; and every proposal of the
optimizer is compared with the one that the journal holds. So resuming is running again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from evomerge import __version__, search
from evomerge.dimension import Point
from evomerge.errors import UserError
from evomerge.recipe import Recipe
from evomerge.space import SearchSpace
from evomerge.study.anchors import anchors
from evomerge.study.config import StudyConfig, seconds
from evomerge.study.finish import Finish
from evomerge.study.journal import JOURNAL, iterate
from evomerge.study.ledger import Items, Ledger, Listener
from evomerge.study.objective import Row, fitness
from evomerge.study.pools import generation_items, split
from evomerge.study.record import Record, TrialRecord
from evomerge.study.scheduler import Scheduler
from evomerge.study.workers import open_pool

# What may differ when a study is resumed: how long, where, and what is kept.
_FREE = {("search", "trials"), ("search", "deadline"), ("workers",), ("output", "save_model")}
# An optimizer's mean, and the leaders of the whole search and of its last generations, race.
LEADERS, RECENT_LEADERS, RECENT_GENERATIONS = 4, 3, 3


class Study:
    """A search in a directory.

    Args:
        config: What to search, on what, for how long.
        directory: The run folder; the same folder resumes.
        listener: Called after every event with the event and the record.
    """

    def __init__(
        self, config: StudyConfig, directory: str | Path, listener: Listener | None = None
    ):
        self.config = config
        self.directory = Path(directory)
        self.space: SearchSpace = _space(config)
        self._listener = listener
        self._ledger: Ledger | None = None
        self._started = time.monotonic()
        self._optimizer(None)  # refuses what it cannot search with, before anything is spent

    @property
    def record(self) -> Record:
        """What the study has done so far, from the journal if it is not running."""
        if self._ledger is not None:
            return self._ledger.record
        journal = self.directory / JOURNAL
        return Record.from_events(iterate(journal)) if journal.is_file() else Record()

    @property
    def best_recipe(self) -> Recipe:
        """The recipe that the verdict recommends.

        Raises:
            UserError: There is no verdict yet.
        """
        record = self.record
        if record.verdict is None:
            raise UserError(f"{self.directory}: there is no verdict yet: call confirm()")
        return Recipe.from_dict(record.trials[record.verdict["winner"]["trial"]].recipe)

    @property
    def ledger(self) -> Ledger:
        """The open ledger; only while the study runs."""
        assert self._ledger is not None, "the ledger is open only while the study runs"
        return self._ledger

    def optimize(self, n_trials: int | None = None) -> None:
        """Score the anchors and search; called again, it goes on.

        Args:
            n_trials: In all, in whole generations; ``None`` takes the configuration's.

        Raises:
            UserError: Something that the user can mend; the run folder resumes.
        """
        if n_trials is not None:
            told = replace(self.config.search, trials=n_trials)
            self.config = replace(self.config, search=told)
        self._run(finish=False)

    def confirm(self) -> Mapping[str, Any]:
        """Race, judge and export what was found; returns what verdict.json holds.

        Searches first if that is not done. Called again, it returns the same.

        Raises:
            UserError: Something that the user can mend; the run folder resumes.
        """
        judged = self._run(finish=True)
        assert judged is not None
        return judged

    def _run(self, finish: bool) -> Mapping[str, Any] | None:
        self._started = time.monotonic()
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise UserError(f"{self.directory}: cannot make a run folder: {error}") from None
        self._ledger = Ledger(self.directory / JOURNAL, self._listener)
        try:
            if self.ledger.record.study is not None:
                self._compare(self.ledger.record.study)
            done = self._finished()
            if done is not None:
                return done
            with open_pool(self.config, self.directory / "workers.log") as pool:
                self.ledger.employ(Scheduler(pool))
                self._check()
                baseline = self._anchors()
                optimizer = self._search(baseline)
                if not finish:
                    return None
                ending = Finish(self.config, self.directory, self.ledger, self._pools)
                return ending.run(self._contenders(baseline, optimizer), baseline)
        finally:
            self.ledger.close()
            self._ledger = None

    # -- phase 0 ---------------------------------------------------------------------------------

    def _finished(self) -> Mapping[str, Any] | None:
        """The verdict of a study that has nothing left to do."""
        record = self.ledger.record
        if record.study is None or record.verdict is None or record.exported is None:
            return None
        ended = record.search_ended
        asked = sum(len(g.trials) for g in record.generations.values())
        enough = ended is not None and (
            ended["trials"] >= self.config.search.trials
            or ended["wanted"] >= self.config.search.trials
        )
        whole = record.exported["model"] is not None or not self.config.output.save_model
        if asked and enough and whole:
            return {k: v for k, v in record.verdict.items() if k not in ("event", "time")}
        return None

    def _check(self) -> None:
        """Have a worker check parents and tasks; begin the journal, or compare with it."""
        told = self.ledger.request(do="describe")
        event = self._study_event(told)
        past = self.record.study
        if past is None:
            self.ledger.log(event)
            return
        for key, what in (("fingerprints", "a parent's weights"), ("protocol", "the tasks")):
            if past[key] != event[key]:
                named = _first_difference(past[key], event[key], key)
                raise UserError(
                    f"{self.directory}: {what} changed since this study began ({named}); "
                    "put back what it began with, or start another run folder"
                )

    def _study_event(self, told: Mapping[str, Any]) -> dict[str, Any]:
        evaluation = told["evaluation"]
        keys = evaluation["item_keys"]
        ids = evaluation["items"]
        shares = self.config.evaluate.items.shares
        pools = {
            pool: {task: [ids[task][i] for i in chosen] for task, chosen in items.items()}
            for pool, items in split(keys, shares, self.config.search.seed).items()
        }
        tasks = {
            task: {
                "metric": metric["name"],
                "higher_is_better": metric["higher_is_better"],
                "weight": evaluation["weights"][task],
                "output_type": evaluation["output_types"][task],
            }
            for task, metric in evaluation["metrics"].items()
        }
        return {
            "event": "study",
            "format": 1,
            "version": __version__,
            "config": self.config.to_dict(),
            "space": self.space.document,
            "dimensions": [asdict(d) for d in self.space.dimensions],
            "protocol": evaluation["digest"],
            "fingerprints": told["fingerprints"],
            "parameters": told["parameters"],
            "layers": told["layers"],
            "device": told["device"],
            "tasks": tasks,
            "pools": pools,
            "warnings": evaluation["warnings"],
        }

    def _compare(self, past: Mapping[str, Any]) -> None:
        """Refuse to resume with a study that asks for something else."""
        old, new = _fixed(past["config"]), _fixed(self.config.to_dict())
        if old != new:
            raise UserError(
                f"{self.directory}: this run began with another study: "
                f"{_first_difference(old, new, 'study')}; start another run folder"
            )

    # -- phase 1 ---------------------------------------------------------------------------------

    def _anchors(self) -> list[TrialRecord]:
        """Score every anchor on one item set, by the smooth score and the metric."""
        wanted = anchors(self.config)
        per_task = 2 * self.config.evaluate.items.per_generation
        items = generation_items(self._pools["search"], per_task, self._seed, -1)
        if not self.record.asks:
            self._ask([(a.kind, a.name, None, a.recipe) for a in wanted], None, items)
        ask = self.record.asks[0]
        self._same(ask.trials, [a.recipe for a in wanted], "anchor")
        for mode in self._modes:
            self._outcomes(ask.trials, items, mode, "anchors")
        return [self.record.trials[number] for number in ask.trials]

    def anchor_scores(self, baseline: Sequence[TrialRecord], field: str) -> dict[int, float]:
        """Fitness of the anchors that could be scored, by ``smooth`` or ``metric``."""
        items = self.record.asks[0].items or {}
        scored = self._outcomes([t.number for t in baseline], items, field, "anchors")
        return {n: self._fitness(rows, field) for n, rows in scored.items() if rows is not None}

    # -- phase 2 ---------------------------------------------------------------------------------

    def _search(self, baseline: Sequence[TrialRecord]) -> search.Optimizer:
        """Generation after generation, each on its own items."""
        told = self.config.search
        by_metric = self.anchor_scores(baseline, "metric")
        if not by_metric:
            cause = next(t.failure for t in self._trials(baseline) if t.failure is not None)
            raise UserError(f"no anchor could be scored: {cause.message}")
        reference = max(by_metric, key=lambda number: by_metric[number])
        optimizer = self._optimizer(self._start(baseline))
        pairs = self._pairs(baseline)
        asked, generation, reason = 0, 0, "trials"
        ended = self.record.search_ended
        while True:
            if optimizer.stopped:
                reason = optimizer.stopped
                break
            if generation and asked + optimizer.population > told.trials:
                break
            known = generation in self.record.generations
            if not known and (self._is_late() or _has_stopped(ended, told.trials)):
                reason = "deadline"
                break
            points = optimizer.ask()
            asked += len(points)
            optimizer.tell(points, self._generation(generation, points, reference, pairs))
            self._check_that_some_live(generation)
            generation += 1
        if ended is None or (ended["trials"], ended["wanted"]) != (asked, told.trials):
            end = {"reason": reason, "trials": asked, "wanted": told.trials}
            self.ledger.log({"event": "search_ended", **end})
        return optimizer

    def _optimizer(self, start: Point | None) -> search.Optimizer:
        """The study's optimizer, ready to be asked."""
        told = self.config.search
        optimizer = search.create(told.optimizer, **told.options)
        seed = None if "seed" in told.options else told.seed
        optimizer.start(self.space.dimensions, seed, start, told.population)
        return optimizer

    def _generation(
        self,
        generation: int,
        points: Sequence[Point],
        reference: int,
        pairs: list[tuple[float, float]],
    ) -> list[float | None]:
        """Score one generation and write down its fitness."""
        items = generation_items(
            self._pools["search"],
            self.config.evaluate.items.per_generation,
            self._seed,
            generation,
        )
        recipes = [self.space.fill(point) for point in points]
        if generation not in self.record.generations:
            first = max(self.record.trials) + 1
            asked = [
                ("trial", f"trial {first + i}", point, recipe)
                for i, (point, recipe) in enumerate(zip(points, recipes, strict=True))
            ]
            self._ask(asked, generation, items)
        ask = self.record.generations[generation]
        self._same(ask.trials, recipes, f"generation {generation}, trial")
        field = self.config.evaluate.fitness
        rows = self._outcomes([*ask.trials, reference], items, field, "search")
        values = [None if r is None else self._fitness(r, field) for r in map(rows.get, ask.trials)]
        correlation = self._correlation(ask.trials, values, items, pairs)
        if ask.fitness is None:
            held = rows[reference]
            self.ledger.log(
                {
                    "event": "told",
                    "generation": generation,
                    "trials": list(ask.trials),
                    "fitness": values,
                    "reference": {
                        "trial": reference,
                        "fitness": None if held is None else self._fitness(held, field),
                    },
                    "correlation": correlation,
                }
            )
        return values

    def _correlation(
        self,
        trials: Sequence[int],
        values: Sequence[float | None],
        items: Items,
        pairs: list[tuple[float, float]],
    ) -> float | None:
        """Rank correlation of the smooth score with the metric, over anchors and leaders so far."""
        if self.config.evaluate.fitness == "metric":
            return None
        scored = [(v, n) for v, n in zip(values, trials, strict=True) if v is not None]
        if scored:
            value, leader = max(scored, key=lambda pair: (pair[0], -pair[1]))
            rows = self._outcomes([leader], items, "metric", "search")[leader]
            if rows is not None:
                pairs.append((value, self._fitness(rows, "metric")))
        return rank_correlation(pairs)

    def _pairs(self, baseline: Sequence[TrialRecord]) -> list[tuple[float, float]]:
        """(smooth, metric) of every anchor."""
        smooth = self.anchor_scores(baseline, self._modes[0])
        metric = self.anchor_scores(baseline, "metric")
        return [(smooth[number], metric[number]) for number in smooth if number in metric]

    def _start(self, baseline: Sequence[TrialRecord]) -> Point | None:
        """The point of the best anchor that the space holds; ``None`` if it holds none."""
        scored = self.anchor_scores(baseline, self._modes[0])
        for number in sorted(scored, key=lambda n: -scored[n]):
            point = self.space.point_of(Recipe.from_dict(self.record.trials[number].recipe))
            if point is not None:
                return point
        return None

    def _contenders(
        self, baseline: Sequence[TrialRecord], optimizer: search.Optimizer
    ) -> list[int]:
        """Who races, simplest first: the best anchors, the optimizer's mean, the search's leaders.

        Leaders are ranked by how far they were ahead of the reference anchor on the same items,
        since generations see different items.
        """
        by_metric = self.anchor_scores(baseline, "metric")
        found = sorted(by_metric, key=lambda number: -by_metric[number])[:2]
        mean = optimizer.mean
        if mean is not None:
            found.append(self._mean(mean))
        gains = {}
        for generation in self.record.generations.values():
            against = generation.reference
            for number, value in zip(generation.trials, generation.fitness or (), strict=False):
                if value is not None and against is not None:
                    gains[number] = value - against
        last = max(self.record.generations, default=0) - RECENT_GENERATIONS
        recent = [n for n in gains if (self.record.trials[n].generation or 0) > last]
        leaders = sorted(gains, key=lambda n: (-gains[n], n))[:LEADERS]
        leaders += sorted(recent, key=lambda n: (-gains[n], n))[:RECENT_LEADERS]
        unique: dict[str, int] = {}
        for number in [*found, *leaders]:
            unique.setdefault(self.record.trials[number].digest, number)
        return list(unique.values())

    def _mean(self, point: Point) -> int:
        """The trial at the optimizer's mean, asked now unless it was before."""
        recipe = self.space.fill(point)
        for trial in self.record.trials.values():
            if trial.digest == recipe.digest:
                return trial.number
        self._ask([("mean", "the optimizer's mean", point, recipe)], None, None)
        return max(self.record.trials)

    # -- what all phases use ---------------------------------------------------------------------

    @property
    def _seed(self) -> int:
        return self.config.search.seed

    @property
    def _modes(self) -> tuple[str, ...]:
        """How anchors are scored: as the search scores, and by the metric."""
        return ("smooth", "metric") if self.config.evaluate.fitness == "smooth" else ("metric",)

    @property
    def _pools(self) -> dict[str, dict[str, list[int]]]:
        assert self.record.study is not None
        pools: dict[str, dict[str, list[int]]] = self.record.study["pools"]
        return pools

    def _trials(self, some: Sequence[TrialRecord]) -> list[TrialRecord]:
        return [self.record.trials[trial.number] for trial in some]

    def _fitness(self, rows: Sequence[Row], field: str) -> float:
        return fitness(rows, self.record.tasks, "smooth" if field == "smooth" else "metric")

    def _outcomes(
        self, trials: Sequence[int], items: Items, mode: str, phase: str
    ) -> dict[int, list[Row] | None]:
        batch = self.config.evaluate.rows_per_batch
        return self.ledger.outcomes(trials, items, mode, phase, batch)

    def _ask(
        self,
        asked: Sequence[tuple[str, str, Point | None, Recipe]],
        generation: int | None,
        items: Items | None,
    ) -> None:
        first = max(self.record.trials, default=-1) + 1
        trials = [
            {
                "trial": first + i,
                "kind": kind,
                "name": name,
                "generation": generation,
                "index": i,
                "point": None if point is None else list(point),
                "recipe": recipe.to_dict(),
                "digest": recipe.digest,
            }
            for i, (kind, name, point, recipe) in enumerate(asked)
        ]
        self.ledger.log({"event": "asked", "trials": trials, "items": items})

    def _same(self, numbers: Sequence[int], recipes: Sequence[Recipe], what: str) -> None:
        """What is asked now must be what the journal says was asked then."""
        held = [self.record.trials[number].digest for number in numbers]
        for i, recipe in enumerate(recipes):
            if i >= len(held) or held[i] != recipe.digest:
                raise UserError(
                    f"{self.directory}: {what} {i} is not the recipe in the journal: another "
                    "version of evomerge or of the optimizer's library wrote it; resume with that, "
                    "or start another run folder"
                )

    def _is_late(self) -> bool:
        """Whether the deadline leaves just the time that race and verdict will take."""
        limit = seconds(self.config.search.deadline)
        if limit is None:
            return False
        paid = self.record.seconds["total"] / max(1, self.record.item_evaluations)
        final = sum(len(ids) for p in ("race", "holdout") for ids in self._pools[p].values())
        reserve = 3 * final * 12 * paid / self.config.workers.count
        return time.monotonic() - self._started > limit - min(reserve, limit / 2)

    def _check_that_some_live(self, generation: int) -> None:
        """Stop when three generations in a row failed as a whole."""
        last = [self.record.generations[g] for g in range(max(0, generation - 2), generation + 1)]
        if len(last) == 3 and all(not any(v is not None for v in g.fitness or ()) for g in last):
            failure = self.record.trials[last[-1].trials[0]].failure
            raise UserError(
                "every trial of three generations failed; the last one said: "
                f"{failure.message if failure else 'nothing'}"
            )


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Spearman's rank correlation; ``None`` for fewer than four pairs or where one side is flat."""
    from scipy.stats import rankdata

    if len(pairs) < 4:
        return None
    a, b = (rankdata([pair[side] for pair in pairs]) for side in (0, 1))
    a, b = a - a.mean(), b - b.mean()
    scale = float((a @ a) * (b @ b)) ** 0.5
    return float(a @ b) / scale if scale > 0 else None


def _space(config: StudyConfig) -> SearchSpace:
    """The study's space with its models in their places."""
    if isinstance(config.space, str):
        space = SearchSpace.from_yaml(config.space)
    else:
        space = SearchSpace.from_dict(config.space, "study: space")
    bound = space.bind(config.base_model, config.models, config.output.dtype, config.search.seed)
    if not bound.dimensions:
        raise UserError(f"{bound.where}: it has no holes, so there is nothing to search")
    strangers = set(bound.fill([d.start for d in bound.dimensions]).model_names) - {
        config.base_model,
        *config.models,
    }
    if strangers:
        raise UserError(
            f"{bound.where}: it names {sorted(strangers)[0]}, which is not among the study's models"
        )
    return bound


def _has_stopped(ended: Mapping[str, Any] | None, wanted: int) -> bool:
    """Whether an earlier run ended this search early, and nobody asked for more since."""
    return ended is not None and bool(ended["wanted"] >= wanted)


def _fixed(config: Mapping[str, Any], path: tuple[str, ...] = ()) -> Any:
    """A configuration without what may change between runs."""
    return {
        key: _fixed(value, (*path, key)) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if (*path, key) not in _FREE
    }


def _first_difference(old: Any, new: Any, path: str) -> str:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(k for k in new if k not in old)]:
            if old.get(key) != new.get(key):
                return _first_difference(old.get(key), new.get(key), f"{path}.{key}")
    return f"{path} was {_short(old)}, now {_short(new)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."


__all__ = ["Study", "rank_correlation"]
