"""`evomerge report`: write the HTML report of a run, or a page with several side by side."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from evomerge.cli.run_folder import journal_of

_COMPARISON = Path("comparison.html")


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser("report", help="write a run's report.html, or compare several")
    parser.add_argument("directories", type=Path, nargs="+", metavar="RUN")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"default RUN/report.html; {_COMPARISON} for several runs",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write the page and print its file."""
    from evomerge.report import write_report
    from evomerge.report.comparison.page import write_comparison

    for directory in arguments.directories:
        journal_of(directory)
    if len(arguments.directories) == 1:
        print(write_report(arguments.directories[0], arguments.out))
    else:
        print(write_comparison(arguments.directories, arguments.out or _COMPARISON))
