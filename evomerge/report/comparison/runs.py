"""Compares several runs by what their verdicts recommend, on held-out items that all of them have.

Recommended recipes were chosen by their own runs on other items, so a difference between two of
them on the same held-out items is as honest as a verdict. The best of many runs is not: who
compares many runs and reports the best has searched on the held-out items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evomerge.core.errors import UserError
from evomerge.evaluate.outcomes import OutcomeRow
from evomerge.report.findings.progress import BestSoFar, best_so_far, mean_so_far
from evomerge.report.numbers import short_names
from evomerge.report.run import Run
from evomerge.study.journal.trials import TrialRecord
from evomerge.study.statistics.comparison import Comparison, RivalComparison, compare
from evomerge.study.statistics.outcome import fitness, scores

MOST = 6  # runs, as many as there are colours


@dataclass(frozen=True)
class ComparedRun:
    """One run as it stands beside others.

    Attributes:
        name: The shortest end of its path that no other run has.
        folder: Its folder, as given.
        phase: Where it is.
        optimizer: Its name.
        seed: Of the search.
        space: Its name; ``in the study file`` for one written there.
        dimensions: How many.
        trials: Search trials asked for so far.
        item_evaluations: What was paid for, gradients as three each.
        worker_seconds: Total time of its workers.
        recommended: The name of what its verdict recommends; ``None`` before.
        improvement_shown: What its verdict says; ``None`` before.
        held_out: Mean of the recommended recipe's metrics on held-out items; ``None`` before.
        scores: The same by task, as measured.
        lower_is_better: The tasks whose metric is better where it is lower.
        against: The race winner's comparison with its hardest rival; ``None`` before.
    """

    name: str
    folder: str
    phase: str
    optimizer: str
    seed: int | None
    space: str
    dimensions: int
    trials: int
    item_evaluations: int
    worker_seconds: float
    recommended: str | None
    improvement_shown: bool | None
    held_out: float | None
    scores: dict[str, float]
    lower_is_better: tuple[str, ...]
    against: RivalComparison | None


@dataclass(frozen=True)
class Pair:
    """Another run's recommendation minus the first run's, item by item; or why there is none."""

    name: str
    first: str
    difference: Comparison | None
    why_not: str


@dataclass(frozen=True)
class RunComparison:
    """All runs, every other one against the first, and the curves of their searches.

    Those in `means` are of searches that score no reference (`progress.mean_so_far`).
    """

    runs: tuple[ComparedRun, ...]
    pairs: tuple[Pair, ...]
    curves: dict[str, list[BestSoFar]]
    means: frozenset[str]

    def as_data(self) -> dict[str, Any]:
        """Return what ``evomerge compare --json`` prints, curves aside."""
        return {"runs": [asdict(r) for r in self.runs], "pairs": [asdict(p) for p in self.pairs]}


def compare_runs(folders: Sequence[Path | str]) -> RunComparison:
    """Read runs and compare them.

    Args:
        folders: Two run folders or more; the others are compared with the first.

    Raises:
        UserError: There are fewer than two or more than six, one is given twice, or one is no run.
    """
    if not 2 <= len(folders) <= MOST:
        raise UserError(f"expected 2 to {MOST} run folders to compare, but got {len(folders)}")
    resolved = [Path(folder).resolve() for folder in folders]
    for folder in resolved:
        if resolved.count(folder) > 1:
            raise UserError(f"{folder}: expected different runs, but it is given twice")
    runs = [Run.read(folder) for folder in folders]
    names = short_names([str(folder) for folder in resolved])
    named = [(names[str(folder)], run) for folder, run in zip(resolved, runs, strict=True)]
    return RunComparison(
        tuple(_described(name, run) for name, run in named),
        tuple(_pair(name, run, *named[0]) for name, run in named[1:]),
        {
            name: curve
            for name, run in named
            if (curve := best_so_far(run) if run.references else mean_so_far(run))
        },
        frozenset(name for name, run in named if not run.references),
    )


def _described(name: str, run: Run) -> ComparedRun:
    record, verdict = run.record, run.record.verdict
    search = run.config.get("search", {})
    space = run.config.get("space", "")
    rows = _rows(run)
    tasks = run.held_out_tasks
    hardest = (
        min(verdict.comparisons, key=lambda c: c.difference, default=None) if verdict else None
    )
    return ComparedRun(
        name=name,
        folder=str(run.folder),
        phase=record.phase,
        optimizer=str(search.get("optimizer") or "–"),
        seed=search.get("seed"),
        space=space if isinstance(space, str) else "in the study file",
        dimensions=len(record.dimensions),
        trials=record.n_searched,
        item_evaluations=record.item_evaluations,
        worker_seconds=record.seconds["total"],
        recommended=None if record.winner is None else record.winner.name,
        improvement_shown=verdict.improvement_shown if verdict else None,
        held_out=fitness(rows, tasks, "metric") if rows else None,
        scores=scores(rows, tasks) if rows else {},
        lower_is_better=tuple(t for t, spec in tasks.items() if not spec["higher_is_better"]),
        against=hardest,
    )


def _rows(run: Run) -> list[OutcomeRow] | None:
    """Return the recommended recipe's outcomes on all held-out items."""
    winner: TrialRecord | None = run.record.winner
    return None if winner is None else run.rows(winner, "holdout")


def _pair(name: str, run: Run, first_name: str, first: Run) -> Pair:
    why_not = _why_not(run, first)
    if why_not:
        return Pair(name, first_name, None, why_not)
    ours, theirs = _rows(run), _rows(first)
    if ours is None or theirs is None:
        missing = name if ours is None else first_name
        return Pair(name, first_name, None, f"{missing} has no verdict on held-out items yet")
    clusters = first.record.clusters
    difference = compare(ours, theirs, first.held_out_tasks, clusters=clusters)
    return Pair(name, first_name, difference, "")


def _why_not(run: Run, first: Run) -> str:
    """Say why the held-out scores of two runs are no pairs; empty if they are."""
    studies = run.record.study, first.record.study
    if studies[0] is None or studies[1] is None:
        return "one of them has not begun"
    if studies[0].protocol != studies[1].protocol:
        return "their tasks, prompts or tokenizers differ"
    if run.held_out_tasks != first.held_out_tasks:
        return "their tasks' metrics or weights differ"
    pools = [
        {task: sorted(ids) for task, ids in (r.pools.get("holdout") or {}).items()}
        for r in (run, first)
    ]
    return "" if pools[0] == pools[1] else "they hold out different items"
