"""`evomerge compare`: print several runs side by side."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from evomerge.cli.run_folder import journal_of


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser("compare", help="print runs side by side, with their differences")
    parser.add_argument("directories", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--json", action="store_true", help="for scripts")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print the comparison."""
    from evomerge.cli.display.lines import columns, show
    from evomerge.report.comparison.runs import compare_runs
    from evomerge.report.comparison.text import comparison_text

    for directory in arguments.directories:
        journal_of(directory)
    compared = compare_runs(arguments.directories)
    if arguments.json:
        print(json.dumps(compared.as_data()))
    else:
        show(comparison_text(compared, columns()))
