"""`evomerge report`: write the HTML report of a run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from evomerge.cli.run_folder import journal_of


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser("report", help="write a run's report.html")
    parser.add_argument("directory", type=Path, metavar="RUN")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default RUN/report.html")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write the report and print its file."""
    from evomerge.report import write_report

    journal_of(arguments.directory)
    print(write_report(arguments.directory, arguments.out))
