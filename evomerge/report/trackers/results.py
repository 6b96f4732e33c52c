"""Collects what trackers get of a run beside numbers: a table of trials, and files."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from evomerge.recipe.space.dimension import Dimension
from evomerge.report.findings.dimensions import dimensions
from evomerge.report.page.page import page
from evomerge.report.run import Run
from evomerge.study.journal.events import ToldEvent
from evomerge.study.journal.record import Record

_MOST = 40  # coefficients that are followed; all of them are in the table
_FILES = ("best/recipe.yaml", "best/mergekit.yaml", "best/examples.json", "verdict.json")


@dataclass(frozen=True)
class TrialTable:
    """Every trial of a study, a row each.

    Attributes:
        columns: number, name, kind, generation, state, fitness, gain, a score per task, and a
            value per dimension.
        rows: Their values; ``None`` where there is none.
    """

    columns: list[str]
    rows: list[list[Any]]


def trial_table(record: Record) -> TrialTable:
    """Return all trials in the order of asking, anchors included."""
    tasks, space = list(record.tasks), [d.name for d in record.dimensions]
    gains = {standing.trial: standing.gain for standing in record.standings()}
    rows = []
    for trial in record.trials.values():
        scores = record.scores(trial.number)
        point = trial.point or ()
        values = [*point, *[None] * (len(space) - len(point))]
        about = [trial.number, trial.name, trial.kind, trial.generation, trial.state, trial.fitness]
        of_tasks = [scores.get(task) for task in tasks]
        rows.append([*about, gains.get(trial.number), *of_tasks, *values])
    names = ["number", "name", "kind", "generation", "state", "fitness", "gain"]
    return TrialTable([*names, *[f"score {task}" for task in tasks], *space], rows)


def best_trial_numbers(event: ToldEvent, record: Record) -> dict[str, float]:
    """Return scores by task and coefficients of a generation's best trial.

    Coefficients are the first 40 dimensions with numbers; the table of trials has all.
    """
    standings = list(record.generations[event.generation].standings())
    if not standings:
        return {}
    best = max(standings, key=lambda standing: standing.rank).trial
    numbers = {f"score/{task}": score for task, score in record.scores(best).items()}
    point = record.trials[best].point or ()
    pairs = list(zip(record.dimensions, point, strict=False))
    ranged = [(d, v) for d, v in pairs if _is_number(d)]
    return numbers | {f"coefficient/{d.name}": float(v) for d, v in ranged[:_MOST]}


@contextmanager
def result_files(directory: Path, record: Record) -> Iterator[list[Path]]:
    """Write report and tables into a folder that is removed afterwards; yields the files.

    Those that the study exported come with them: recipe, verdict, examples.
    """
    with TemporaryDirectory(prefix="evomerge-") as folder:
        run = Run.read(directory)
        report = Path(folder) / "report.html"
        report.write_text(page(run), encoding="utf-8", errors="xmlcharrefreplace")
        tables = {"trials.csv": trial_table(record)}
        shown = dimensions(run)
        if shown is not None:
            shares = [[d.dimension.name, d.share, d.start, d.chosen] for d in shown.strips]
            names = ["dimension", "importance", "start (position)", "chosen (position)"]
            tables["dimensions.csv"] = TrialTable(names, shares)
        for name, table in tables.items():
            with (Path(folder) / name).open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(table.columns)
                writer.writerows(table.rows)
        exported = [directory / name for name in _FILES if (directory / name).is_file()]
        yield [report, *(Path(folder) / name for name in tables), *exported]


def _is_number(dimension: Dimension) -> bool:
    return dimension.kind != "categorical"
