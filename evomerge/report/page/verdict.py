"""Writes the page's head: the verdict in a sentence, the recommendation, a handful of numbers."""

from __future__ import annotations

import re
from typing import Any

from evomerge.report.numbers import duration, interval, number, plural
from evomerge.report.run import Run
from evomerge.study.statistics.verdict import Candidate, Verdict

_NOUNS = {"parent": "the best parent", "anchor": "the best simple merge"}
_NEXT = {
    "check": "it has not passed its check",
    "anchors": "it is scoring the anchors",
    "search": "it is searching",
    "race": "it is racing the best candidates on fresh items",
    "verdict": "it is measuring the race's winner on held-out items",
    "done": "its verdict is in",
}


def section(run: Run) -> dict[str, Any]:
    """Return headline, sentence, what was recommended and exported, tiles."""
    record = run.record
    judged = record.verdict
    tiles = [
        ("search trials", f"{record.n_searched:,}", ""),
        ("item evaluations", f"{record.item_evaluations:,}", ""),
        ("wall time", duration(run.wall_seconds), ""),
    ]
    if judged is None:
        return {
            "headline": "No verdict yet",
            "tone": "open",
            "sentence": f"The study is not finished: {_NEXT[record.phase]}. "
            "What it has done so far is below; the same command resumes it.",
            "recommended": None,
            "stale": False,
            "tiles": [("phase", record.phase, ""), *tiles],
        }
    shown = judged.improvement_shown
    kinds = [c.kind for c in judged.comparisons]
    gains = [  # the hardest rival first, as in the sentence
        (
            f"against {c.against}" + ("" if c.kind in kinds[:i] else f", {_NOUNS[c.kind]}"),
            number(c.difference, sign=True),
            interval(c.low, c.high),
        )
        for i, c in sorted(enumerate(judged.comparisons), key=lambda pair: pair[1].difference)
    ]
    head = "Improvement shown" if shown else "No improvement shown"
    return {
        "headline": head,
        "tone": "yes" if shown else "no",
        "sentence": _sentence(_without(head, judged.sentence)),
        "recommended": _recommended(run, judged.winner),
        "stale": record.phase != "done",
        "tiles": [*gains, *_items(judged), *tiles],
    }


def _without(head: str, sentence: str) -> str:
    """Return a verdict's sentence without its headline, which stands above it.

    >>> _without("Improvement shown", "Improvement shown on 8 held-out items: a beats b.")
    'on 8 held-out items: a beats b.'
    """
    return re.sub(f"^{head}(: | )", "", sentence)


def _sentence(text: str) -> str:
    """Write a capital and true minus signs, and break no line before a percent sign."""
    text = re.sub(r"(?<=[( [])-(?=\d)", "−", text)
    return (text[:1].upper() + text[1:]).replace(" %", "\u00a0%")


def _items(judged: Verdict) -> list[tuple[str, str, str]]:
    return [("held-out items", f"{c.items:,}", "") for c in judged.comparisons[:1]]


def _recommended(run: Run, winner: Candidate) -> dict[str, Any]:
    """Return the recommended recipe and the files that it was exported to."""
    record = run.record
    exported = record.exported
    files = []
    if exported is not None and exported.trial == winner.trial:
        files = ["best/recipe.yaml"]
        files += ["best/mergekit.yaml"] if exported.no_mergekit is None else []
        files += [exported.model] if exported.model else []
        files += [exported.adapter.folder] if exported.adapter and exported.adapter.folder else []
    kind = {"trial": "a searched recipe", "anchor": "an anchor", "parent": "a parent as it is"}
    return {
        "name": winner.name,
        "kind": kind.get(winner.kind, winner.kind),
        "number": winner.trial,
        "digest": winner.digest[:12],
        "files": files,
        "pending": exported is None,
        "size": plural(len(record.dimensions), "dimension") if record.study else "",
    }
