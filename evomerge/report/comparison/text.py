"""Writes a comparison of runs in lines of text: a column per run, then the differences."""

from __future__ import annotations

from evomerge.report.comparison.runs import ComparedRun, Pair, RunComparison
from evomerge.report.numbers import NONE, duration, number, plural, signed_interval

_CELL = 28  # characters; longer names are cut

NOTE = (
    "Differences are paired by item; positive means better than the first run. 95 % intervals, "
    "each for itself: the best of several runs is partly luck."
)


def comparison_text(compared: RunComparison, width: int | None = None) -> str:
    """Return a table and sentences, for a terminal; ends without a newline.

    Args:
        compared: The runs.
        width: Of the terminal; where a table does not fit, runs stand below each other.
    """
    columns = [facts(run) for run in compared.runs]
    names = dict.fromkeys(name for column in columns for name in column)  # tasks may differ
    rows = [(name, [column.get(name, NONE) for column in columns]) for name in names]
    head = max(len(name) for name, _ in rows)
    widths = [min(_CELL, max(len(values[i]) for _, values in rows)) for i in range(len(columns))]
    lines = [
        f"{name:<{head}}  "
        + "  ".join(f"{_cut(v):>{w}}" for v, w in zip(values, widths, strict=True))
        for name, values in rows
    ]
    if width is not None and max(map(len, lines)) > width:
        lines = []
        for column in columns:
            lines += [f"{name:<{head}}  {value}" for name, value in column.items()] + [""]
        lines.pop()
    return "\n".join([*lines, "", *map(pair_text, compared.pairs), NOTE])


def facts(run: ComparedRun) -> dict[str, str]:
    """Return a run's facts in words, by name, the scores of its tasks last."""
    shown = {True: "improvement shown", False: "none shown", None: "no verdict yet"}
    c = run.against
    return {
        "run": run.name,
        "verdict": shown[run.improvement_shown],
        "recommended": run.recommended or NONE,
        "held-out mean": number(run.held_out),
        "winner over hardest rival": NONE
        if c is None
        else signed_interval(c.difference, c.low, c.high),
        "optimizer": run.optimizer,
        "space": run.space,
        "dimensions": f"{run.dimensions:,}",
        "search trials": f"{run.trials:,}",
        "item evaluations": f"{run.item_evaluations:,}",
        "worker time": duration(run.worker_seconds),
        "seed": NONE if run.seed is None else str(run.seed),
        **{task: number(score) for task, score in run.scores.items()},
    }


def pair_text(pair: Pair) -> str:
    """Say how a run does against the first one."""
    c = pair.difference
    if c is None:
        return f"{pair.name} against {pair.first}: not comparable item by item: {pair.why_not}."
    return (
        f"{pair.name} minus {pair.first}: {signed_interval(c.difference, c.low, c.high)} on "
        f"{plural(c.items, 'held-out item')}: {c.wins:,} won, {c.losses:,} lost, {c.ties:,} tied."
    )


def _cut(text: str) -> str:
    return text if len(text) <= _CELL else text[: _CELL - 1] + "…"
