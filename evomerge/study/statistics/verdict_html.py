"""Shows a verdict in a notebook: its sentence, comparisons, and scores by task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.core.html import table

if TYPE_CHECKING:
    from evomerge.study.statistics.verdict import Verdict


def verdict_html(verdict: Verdict) -> str:
    """Return a verdict's sentence, its comparisons and scores by task."""
    comparisons = table(
        [
            (
                c.against,
                f"{c.difference:+.3f} [{c.low:+.3f}, {c.high:+.3f}]".replace("-", "−"),
                f"{c.wins:,} won, {c.losses:,} lost, {c.ties:,} tied",
            )
            for c in verdict.comparisons
        ],
        head=[f"{verdict.race_winner.name} against", "difference", "items"],
        caption=verdict.sentence,
    )
    tasks = list(dict.fromkeys(task for scores in verdict.scores.values() for task in scores))
    by_task = table(
        [
            (name, *(f"{scores[task]:.3f}" if task in scores else "–" for task in tasks))
            for name, scores in verdict.scores.items()
        ],
        head=["on held-out items", *tasks],
    )
    return comparisons + by_task
