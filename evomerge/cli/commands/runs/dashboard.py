"""`evomerge dashboard`: serve Optuna's dashboard on a run, or export the run to a storage.

The only door to the `optuna_dashboard` package.
"""

from __future__ import annotations

import argparse
import contextlib
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from evomerge.cli.arguments import port
from evomerge.cli.run_folder import journal_of
from evomerge.core.errors import UserError

HOST = "127.0.0.1"  # not the network; elsewhere use an SSH tunnel
_NAMES = {HOST, "localhost", "::1"}  # of this machine; a tunnel may have any port


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser("dashboard", help="Optuna's dashboard on a run, on this machine")
    parser.add_argument("directory", type=Path, metavar="RUN")
    parser.add_argument("--port", type=port, default=8080, help="on 127.0.0.1 (default 8080)")
    parser.add_argument(
        "--export", metavar="URL", help="copy to this Optuna storage instead, e.g. sqlite:///x.db"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Serve the dashboard, or copy the run to a storage."""
    if arguments.export is None:
        serve(arguments.directory, arguments.port)
    else:
        print(f"{export(arguments.directory, arguments.export):,} trials in {arguments.export}")


def export(directory: Path, storage: str) -> int:
    """Copy a run into an Optuna storage; returns how many trials it then holds.

    Args:
        directory: The run folder.
        storage: As Optuna writes it, e.g. ``sqlite:///optuna.db``.

    Raises:
        UserError: There is no run, or Optuna does not open the storage.
    """
    from evomerge.study.analysis.optuna_mirror import Mirror, catch_up
    from evomerge.study.journal.journal import follow
    from evomerge.study.journal.record import Record

    journal = journal_of(directory)
    try:
        mirror = Mirror(_name(directory), storage)
    except Exception as error:  # Optuna, SQLAlchemy and drivers each have exceptions of their own
        raise UserError(f"--export {storage}: Optuna cannot open it: {error}") from None
    catch_up(mirror, Record(), follow(journal))
    return len(mirror.study.trials)


def serve(directory: Path, port: int) -> None:
    """Serve the dashboard until Ctrl-C, and copy what the run does meanwhile.

    Raises:
        UserError: There is no run, or optuna-dashboard is not installed.
    """
    from wsgiref.simple_server import WSGIRequestHandler, make_server

    from evomerge.study.analysis.optuna_mirror import Mirror, catch_up
    from evomerge.study.journal.journal import follow
    from evomerge.study.journal.record import Record

    class Quiet(WSGIRequestHandler):
        def log_message(self, *_: object) -> None:
            """Print no requests."""

    journal = journal_of(directory)
    try:
        import optuna_dashboard
    except ModuleNotFoundError:
        raise UserError(
            "evomerge dashboard needs a package: python -m pip install optuna-dashboard; "
            "or --export sqlite:///FILE for a dashboard of your own"
        ) from None
    from optuna.storages import InMemoryStorage

    storage = InMemoryStorage()
    mirror, record, events = Mirror(_name(directory), storage), Record(), follow(journal)
    catch_up(mirror, record, events)
    try:
        app = for_this_machine(optuna_dashboard.wsgi(storage))
        server = make_server(HOST, port, app, handler_class=Quiet)
    except OSError as error:
        raise UserError(
            f"--port {port}: cannot listen on {HOST}:{port}: {error.strerror}; name another port"
        ) from None
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"http://{HOST}:{port}/ shows {directory}; Ctrl-C ends it", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(1.0)
                catch_up(mirror, record, events)
        server.shutdown()


def for_this_machine(app: Any) -> Any:
    """Answer a browser on this machine that looks, and nobody else.

    A page of another site could send requests here, under a name of its own that leads to
    127.0.0.1, and Optuna's dashboard can change and delete studies.

    Args:
        app: A WSGI application.
    """

    def guarded(environ: Mapping[str, Any], start_response: Any) -> Any:
        method = environ["REQUEST_METHOD"]
        if _host_of(environ) not in _NAMES:
            said = "403 Forbidden", f"expected a request to {HOST} or localhost"
        elif method not in ("GET", "HEAD"):
            said = (
                "405 Method Not Allowed",
                f"{method}: this dashboard only shows",
            )
        else:
            return app(environ, start_response)
        start_response(said[0], [("Content-Type", "text/plain; charset=utf-8")])
        return [said[1].encode()]

    return guarded


def _host_of(request: Mapping[str, Any]) -> str | None:
    """The name that a request was sent to, without its port."""
    try:
        return urlsplit(f"//{request.get('HTTP_HOST', '')}").hostname
    except ValueError:
        return None


def _name(directory: Path) -> str:
    return directory.resolve().name
