"""Compares the anchors with the winner by the tasks' own metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from evomerge.evaluate.outcomes import OutcomeRow
from evomerge.report.charts.bars import Bar, bars
from evomerge.report.charts.layout import Entry, legend, responsive
from evomerge.report.findings.held_out import held_out_models
from evomerge.report.numbers import number, plural
from evomerge.report.run import Run
from evomerge.study.journal.trials import TrialRecord
from evomerge.study.statistics.outcome import Tasks, fitness, weights


def section(run: Run) -> dict[str, Any]:
    """Draw bars of the real metric, on search items and, where measured, on held-out ones."""
    record = run.record
    items = record.asks[0].items if record.asks else None
    held_out = {e.trial.digest: e for e in held_out_models(run)}
    shown: dict[str, tuple[TrialRecord, list[Bar]]] = {}
    for trial in record.trials.values():
        trial_bars: list[Bar] = []
        if items and trial.kind in ("parent", "base", "anchor"):
            rows = record.outcomes.rows(trial.digest, "metric", items)
            if rows and not record.outcomes.missing(trial.digest, "metric", items):
                trial_bars.append(
                    _bar(rows, record.tasks_of("search"), "f2 pale", "items of the search pool")
                )
        if trial.digest in held_out and trial.digest not in shown:
            kind = "f1" if trial.number == run.ours else "f2"
            trial_bars.append(
                _bar(held_out[trial.digest].rows, run.held_out_tasks, kind, "held-out items")
            )
        if trial_bars and trial.digest not in shown:
            shown[trial.digest] = (trial, trial_bars)
    if not shown:
        return {"missing": "No anchor has been scored by the tasks' own metrics yet."}
    order = sorted(shown.values(), key=lambda p: (p[0].number != run.ours, -p[1][-1].value))
    entries: list[Entry] = [("bar", "f2 pale", f"search pool, {plural(_count(items), 'item')}")]
    if held_out:
        count = plural(_count(run.pools["holdout"]), "item")
        entries.append(("bar", "f2", f"held-out, {count}"))
    if run.ours is not None and held_out:
        entries.append(("bar", "f1", f"held-out: {record.trials[run.ours].name}, the winner"))
    rows_ = [(trial.name, trial.number == run.ours, trial_bars) for trial, trial_bars in order]
    name = "weighted mean of the tasks' metrics, higher is better"
    return {
        "legend": legend(entries),
        "bars": responsive(partial(bars, rows_, name, "Scores of all anchors and of the winner")),
        "unmeasured": [
            t.name
            for t in record.trials.values()
            if t.kind in ("parent", "base", "anchor") and t.digest not in shown
        ],
    }


def _bar(rows: Sequence[OutcomeRow], tasks: Tasks, kind: str, where: str) -> Bar:
    """Return the weighted mean of the metric, with 1.96 standard errors."""
    value, half = fitness(rows, tasks, "metric"), 1.96 * _standard_error(rows, tasks)
    return Bar(value, half, kind, f"{number(value)} ± {number(half)} on {len(rows):,} {where}")


def _standard_error(rows: Sequence[OutcomeRow], tasks: Tasks) -> float:
    """Return sqrt(Σ_t w_t² s_t² / n_t), of the weighted mean."""
    total = 0.0
    for task, share in weights(tasks).items():
        values = [r.metric for r in rows if r.task == task and r.metric is not None]
        if len(values) > 1:
            mean = math.fsum(values) / len(values)
            variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
            total += share**2 * variance / len(values)
    return math.sqrt(total)


def _count(items: Any) -> int:
    return sum(len(ids) for ids in (items or {}).values())
