"""Collects every model that was measured on all held-out items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evomerge.evaluate.outcomes import SIZE_METRICS, OutcomeRow
from evomerge.report.run import Run
from evomerge.study.journal.trials import TrialRecord
from evomerge.study.statistics.comparison import Comparison, RivalComparison, compare
from evomerge.study.statistics.outcome import Tasks, fitness, scores

SIMPLE = ("anchor",)
MODELS = ("parent", "base")


@dataclass(frozen=True)
class HeldOutModel:
    """A model with all its held-out outcomes; `scores` as measured, `mean` higher where better."""

    trial: TrialRecord
    rows: Sequence[OutcomeRow]
    scores: dict[str, float]
    mean: float


def held_out_models(run: Run) -> list[HeldOutModel]:
    """Return every model that was measured on all held-out items, the best first."""
    by_digest: dict[str, HeldOutModel] = {}
    ours = run.ours
    for trial in sorted(run.record.trials.values(), key=lambda t: t.number != ours):
        rows = run.rows(trial, "holdout") if trial.digest not in by_digest else None
        if rows:
            mean = fitness(rows, run.held_out_tasks, "metric")
            by_digest[trial.digest] = HeldOutModel(
                trial, rows, scores(rows, run.held_out_tasks), mean
            )
    return sorted(by_digest.values(), key=lambda e: (-e.mean, e.trial.number))


def judged(run: Run) -> dict[int, RivalComparison]:
    """Return the comparisons that the verdict rests on, by the rival's trial number."""
    verdict = run.record.verdict
    return {c.trial: c for c in verdict.comparisons} if verdict else {}


def against(run: Run, ours: HeldOutModel, rival: HeldOutModel) -> Comparison:
    """Compare two models: the verdict's own comparison where it made one, so none differs."""
    return judged(run).get(rival.trial.number) or compare(
        ours.rows, rival.rows, run.held_out_tasks, clusters=run.record.clusters
    )


def by_task(run: Run, ours: HeldOutModel, rival: HeldOutModel) -> dict[str, Comparison]:
    """Compare two models on each task alone, whatever its weight; not by their sizes."""
    compared = {}
    for task, spec in run.held_out_tasks.items():
        if spec["metric"] in SIZE_METRICS.values():
            continue
        columns = [[row for row in e.rows if row.task == task] for e in (ours, rival)]
        alone: Tasks = {task: {**spec, "weight": 1.0}}
        compared[task] = compare(columns[0], columns[1], alone, clusters=run.record.clusters)
    return compared


def closest(models: Sequence[HeldOutModel], run: Run) -> HeldOutModel | None:
    """Return the best baseline: a parent, the base or a simple merge."""
    simple = [
        m for m in models if m.trial.kind in (*SIMPLE, *MODELS) and m.trial.number != run.ours
    ]
    return max(simple, key=lambda e: e.mean, default=None)
