"""Runs a command. Exit codes: 0 success, 1 internal error, 2 user error, 130 interrupted."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from evomerge.cli.display.lines import show
from evomerge.cli.parser import make_parser
from evomerge.core.errors import ResumableError, UserError
from evomerge.core.redact import redact
from evomerge.core.terminal import print_anywhere

_NO_THREAD = "can't start new thread"
_ONE_REQUEST = 0.3  # seconds in which signals are taken for one request


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        print_anywhere(stream)
    arguments = sys.argv[1:] if arguments is None else arguments
    parsed = make_parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    previous_handler = signal.getsignal(signal.SIGINT)
    if previous_handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        code: int = parsed.run(parsed) or 0
        sys.stdout.flush()
        return code
    except UserError as error:
        again = ""
        if isinstance(error, ResumableError):
            again = f". To resume: {_command(arguments)}"
        _say(error, again)
        return 2
    except KeyboardInterrupt:
        return _interrupted(arguments)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if not getattr(parsed, "resumes", False):
            return 0
        return _interrupted(arguments)
    except OSError as error:  # the machine's doing: a full disk, no rights, no more processes
        _say(error, _again(parsed, arguments))
        return 2
    except Exception as error:
        if isinstance(error, RuntimeError) and str(error) == _NO_THREAD:
            _say(
                "the machine allows no more threads: raise its limit of processes (ulimit -u)",
                _again(parsed, arguments),
            )
            return 2
        if isinstance(error, ModuleNotFoundError) and _is_foreign(error.name):
            print(
                f"evomerge: error: this command needs the package {error.name}, which is not "
                f"installed in {sys.prefix}: reinstall evomerge with its dependencies",
                file=sys.stderr,
            )
            return 2
        print(redact(traceback.format_exc()), end="", file=sys.stderr)
        print(
            "evomerge: this is an internal error, not your mistake; please report it",
            file=sys.stderr,
        )
        return 1
    finally:
        signal.signal(signal.SIGINT, previous_handler)


def _again(parsed: argparse.Namespace, arguments: Sequence[str]) -> str:
    """Say how to go on, for the commands that resume."""
    return f". To resume: {_command(arguments)}" if getattr(parsed, "resumes", False) else ""


def _say(error: Exception | str, again: str = "") -> None:
    """Print an error in one line, without secrets and without what a terminal takes for orders."""
    line = redact(" ".join(str(error).split()))
    if again and sys.stderr.isatty():  # a command that is to be copied is not wrapped
        show(f"evomerge: error: {line}", stream=sys.stderr)
        print(again.removeprefix(". "), file=sys.stderr)
    else:
        show(f"evomerge: error: {line}{again}", stream=sys.stderr)


def _is_foreign(module: str | None) -> bool:
    return module is not None and module.partition(".")[0] != "evomerge"


def _interrupted(arguments: Sequence[str]) -> int:
    again = _command(arguments)
    print(f"\nevomerge: interrupted; finished work is kept. To resume: {again}", file=sys.stderr)
    return 130


def _command(arguments: Sequence[str]) -> str:
    return redact(shlex.join(["evomerge", *arguments]))


def _interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    """End as Ctrl-C does; a scheduler's SIGTERM leaves a run that resumes.

    A second signal ends at once, but not in the moment of the first: `timeout` sends its SIGTERM
    to the process and to its group, which is one request and not two.
    """
    first = time.monotonic()

    def again(number: int, frame: FrameType | None) -> None:
        if time.monotonic() - first > _ONE_REQUEST:
            _leave(number, frame)

    signal.signal(number, again)
    raise KeyboardInterrupt


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    """Exit at once at the second signal: the journal is on disk, and workers end with us."""
    os.write(2, b"\nevomerge: left at once; the same command resumes\n")
    os._exit(130)
