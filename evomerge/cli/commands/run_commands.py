"""`demo`, `search` and `check`: what runs a study."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from evomerge.cli.arguments import count


def add_run_commands(commands: Any) -> None:
    """Add the commands that run a study."""
    demo = commands.add_parser("demo", help="train a small zoo and run a whole study on it")
    demo.add_argument("directory", nargs="?", type=Path, default=Path("demo"), metavar="DIR")
    demo.add_argument("--trials", type=count, help="recipes to try (default 240)")
    demo.add_argument("--seed", type=int, help="of training and search (default 0)")
    demo.add_argument("--optimizer", help="which optimizer (default catcma)")
    demo.add_argument("--space", help="which search space (default task_arithmetic_by_depth)")
    demo.add_argument("--workers", type=count, help="processes (default 2)")
    demo.add_argument("--backend", choices=("local", "ray"), help="default ray")
    demo.set_defaults(run=_demo, resumes=True)

    search = commands.add_parser("search", help="run a study; the same command again resumes it")
    search.add_argument("study", type=Path, metavar="STUDY.yaml")
    search.add_argument("directory", type=Path, metavar="RUN", help="the run folder")
    search.add_argument("--trials", type=count, help="instead of the study's search.trials")
    search.add_argument("--deadline", help="such as 45m or 8h, race and verdict included")
    search.add_argument("--workers", type=count, help="instead of the study's workers.count")
    search.add_argument("--ray-address", metavar="ADDRESS", help="join this Ray cluster, or `auto`")
    search.add_argument(
        "--log-to",
        action="append",
        default=[],
        metavar="TRACKER",
        help="tensorboard[:DIR], mlflow[:URI] or wandb[:PROJECT]; may be given more than once",
    )
    search.add_argument(
        "--reuse",
        action="append",
        default=[],
        type=Path,
        metavar="RUN",
        help="another run of the same parents and tasks: what it scored is not scored again",
    )
    search.add_argument(
        "--allow-task-code", type=Path, metavar="DIR", help="tasks in this folder may run Python"
    )
    search.add_argument(
        "--allow-changed",
        action="store_true",
        help="resume although the study or the code changed; the journal records what",
    )
    search.set_defaults(run=_search, resumes=True)

    check = commands.add_parser("check", help="check a study before anything is spent on it")
    check.add_argument("study", type=Path, metavar="STUDY.yaml")
    check.add_argument(
        "--parents",
        action="store_true",
        help="score the parents and the middles between them, even if that takes minutes",
    )
    check.set_defaults(run=_check)


def _demo(arguments: argparse.Namespace) -> None:
    from evomerge.cli.commands.demo import run_demo

    run_demo(arguments)


def _search(arguments: argparse.Namespace) -> None:
    from evomerge.cli.commands.search import run_search

    run_search(
        arguments.study,
        arguments.directory,
        trials=arguments.trials,
        deadline=arguments.deadline,
        workers=arguments.workers,
        ray_address=arguments.ray_address,
        log_to=arguments.log_to,
        reuse=arguments.reuse,
        allow_changed=arguments.allow_changed,
        allow_task_code=arguments.allow_task_code,
    )


def _check(arguments: argparse.Namespace) -> None:
    from evomerge.cli.commands.check import run_check

    run_check(arguments.study, arguments.parents)
