"""Compares every model on the held-out items of every task, and draws the paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.evaluate.outcomes import OutcomeRow
from evomerge.report.charts.charts import Gap, differences
from evomerge.report.numbers import number
from evomerge.report.run import Run
from evomerge.study.journal.trials import TrialRecord
from evomerge.study.statistics.comparison import compare
from evomerge.study.statistics.outcome import Tasks, fitness, scores, sign


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


def section(run: Run) -> dict[str, Any]:
    """Return the table, the forest plot over all tasks, and the one by task."""
    models = held_out_models(run)
    if not models:
        return {"missing": "No model has been measured on the held-out items yet."}
    ours = next((e for e in models if e.trial.number == run.ours), None)
    best = {
        task: max(sign(run.held_out_tasks[task]) * e.scores[task] for e in models)
        for task in run.held_out_tasks
    }
    table = [
        {
            "name": e.trial.name,
            "kind": e.trial.kind,
            "ours": e is ours,
            "tag": _tag(run, e),
            "cells": [
                (number(e.scores[t]), sign(run.held_out_tasks[t]) * e.scores[t] >= best[t] - 1e-12)
                for t in run.held_out_tasks
            ],
            "mean": number(e.mean),
        }
        for e in models
    ]
    return {
        "tasks": [
            {
                "name": task,
                "metric": spec["metric"],
                "less": not spec["higher_is_better"],
                "weight": spec["weight"],
                "items": len(run.pools["holdout"][task]),
            }
            for task, spec in run.held_out_tasks.items()
        ],
        "weighted": len({spec["weight"] for spec in run.held_out_tasks.values()}) > 1,
        "table": table,
        **(_figures(run, ours, [e for e in models if e is not ours]) if ours else {}),
        "note": run.record.verdict and run.record.verdict.note,
    }


def _figures(run: Run, ours: HeldOutModel, rivals: Sequence[HeldOutModel]) -> dict[str, Any]:
    verdict = run.record.verdict
    judged_rows = {c.trial: c for c in verdict.comparisons} if verdict else {}
    gaps = []
    for rival in rivals:
        number = rival.trial.number
        c = judged_rows.get(number) or compare(
            ours.rows, rival.rows, run.held_out_tasks, clusters=run.record.clusters
        )
        counts = f"{c.wins} won, {c.losses} lost, {c.ties} tied"
        judged = number in judged_rows
        gaps.append(Gap(rival.trial.name, c.difference, c.low, c.high, counts, judged))
    axis = f"{ours.trial.name} − entrant, paired by item; right of 0: ours is better"
    aria = "Paired differences on held-out items"
    closest = _closest(rivals)
    return {
        "forest": differences(gaps, axis, aria) if gaps else None,
        "by_task": _by_task(run, ours, closest)
        if closest and len(run.held_out_tasks) > 1
        else None,
        "rival": closest.trial.name if closest else None,
        "ours": ours.trial.name,
        "judged": len(judged_rows),
        "confidence": f"{100 * verdict.confidence:.4g} %" if verdict else "95 %",
    }


def _closest(rivals: Sequence[HeldOutModel]) -> HeldOutModel | None:
    """Return the best baseline: a parent, the base or a simple merge."""
    simple = [e for e in rivals if e.trial.kind in ("parent", "base", "anchor")]
    return max(simple, key=lambda e: e.mean, default=None)


def _by_task(run: Run, ours: HeldOutModel, rival: HeldOutModel) -> Any:
    gaps = []
    for task, spec in run.held_out_tasks.items():
        columns = [[row for row in e.rows if row.task == task] for e in (ours, rival)]
        alone: Tasks = {task: {**spec, "weight": 1.0}}
        d = compare(columns[0], columns[1], alone, clusters=run.record.clusters)
        gaps.append(Gap(task, d.difference, d.low, d.high))
    name = f"{ours.trial.name} − {rival.trial.name}; right of 0: ours is better"
    return differences(gaps, name, "Paired differences by task")


def _tag(run: Run, model: HeldOutModel) -> str:
    if model.trial.number == run.recommended:
        return "recommended"
    return "won the race" if model.trial.number == run.ours else ""
