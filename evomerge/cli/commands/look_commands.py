"""`status`, `watch`, `dashboard`, `report`, `explain`, `repair`: what looks at a run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from evomerge.cli.arguments import count, port, seconds


def add_look_commands(commands: Any) -> None:
    """Add the commands that look at a run folder."""
    status = commands.add_parser("status", help="what a run has done so far")
    status.add_argument("directory", type=Path, metavar="RUN")
    status.add_argument("--json", action="store_true", help="for scripts")
    status.set_defaults(run=_status)

    watch = commands.add_parser("watch", help="follow a run from another shell")
    watch.add_argument("directory", type=Path, metavar="RUN")
    watch.add_argument(
        "--every", type=seconds, default=1.0, metavar="SECONDS", help="between looks (default 1)"
    )
    watch.set_defaults(run=_watch)

    dashboard = commands.add_parser(
        "dashboard", help="Optuna's dashboard on a run, on this machine"
    )
    dashboard.add_argument("directory", type=Path, metavar="RUN")
    dashboard.add_argument("--port", type=port, default=8080, help="on 127.0.0.1 (default 8080)")
    dashboard.add_argument(
        "--export", metavar="URL", help="copy to this Optuna storage instead, e.g. sqlite:///x.db"
    )
    dashboard.set_defaults(run=_dashboard)

    report = commands.add_parser("report", help="write a run's report.html")
    report.add_argument("directory", type=Path, metavar="RUN")
    report.add_argument("--out", type=Path, metavar="FILE", help="default RUN/report.html")
    report.set_defaults(run=_report)

    explain = commands.add_parser("explain", help="do the parents complement, what mattered")
    explain.add_argument("directory", type=Path, metavar="RUN")
    explain.add_argument(
        "--around",
        type=count,
        metavar="N",
        help="score N points on a line through the winner and N x N on a slice (N >= 3)",
    )
    explain.add_argument("--json", action="store_true", help="for scripts")
    explain.set_defaults(run=_explain)

    repair = commands.add_parser("repair", help="check a journal, or cut it off before damage")
    repair.add_argument("directory", type=Path, metavar="RUN")
    repair.add_argument("--to", type=int, metavar="OFFSET", help="keep the events before this byte")
    repair.set_defaults(run=_repair)


def _status(arguments: argparse.Namespace) -> None:
    from evomerge.cli.commands.show import show_status

    show_status(arguments.directory, arguments.json)


def _watch(arguments: argparse.Namespace) -> None:
    from evomerge.cli.commands.watch import watch

    watch(arguments.directory, arguments.every)


def _dashboard(arguments: argparse.Namespace) -> None:
    from evomerge.cli.commands.dashboard import export, serve

    if arguments.export is None:
        serve(arguments.directory, arguments.port)
    else:
        print(f"{export(arguments.directory, arguments.export)} trials in {arguments.export}")


def _report(arguments: argparse.Namespace) -> None:
    from evomerge.cli.commands.show import make_report

    make_report(arguments.directory, arguments.out)


def _explain(arguments: argparse.Namespace) -> None:
    from evomerge.cli.commands.show import show_explanation

    show_explanation(arguments.directory, arguments.json, arguments.around)


def _repair(arguments: argparse.Namespace) -> None:
    from evomerge.cli.commands.show import repair_journal

    repair_journal(arguments.directory, arguments.to)
