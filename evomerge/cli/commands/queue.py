"""`evomerge queue`: run several studies, each with several seeds, one after another."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.cli.arguments import count
from evomerge.cli.display.lines import show
from evomerge.core.errors import UserError
from evomerge.core.redact import redact

if TYPE_CHECKING:
    from evomerge.study.config import StudyConfig


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser(
        "queue", help="run several studies in turn; the same command again goes on"
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="holds a run folder for each")
    parser.add_argument("studies", type=Path, nargs="+", metavar="STUDY.yaml")
    parser.add_argument(
        "--seeds", type=count, default=1, metavar="N", help="search.seed and the N - 1 after it"
    )
    parser.add_argument("--mirror", metavar="URL", help="a copy of each run below this address")
    parser.add_argument("--notify", metavar="URL", help="post there when each search ends")
    parser.set_defaults(run=run, resumes=True)


def run(arguments: argparse.Namespace) -> int:
    """Run every study, go on past one that fails, and print one table; 2 if any failed."""
    from evomerge.cli.commands.search import run_study

    jobs = list(_jobs(arguments.studies, arguments.seeds))  # every mistake before the first start
    arguments.directory.mkdir(parents=True, exist_ok=True)
    failures: dict[str, str] = {}
    for number, (name, config) in enumerate(jobs, 1):
        show(f"== {name}, {number} of {len(jobs)}", "bold")
        mirror = arguments.mirror and f"{arguments.mirror.rstrip('/')}/{name}"
        try:
            folder = arguments.directory / name
            run_study(config, folder, mirror=mirror, notify=arguments.notify)
        except UserError as error:
            failures[name] = redact(" ".join(str(error).split()))
            show(f"evomerge: error: {failures[name]}", stream=sys.stderr)
    show("\n".join(_table(arguments.directory, [name for name, _ in jobs], failures)))
    return 2 if failures else 0


def _jobs(studies: list[Path], seeds: int) -> Iterator[tuple[str, StudyConfig]]:
    """Yield the folder name and the configuration of each run."""
    from evomerge.study.config import StudyConfig

    names: dict[str, Path] = {}
    for file in studies:
        config = StudyConfig.from_yaml(file)
        first = config.search.seed
        for seed in range(first, first + seeds):
            name = file.stem if seeds == 1 else f"{file.stem}-seed{seed}"
            if name in names:
                raise UserError(
                    f"{names[name]} and {file} would share the run folder {name}: rename one"
                )
            names[name] = file
            search = dataclasses.replace(config.search, seed=seed)
            yield name, dataclasses.replace(config, search=search)


def _table(directory: Path, names: list[str], failures: dict[str, str]) -> Iterator[str]:
    """Yield the lines of the table: what each run recommends, and by how much it is ahead."""
    from evomerge.report.numbers import duration
    from evomerge.study.journal.record import Record

    rows = [("run", "recommends", "against", "gain [95 %]", "shown", "trials", "time")]
    for name in names:
        if name in failures:
            rows.append((name, f"failed: {failures[name]}", "", "", "", "", ""))
            continue
        record = Record.read(directory / name)
        verdict = record.verdict
        assert verdict is not None, "the search ended without an error"
        nearest = min(verdict.comparisons, key=lambda c: c.difference, default=None)
        rows.append(
            (
                name,
                verdict.winner.name,
                nearest.against if nearest else "",
                f"{nearest.difference:+.3f} [{nearest.low:.3f}, {nearest.high:.3f}]"
                if nearest
                else "",
                "yes" if verdict.improvement_shown else "no",
                f"{record.n_searched:,}",
                duration(record.run_seconds),
            )
        )
    shown = [row for row in rows if any(row[2:])]
    widths = [max(len(row[column]) for row in shown) for column in range(7)]
    yield ""
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield "  ".join(cells).rstrip() if row in shown else f"{cells[0]}  {row[1]}"
