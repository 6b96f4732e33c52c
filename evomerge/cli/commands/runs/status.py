"""`evomerge status`: print where a run stands."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evomerge.cli.run_folder import journal_of


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser("status", help="print where a run stands")
    parser.add_argument("directory", type=Path, metavar="RUN")
    parser.add_argument("--json", action="store_true", help="for scripts")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print the state of a run, and whether a process is working on it."""
    from evomerge.cli.display.lines import show
    from evomerge.report.status import Driver, status_text
    from evomerge.study.journal.codec import parse_all
    from evomerge.study.journal.journal import iterate
    from evomerge.study.journal.lock import writer
    from evomerge.study.journal.record import Record

    journal = journal_of(arguments.directory)
    running = writer(journal) is not None  # asked first: a run that ends meanwhile is done
    last_event: float | None = None
    record = Record()
    for event in parse_all(iterate(journal)):
        record.apply(event)
        last_event = last_event if event.time is None else event.time
    driver = Driver(running, last_event)
    if arguments.json:
        print(json.dumps({**record.status(), **asdict(driver)}))
    else:
        show(status_text(record, driver))
