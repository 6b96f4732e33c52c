"""`evomerge search`: a study file becomes a run folder, with progress on the way."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.cli.commands.show import make_report
from evomerge.cli.display.progress import Progress
from evomerge.core.errors import UserError
from evomerge.report.trackers import open_logger
from evomerge.study.config import StudyConfig, seconds
from evomerge.study.journal.record import Record
from evomerge.study.ledger import Listener
from evomerge.study.study import Study


def run_search(
    study: Path,
    directory: Path,
    *,
    trials: int | None = None,
    deadline: str | None = None,
    workers: int | None = None,
    ray_address: str | None = None,
    log_to: Sequence[str] = (),
    reuse: Sequence[Path] = (),
    allow_changed: bool = False,
    allow_task_code: Path | None = None,
) -> None:
    """Run a study, or go on with it, and print its verdict.

    Args:
        study: The study file.
        directory: The run folder.
        trials: Instead of the file's search.trials.
        deadline: Instead of the file's search.deadline.
        workers: Instead of the file's workers.count.
        ray_address: A Ray cluster to join; makes the backend Ray.
        log_to: Trackers, such as ``tensorboard`` or ``mlflow:URI``.
        reuse: Other run folders whose outcomes are used again.
        allow_changed: Go on although the study or the code changed; the journal records it.
        allow_task_code: A folder whose tasks may run Python of their own.
    """
    config = StudyConfig.from_yaml(study)
    if allow_task_code is not None:
        config = _with_task_code(config, allow_task_code)
    search = dataclasses.replace(
        config.search,
        trials=trials or config.search.trials,
        deadline=deadline or config.search.deadline,
    )
    seconds(search.deadline, "--deadline")
    where = config.workers
    if workers is not None:
        where = dataclasses.replace(where, count=workers)
    if ray_address is not None:
        where = dataclasses.replace(where, backend="ray", ray_address=ray_address)
    told = dataclasses.replace(config, search=search, workers=where)
    run(told, directory, log_to, reuse, allow_changed)


def _with_task_code(config: StudyConfig, folder: Path) -> StudyConfig:
    """The study with its tasks' code allowed, if all of its task folders are in that one."""
    if not folder.is_dir():
        raise UserError(f"--allow-task-code: expected a folder of task files, got {folder}")
    allowed = folder.resolve()
    for told in config.evaluate.include_path:
        if allowed not in (Path(told).resolve(), *Path(told).resolve().parents):
            raise UserError(
                f"--allow-task-code {folder}: the study also reads tasks from {told}; allow a "
                "folder that holds all of them, or set evaluate.allow_task_code in the study file"
            )
    evaluate = dataclasses.replace(config.evaluate, allow_task_code=True)
    return dataclasses.replace(config, evaluate=evaluate)


def run(
    config: StudyConfig,
    directory: Path,
    log_to: Sequence[str] = (),
    reuse: Sequence[Path] = (),
    allow_changed: bool = False,
) -> None:
    """Run a study with progress, write its report, and print what matters."""
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory}: expected a run folder, but it is a file")
    gc.freeze()  # modules stay: no search for garbage goes through all of torch again
    with contextlib.ExitStack() as stack:
        listeners: list[Listener] = [stack.enter_context(Progress(config))]
        for told in log_to:
            logger = open_logger(told, directory)
            stack.callback(logger.close)
            listeners.append(logger)

        def listen(event: Mapping[str, Any], record: Record) -> None:
            for listener in listeners:
                listener(event, record)

        study = Study(config, directory, listen, reuse, allow_changed=allow_changed)
        verdict = study.confirm()
    report = make_report(directory, None, quiet=True)
    print(f"\n{verdict['sentence']}\n")
    print(f"  report   {report}")
    print(f"  recipe   {directory / 'best' / 'recipe.yaml'}")
    if config.output.save_model:
        print(f"  model    {directory / 'best' / 'model'}")
    print(f"  verdict  {directory / 'verdict.json'}")
