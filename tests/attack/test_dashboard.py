"""The dashboard answers this machine's browser alone, and shows without changing anything."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.report import report_bench as bench

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A dashboard on a run."""
    pytest.importorskip("optuna_dashboard")
    run = bench.write(tmp_path_factory.mktemp("dashboard") / "run")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = int(free.getsockname()[1])
    server = subprocess.Popen(
        [sys.executable, "-m", "evomerge", "dashboard", str(run), "--port", str(number)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert server.stdout is not None
    server.stdout.readline()
    yield number
    server.send_signal(signal.SIGINT)
    server.stdout.close()
    server.wait(60)


def status(port: int, method: str, path: str, host: str | None) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest(method, path, skip_host=True)
    if host is not None:
        connection.putheader("Host", host)
    connection.putheader("Content-Length", "0")
    connection.endheaders()
    return connection.getresponse().status


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]", "127.0.0.1:9"])
def test_a_browser_on_this_machine_is_answered(port: int, host: str) -> None:
    assert status(port, "GET", "/api/studies", host) == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost@evil.example"),
        *("", None, "0.0.0.0", "[::1", "127.0.0.1\tevil"),
    ],
)
def test_a_request_under_another_name_is_refused(port: int, host: str | None) -> None:
    assert status(port, "GET", "/api/studies", host) == 403


@pytest.mark.parametrize("method", ["DELETE", "POST", "PUT", "PATCH"])
def test_nothing_is_changed_or_deleted(port: int, method: str) -> None:
    assert status(port, method, "/api/studies/0", "127.0.0.1") == 405
    assert status(port, method, "/api/studies/0", "evil.example") == 403
    assert status(port, "GET", "/api/studies/0", "127.0.0.1") == 200
