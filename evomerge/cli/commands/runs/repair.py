"""`evomerge repair`: verify a journal, or truncate it at a damaged record."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from evomerge.cli.display.lines import show
from evomerge.cli.run_folder import journal_of


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser(
        "repair", help="verify a journal, or truncate it at a damaged record"
    )
    parser.add_argument("directory", type=Path, metavar="RUN")
    parser.add_argument("--to", type=int, metavar="OFFSET", help="keep the events before this byte")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print how many events are whole and, after a cut, where the rest was moved."""
    from evomerge.study.journal.repair import repair

    journal = journal_of(arguments.directory)
    done = repair(arguments.directory, arguments.to)
    show(f"{journal}: {done.events:,} whole events in {done.kept_bytes:,} bytes")
    if done.rest is not None:
        show(f"the {done.cut_bytes:,} bytes behind them are kept in {done.rest}")
