"""`evomerge log`: send a run to a tracker, whole, whether or not it was logged while it ran."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from evomerge.cli.display.lines import show
from evomerge.cli.run_folder import journal_of
from evomerge.core.errors import UserError


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser("log", help="log a run to tensorboard, mlflow or wandb, whole")
    parser.add_argument("directory", type=Path, metavar="RUN")
    parser.add_argument(
        "--to",
        action="append",
        required=True,
        metavar="TRACKER",
        help="as search --log-to: tensorboard[:DIR], mlflow[:URI], wandb[:PROJECT]; repeatable",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Replay the journal for each tracker, then hand over table, report and recipe."""
    from evomerge.report.trackers import open_tracker
    from evomerge.study.journal.codec import parse_all
    from evomerge.study.journal.journal import iterate
    from evomerge.study.journal.record import Record

    journal = journal_of(arguments.directory)
    for option in arguments.to:
        tracker, record = open_tracker(option, arguments.directory), Record()
        for event in parse_all(iterate(journal)):
            record.apply(event)
            tracker(event, record)
        tracker.close()
        generations = sum(ask.fitness is not None for ask in record.generations.values())
        results = "with verdict, table, report and recipe" if record.verdict else "no verdict yet"
        if tracker.is_broken:
            raise UserError(f"--to {option}: the tracker failed, as said above; nothing else did")
        show(f"{option}: {generations} generations logged, {results}")
