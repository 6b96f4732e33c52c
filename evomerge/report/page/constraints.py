"""Shows the constraints: limits on held-out items, and how many trials satisfied all of them."""

from __future__ import annotations

from typing import Any

from evomerge.report.numbers import number, plural
from evomerge.report.run import Run


def section(run: Run) -> dict[str, Any]:
    """Return the table of the verdict's constraints; empty without constraints or verdict."""
    table = run.record.verdict.constraints if run.record.verdict else ()
    if not table or run.ours is None:
        return {}
    violations = [
        violation
        for ask in run.record.generations.values()
        for violation in ask.violations or ()
        if violation is not None
    ]
    feasible = sum(not violation for violation in violations)
    return {
        "who": run.record.trials[run.ours].name,
        "rows": [
            {
                "text": row.constraint,
                "score": number(row.score),
                "limit": number(row.limit),
                "fate": "kept" if row.kept else "broken",
            }
            for row in table
        ],
        "said": "Scores and limits are of the tasks' metrics, on held-out items. In the search "
        f"{feasible:,} of {plural(len(violations), 'trial')} satisfied them, by its own fitness on "
        "few items.",
    }
