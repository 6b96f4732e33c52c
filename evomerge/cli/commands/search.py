"""`evomerge search`: run a study, or resume it, with progress on the way."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.cli.arguments import add_settings, count, count_or_all
from evomerge.cli.display.lines import VERDICT, show
from evomerge.core.errors import UserError

if TYPE_CHECKING:
    from evomerge.report.trackers.tracker import Tracker
    from evomerge.study.config import StudyConfig
    from evomerge.study.journal.events import Event
    from evomerge.study.journal.record import Record
    from evomerge.study.ledger import Listener


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser("search", help="run a study; the same command again resumes it")
    parser.add_argument("study", type=Path, metavar="STUDY.yaml")
    parser.add_argument("directory", type=Path, metavar="RUN", help="the run folder")
    add_settings(parser)
    parser.add_argument("--trials", type=count, help="instead of the study's search.trials")
    parser.add_argument("--deadline", help="such as 45m or 8h, race and verdict included")
    parser.add_argument(
        "--workers", type=count_or_all, help="instead of the study's workers.count; or `all`"
    )
    parser.add_argument("--ray-address", metavar="ADDRESS", help="join this Ray cluster, or `auto`")
    parser.add_argument(
        "--log-to",
        action="append",
        default=[],
        metavar="TRACKER",
        help="tensorboard[:DIR], mlflow[:URI] or wandb[:PROJECT]; may be given more than once",
    )
    parser.add_argument(
        "--reuse",
        action="append",
        default=[],
        type=Path,
        metavar="RUN",
        help="another run of the same parents and tasks: what it scored is not scored again",
    )
    parser.add_argument(
        "--mirror",
        metavar="URL",
        help="keep a copy of the run there (s3://, gs://, file://), and go on from it",
    )
    parser.add_argument(
        "--notify", metavar="URL", help="post there when the search ends (text+URL: plain text)"
    )
    parser.add_argument(
        "--allow-task-code", type=Path, metavar="DIR", help="tasks in this folder may run Python"
    )
    parser.add_argument(
        "--allow-changed",
        action="store_true",
        help="resume although the study or the code changed; the journal records what",
    )
    parser.set_defaults(run=run, resumes=True)


def run(arguments: argparse.Namespace) -> None:
    """Run the study of a file, changed by the options."""
    from evomerge.study.config import StudyConfig, seconds

    config = StudyConfig.from_yaml(arguments.study, arguments.settings)
    if arguments.allow_task_code is not None:
        config = _with_task_code(config, arguments.allow_task_code)
    search = dataclasses.replace(
        config.search,
        trials=arguments.trials or config.search.trials,
        deadline=arguments.deadline or config.search.deadline,
    )
    seconds(search.deadline, "--deadline")
    workers = config.workers
    if arguments.workers is not None:
        workers = dataclasses.replace(workers, count=arguments.workers)
    if arguments.ray_address is not None:
        workers = dataclasses.replace(workers, backend="ray", ray_address=arguments.ray_address)
    config = dataclasses.replace(config, search=search, workers=workers)
    run_study(
        config,
        arguments.directory,
        arguments.log_to,
        arguments.reuse,
        arguments.allow_changed,
        arguments.mirror,
        arguments.notify,
    )


def run_study(
    config: StudyConfig,
    directory: Path,
    log_to: Sequence[str] = (),
    reuse: Sequence[Path] = (),
    allow_changed: bool = False,
    mirror: str | None = None,
    notify: str | None = None,
) -> None:
    """Run a study with progress, write its report, and print its verdict and files.

    Args:
        config: The study.
        directory: The run folder.
        log_to: Trackers, such as ``tensorboard`` or ``mlflow:URI``.
        reuse: Other run folders whose outcomes are used again.
        allow_changed: Resume although the study or the code changed; the journal records it.
        mirror: The URL that keeps a copy of the run.
        notify: The URL that is posted to when it ends.
    """
    from evomerge.cli.display.progress import Progress
    from evomerge.cli.notify import Notice
    from evomerge.report import write_report
    from evomerge.report.trackers import open_tracker
    from evomerge.study.mirror.mirror import Mirror
    from evomerge.study.study import Study

    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory}: expected a run folder, but it is a file")
    gc.freeze()  # the collector need not walk through all of torch again
    with contextlib.ExitStack() as stack:
        listeners: list[Listener] = []
        trackers: list[Tracker] = []
        if notify is not None:
            stack.enter_context(Notice(notify, directory))
        if mirror is not None:
            listeners.append(stack.enter_context(Mirror(directory, mirror, say=_say)))
        listeners.append(stack.enter_context(Progress(config)))
        for option in log_to:
            tracker = open_tracker(option, directory)
            stack.callback(tracker.close)
            listeners.append(tracker)
            trackers.append(tracker)

        def listen(event: Event, record: Record) -> None:
            for listener in listeners:
                listener(event, record)

        study = Study(config, directory, listen, reuse, allow_changed=allow_changed)
        verdict = study.confirm()
        notes = [note for tracker in trackers if (note := tracker.note())]
        report = write_report(directory)
    show(f"\n{verdict.sentence}\n", VERDICT[verdict.improvement_shown])
    print(f"  report   {report}")
    print(f"  recipe   {directory / 'best' / 'recipe.yaml'}")
    if config.output.save_model:
        print(f"  model    {directory / 'best' / 'model'}")
        exported = study.record.exported
        if exported is not None and exported.contents and exported.contents.sentence:
            print(f"           {exported.contents.sentence}")
    if (adapter := directory / "best" / "adapter").is_dir():
        print(f"  adapter  {adapter}")
    print(f"  verdict  {directory / 'verdict.json'}")
    for note in notes:
        show(f"note: {note}")


def _say(line: str) -> None:
    show(line, stream=sys.stderr)


def _with_task_code(config: StudyConfig, folder: Path) -> StudyConfig:
    """Allow the code of the study's tasks, if all of its task folders are in `folder`."""
    if not folder.is_dir():
        raise UserError(f"--allow-task-code: expected a folder of task files, got {folder}")
    allowed = folder.resolve()
    for task_folder in config.evaluate.include_path:
        if allowed not in (path := Path(task_folder).resolve(), *path.parents):
            raise UserError(
                f"--allow-task-code {folder}: the study also reads tasks from {task_folder}; allow "
                "a folder that holds all of them, or set evaluate.allow_task_code in the study file"
            )
    evaluate = dataclasses.replace(config.evaluate, allow_task_code=True)
    return dataclasses.replace(config, evaluate=evaluate)
