"""`evomerge check`: check a study before anything is spent on it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from evomerge.cli.arguments import add_settings


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser("check", help="check a study before anything is spent on it")
    parser.add_argument("study", type=Path, metavar="STUDY.yaml")
    parser.add_argument(
        "--parents",
        action="store_true",
        help="score the parents and the midpoints between them, even if that takes minutes",
    )
    parser.add_argument(
        "--config", action="store_true", help="print the study with every default first"
    )
    add_settings(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Load parents and tasks, score one recipe, and print what the study would take."""
    from evomerge.cli.preflight import run_check

    run_check(arguments.study, arguments.parents, arguments.settings, arguments.config)
