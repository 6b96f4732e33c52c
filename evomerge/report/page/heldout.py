"""Compares every model on the held-out items of every task, and draws the paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from evomerge.report.charts.intervals import Gap, differences
from evomerge.report.charts.layout import responsive
from evomerge.report.findings.held_out import (
    MODELS,
    HeldOutModel,
    against,
    by_task,
    closest,
    held_out_models,
    judged,
)
from evomerge.report.numbers import number
from evomerge.report.run import Run
from evomerge.study.statistics.outcome import sign


def section(run: Run) -> dict[str, Any]:
    """Return the table, the forest plots over all tasks, and the one by task."""
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
    verdict, rests_on = run.record.verdict, judged(run)
    panels = []
    for title, is_model in (("simple merges and other candidates", False), ("models", True)):
        gaps = []
        for rival in rivals:
            if (rival.trial.kind in MODELS) is is_model:
                c = against(run, ours, rival)
                counts = f"{c.wins:,} won, {c.losses:,} lost, {c.ties:,} tied"
                strong = rival.trial.number in rests_on
                gaps.append(Gap(rival.trial.name, c.difference, c.low, c.high, counts, strong))
        if gaps:
            axis = f"{ours.trial.name} minus the other, by item; right of 0: ours is better"
            aria = f"Paired differences on held-out items to {title}"
            title = "Against parents and base" if is_model else "Against simple merges"
            draw = partial(differences, gaps, axis, aria)
            panels.append({"title": title, "figure": responsive(draw)})
    hardest = closest(rivals, run)
    return {
        "panels": panels,
        "by_task": _by_task(run, ours, hardest)
        if hardest and len(run.held_out_tasks) > 1
        else None,
        "rival": hardest.trial.name if hardest else None,
        "ours": ours.trial.name,
        "judged": len(rests_on),
        "confidence": f"{100 * verdict.confidence:.4g} %" if verdict else "95 %",
    }


def _by_task(run: Run, ours: HeldOutModel, rival: HeldOutModel) -> Any:
    gaps = [Gap(task, d.difference, d.low, d.high) for task, d in by_task(run, ours, rival).items()]
    name = f"{ours.trial.name} minus {rival.trial.name}; right of 0: ours is better"
    return responsive(partial(differences, gaps, name, "Paired differences by task"))


def _tag(run: Run, model: HeldOutModel) -> str:
    if model.trial.number == run.recommended:
        return "recommended"
    return "won the race" if model.trial.number == run.ours else ""
