"""Constraints: what was not to be lost, on held-out items, and how many trials kept all of it."""

from __future__ import annotations

from typing import Any

from evomerge.report.numbers import number, plural
from evomerge.report.run import Run


def section(run: Run) -> dict[str, Any]:
    """The table of the verdict's constraints; empty where a study has none, or no verdict."""
    judged = run.record.verdict or {}
    table = judged.get("constraints", [])
    if not table or run.ours is None:
        return {}
    told = [
        broken
        for ask in run.record.generations.values()
        for broken in ask.violations or ()
        if broken is not None
    ]
    kept = sum(not broken for broken in told)
    return {
        "who": run.record.trials[run.ours].name,
        "rows": [
            {
                "text": row["constraint"],
                "score": number(row["score"]),
                "limit": number(row["limit"]),
                "fate": "kept" if row["kept"] else "broken",
            }
            for row in table
        ],
        "said": f"Scores and limits are of the tasks' metrics, on held-out items. In the search "
        f"{kept:,} of {plural(len(told), 'trial')} kept them, by its own fitness on few items.",
    }
