"""`evomerge dashboard`: Optuna's dashboard on a run, following it; or an export to a storage.

The only door to the `optuna_dashboard` package.
"""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from evomerge.cli.commands.show import journal_of
from evomerge.core.errors import UserError
from evomerge.report.optuna_mirror import Mirror
from evomerge.study.journal.journal import follow
from evomerge.study.journal.record import Record

HOST = "127.0.0.1"  # nobody else's business; use an SSH tunnel from elsewhere


def export(directory: Path, storage: str) -> int:
    """Copy a run into an Optuna storage; returns how many trials it then holds.

    Args:
        directory: The run folder.
        storage: As Optuna writes it, e.g. ``sqlite:///optuna.db``.

    Raises:
        UserError: There is no run, or Optuna does not open the storage.
    """
    journal = journal_of(directory)
    try:
        mirror = Mirror(_name(directory), storage)
    except Exception as error:  # Optuna, SQLAlchemy and drivers each have exceptions of their own
        raise UserError(f"--export {storage}: Optuna cannot open it: {error}") from None
    _catch_up(mirror, Record(), follow(journal))
    return len(mirror.study.trials)


def serve(directory: Path, port: int, every: float = 1.0) -> None:
    """Serve the dashboard until Ctrl-C, and copy what the run does meanwhile.

    Raises:
        UserError: There is no run, or optuna-dashboard is not installed.
    """
    journal = journal_of(directory)
    try:
        import optuna_dashboard
    except ModuleNotFoundError:
        raise UserError(
            "evomerge dashboard needs a package: python -m pip install optuna-dashboard; "
            "or --export sqlite:///FILE for a dashboard of yours"
        ) from None
    from optuna.storages import InMemoryStorage

    storage = InMemoryStorage()
    mirror, record, events = Mirror(_name(directory), storage), Record(), follow(journal)
    _catch_up(mirror, record, events)
    try:
        server = make_server(HOST, port, optuna_dashboard.wsgi(storage), handler_class=_Quiet)
    except OSError as error:
        raise UserError(
            f"--port {port}: cannot listen on {HOST}:{port}: {error.strerror}; name another port"
        ) from None
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"http://{HOST}:{port}/ shows {directory}; Ctrl-C ends it", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(every)
                _catch_up(mirror, record, events)
        server.shutdown()


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing of requests."""


def _catch_up(mirror: Mirror, record: Record, events: Any) -> None:
    while (event := next(events)) is not None:
        record.apply(event)
        mirror(event, record)


def _name(directory: Path) -> str:
    return directory.resolve().name
