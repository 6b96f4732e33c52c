"""`evomerge watch`: follow a run from another shell, by reading its journal alone."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from evomerge.cli.arguments import seconds
from evomerge.cli.run_folder import journal_of


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser("watch", help="follow a run from another shell")
    parser.add_argument("directory", type=Path, metavar="RUN")
    parser.add_argument(
        "--every", type=seconds, default=1.0, metavar="SECONDS", help="between looks (default 1)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Show what a run has done and does, until its result is exported or Ctrl-C."""
    from evomerge.cli.display.lines import VERDICT, show
    from evomerge.cli.display.progress import Progress
    from evomerge.report import Pace
    from evomerge.report.status import Driver, not_running_text
    from evomerge.study.journal.codec import parse
    from evomerge.study.journal.journal import follow
    from evomerge.study.journal.lock import writer
    from evomerge.study.journal.record import Record

    journal = journal_of(arguments.directory)
    record, pace = Record(), Pace()
    said_so = False  # once each time that the run stops, in the scrolling part of the terminal
    with Progress(pace=pace) as progress:
        try:
            for document in follow(journal):
                if document is not None:
                    event = parse(document)
                    if event is not None:
                        record.apply(event)
                        progress(event, record)
                elif record.phase == "done" and record.exported is not None:
                    break
                else:
                    driver = Driver(writer(journal) is not None, pace.last)
                    if not driver.running and not said_so:
                        progress.say(f"watch: {not_running_text(driver)}; waiting for it to resume")
                    said_so = not driver.running
                    progress.refresh(record, driver=driver)
                    time.sleep(arguments.every)
        except KeyboardInterrupt:
            return  # the watching ends, and the run goes on
    if record.verdict is not None:
        show(f"\n{record.verdict.sentence}", VERDICT[record.verdict.improvement_shown])
