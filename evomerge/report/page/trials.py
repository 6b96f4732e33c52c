"""Lists the trials of the search in one table, which the page can sort and filter."""

from __future__ import annotations

from typing import Any

from evomerge.report.findings.dimensions import dimensions, named
from evomerge.report.numbers import number
from evomerge.report.run import Run

_MOST_ROWS, _MOST_COLUMNS = 400, 8


def section(run: Run) -> dict[str, Any]:
    """Return the best trials by gain, with the most important dimensions; empty without any."""
    record = run.record
    standings = sorted(record.standings(), key=lambda s: s.rank, reverse=True)
    if not standings:
        return {}
    findings = dimensions(run)
    order = {} if findings is None else {s.dimension.name: s.share for s in findings.strips}
    names = named(record.dimensions, run.depth)
    columns = sorted(
        range(len(names)), key=lambda i: -(order.get(record.dimensions[i].name) or 0.0)
    )[:_MOST_COLUMNS]
    rows = []
    for standing in standings[:_MOST_ROWS]:
        trial = record.trials[standing.trial]
        point = trial.point if trial.point and len(trial.point) == len(names) else None
        rows.append(
            {
                "number": trial.number,
                "name": trial.name,
                "kind": "random" if trial.kind == "random" else "",
                "generation": trial.generation,
                "fitness": number(standing.fitness),
                "gain": number(standing.gain, sign=True),
                "ours": trial.number == run.ours,
                "values": ["" if point is None else _value(point[i]) for i in columns],
            }
        )
    return {
        "columns": [names[i] for i in columns],
        "rows": rows,
        "of": len(standings),
        "dimensions": len(names),
    }


def _value(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)
