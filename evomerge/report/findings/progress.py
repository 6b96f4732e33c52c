"""Follows a search by generation: gains, the best so far, what was paid, and each task."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from evomerge.evaluate.outcomes import OutcomeRow, ScoreKind
from evomerge.report.run import Run
from evomerge.study.journal.trials import Standing
from evomerge.study.phases.control import KIND as RANDOM
from evomerge.study.statistics.outcome import Tasks, fitness

_STEPS = 5  # of a mean over neighbouring steps


@dataclass(frozen=True)
class Generation:
    """One generation; all of it may have failed.

    Attributes:
        number: Counted from 0.
        optimized: The optimizer's trials that did not fail.
        random: The control arm's trials that did not fail.
        failed: How many trials failed.
        reference: The reference anchor's fitness on the same items.
        correlation: Of smooth score and metric.
        loss_correlation: Of minus the loss and metric, where steps follow gradients.
    """

    number: int
    optimized: Sequence[Standing]
    random: Sequence[Standing]
    failed: int
    reference: float | None
    correlation: float | None
    loss_correlation: float | None = None

    @property
    def best(self) -> Standing:
        """The optimizer's best trial; there is one if `optimized` is not empty."""
        return max(self.optimized, key=lambda standing: standing.fitness)

    @property
    def median(self) -> float:
        """Median fitness of the optimizer's trials."""
        return statistics.median(standing.fitness for standing in self.optimized)

    @property
    def median_gain(self) -> float:
        """Median gain of the optimizer's trials."""
        return statistics.median(standing.value for standing in self.optimized)


@dataclass(frozen=True)
class BestSoFar:
    """The best gain over the reference after a generation, and what had been paid for it.

    The best of many noisy scores is partly luck: it shows speed, and nothing that holds.

    Attributes:
        generation: Counted from 0.
        trials: Search trials whose fitness was known, failures included.
        items: Item evaluations since the study began, anchors included.
        seconds: Workers' time since the study began.
        gain: The highest gain so far (the fitness, where there is no reference).
        trial: Whose it is.
    """

    generation: int
    trials: int
    items: int
    seconds: float
    gain: float
    trial: int


def generations(run: Run) -> list[Generation]:
    """Return the generations whose fitness the optimizer has received, in order."""
    history = []
    for generation, ask in sorted(run.record.generations.items()):
        if ask.fitness is None:
            continue
        arms: dict[bool, list[Standing]] = {False: [], True: []}
        for standing in ask.standings():
            arms[run.record.trials[standing.trial].kind == RANDOM].append(standing)
        failed = len(ask.trials) - sum(map(len, arms.values()))
        correlations = ask.correlation, ask.loss_correlation
        history.append(
            Generation(generation, arms[False], arms[True], failed, ask.reference, *correlations)
        )
    return history


def best_so_far(run: Run) -> list[BestSoFar]:
    """Return one entry per generation that the optimizer has the fitness of, in order."""
    curve: list[BestSoFar] = []
    trials, best = 0, None
    for generation, ask in sorted(run.record.generations.items()):
        if ask.fitness is None:
            continue
        trials += len(ask.trials)
        leader = max(ask.standings(), key=lambda standing: standing.rank, default=None)
        if leader is not None and (best is None or leader.rank > best.rank):
            best = leader
        if best is not None:
            paid = run.paid.get(generation, (0, 0.0))
            curve.append(BestSoFar(generation, trials, *paid, best.value, best.trial))
    return curve


def mean_so_far(run: Run) -> list[BestSoFar]:
    """Return the curve of a search that scores no reference, as along gradients; empty if unknown.

    A gain is the mean fitness of the last five steps over the best baseline's, which was scored on
    other items: the zero is as uncertain as a score on the baselines' items is.
    """
    record, kind = run.record, _kind(run)
    items = dict(record.asks[0].items or {}) if record.asks else {}
    scored = [
        _score(run, trial.number, kind, items, record.tasks_of("search"))
        for trial in record.trials.values()
        if trial.kind in ("parent", "base", "anchor")
    ]
    known = [score for score in scored if score is not None]
    curve: list[BestSoFar] = []
    steps: list[float] = []
    trials = 0
    for generation, ask in sorted(record.generations.items()):
        trials += len(ask.trials)
        leader = max(ask.standings(), key=lambda standing: standing.rank, default=None)
        if leader is None or not known:
            continue
        steps.append(leader.fitness)
        mean = statistics.fmean(steps[-_STEPS:])
        paid = run.paid.get(generation, (0, 0.0))
        curve.append(BestSoFar(generation, trials, *paid, mean - max(known), leader.trial))
    return curve


@dataclass(frozen=True)
class TaskCurves:
    """Scores on each task by generation.

    Attributes:
        is_gain: Whether they are over the reference anchor on the same items. Searches along
            gradients score no reference; then they are the scores themselves.
        curves: By task, (generation, of its best trial, median). The generation's best trial is
            the best over all tasks, so on one task it may lose.
    """

    is_gain: bool
    curves: dict[str, list[tuple[int, float, float]]]


def task_curves(run: Run) -> TaskCurves:
    """Return the curve of each task, by the search's own score.

    None for studies of one task, or evaluated externally.
    """
    tasks = run.record.tasks_of("search")
    is_gain = bool(run.references)
    curves: dict[str, list[tuple[int, float, float]]] = {task: [] for task in tasks}
    if len(tasks) < 2:
        return TaskCurves(is_gain, {})
    kind = _kind(run)
    for generation, ask in sorted(run.record.generations.items()):
        reference = run.references.get(generation)
        leader = max(ask.standings(), key=lambda standing: standing.rank, default=None)
        if leader is None or not ask.items or (reference is None and is_gain):
            continue
        for task, spec in tasks.items():
            items = {task: ask.items.get(task, ())}
            alone: Tasks = {task: {**spec, "weight": 1.0}}
            zero = 0.0 if reference is None else _score(run, reference, kind, items, alone)
            of = {s.trial: _score(run, s.trial, kind, items, alone) for s in ask.standings()}
            known = [score for score in of.values() if score is not None]
            best = of[leader.trial]
            if best is not None and zero is not None:
                middle = statistics.median(known)
                curves[task].append((generation, best - zero, middle - zero))
    return TaskCurves(is_gain, {task: curve for task, curve in curves.items() if curve})


def _kind(run: Run) -> ScoreKind:
    """Return the score that the search goes by."""
    kind: ScoreKind = run.config.get("evaluate", {}).get("fitness", "smooth")
    return kind


def _score(
    run: Run, trial: int, kind: ScoreKind, items: dict[str, Sequence[int]], tasks: Tasks
) -> float | None:
    rows = _rows(run, trial, kind, items)
    return fitness(rows, tasks, kind) if rows else None


def _rows(
    run: Run, trial: int, kind: ScoreKind, items: dict[str, Sequence[int]]
) -> list[OutcomeRow]:
    record, digest = run.record, run.record.trials[trial].digest
    if not any(items.values()) or record.outcomes.missing(digest, kind, items):
        return []
    return record.outcomes.rows(digest, kind, items)
