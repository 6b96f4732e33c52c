"""Runs studies in forked processes, so that a test can kill them without paying for imports again.

A server process that has imported everything forks one driver for each request, a process group of
its own with its workers in it. Requests and answers are JSON lines.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class Drivers:
    """Starts drivers and waits for them; the tests' side."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, str(Path(__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def start(self, **request: Any) -> int:
        """Start a study in a process of its own, and return that; see `run` for what to say."""
        self._send(request)
        return int(self._receive()["pid"])

    def wait(self) -> int:
        """Wait for the end of the process last started: its exit code, or minus a signal."""
        return int(self._receive()["code"])

    def close(self) -> None:
        """End the server; closing twice is harmless."""
        if self._server.returncode is not None:
            return
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.stdout.close()
        try:
            self._server.wait(timeout=10)
        except subprocess.TimeoutExpired:  # a test has left a driver running
            self._server.kill()
            self._server.wait()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(message, default=str) + "\n")
        self._server.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        assert self._server.stdout is not None
        answer: dict[str, Any] = json.loads(self._server.stdout.readline())
        return answer


@cache
def drivers_of_session() -> Drivers:
    """One server for all tests."""
    return Drivers()


def kill(process: int) -> None:
    """Kill a process, or nothing if it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def kill_group(process: int) -> None:
    """Kill a driver and all of its workers at once."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)


def is_running(process: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{process}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:  # it has just gone, or this is no Linux
        return not Path("/proc/self/stat").exists()


def children(process: int) -> list[int]:
    """The processes that a process has started (Linux only)."""
    restored = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == process:
                restored.append(int(stat.parent.name))
    return restored


def serve() -> None:
    """Fork a driver for every line of stdin."""
    from evomerge import optimizers as search
    from evomerge import report
    from evomerge.cli.display import progress
    from evomerge.study import study
    from evomerge.study.phases import anchors

    assert all((anchors, progress, report, study))
    for name in ("catcma", "cmaes"):  # so that their libraries are there already
        search.create(name)
    for line in sys.stdin:
        request = json.loads(line)
        process = os.fork()
        if not process:
            os.setpgid(0, 0)
            os._exit(run(request))
        with contextlib.suppress(OSError):
            os.setpgid(process, process)
        print(json.dumps({"pid": process}), flush=True)
        _, status = os.waitpid(process, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status)}), flush=True)


def run(request: dict[str, Any]) -> int:
    """Run one study, or one command.

    Args:
        request: ``arguments`` of the command line, or ``config`` and ``directory`` of a study;
            ``executable``, what the pool takes for Python; ``environment``; ``log``, where output
            goes; and ``torn``: ``[n, share]`` kills this process when it has written that share of
            the bytes of its n-th event.
    """
    from evomerge.cli import main
    from evomerge.core import faults
    from evomerge.study.config import StudyConfig
    from evomerge.study.study import Study

    handle = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.environ.update(request.get("environment", {}))
    faults.arm(os.environ.get("EVOMERGE_FAULT"))
    sys.executable = request.get("executable") or sys.executable
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell had it ignored
    if request.get("torn"):
        _die_writing(*request["torn"])
    if "arguments" in request:
        return main(request["arguments"])
    try:
        Study(StudyConfig.from_dict(request["config"], Path("/")), request["directory"]).confirm()
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1
    return 0


def _die_writing(at: int, share: float) -> None:
    write, count = os.write, 0

    def counted(handle: int, data: bytes) -> int:
        nonlocal count
        count += 1
        if count == at:
            write(handle, data[: int(share * len(data))])
            os.kill(os.getpid(), signal.SIGKILL)
        return write(handle, data)

    os.write = counted  # the journal alone writes this way


if __name__ == "__main__":
    serve()
