"""Runs a worker as a child process: JSON lines in on stdin, JSON lines out; nothing is pickled.

Started by `local.LocalPool` as ``python -m evomerge.study.workers.child``. The first line is the
study's configuration. The output of libraries goes to stderr, so that stdout has answers alone.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys


def main() -> None:
    """Answer requests until stdin ends."""
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    from evomerge.core import faults
    from evomerge.study.workers.evaluator import Evaluator, start

    config = json.loads(sys.stdin.readline())
    faults.reach("worker.start")
    made = start(config)
    for line in sys.stdin:
        answer = made.handle(json.loads(line)) if isinstance(made, Evaluator) else made
        faults.reach("worker.answer")
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _die_with_parent() -> None:
    """Ask Linux to end this process when the driver ends, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() == 1:
            os._exit(1)


if __name__ == "__main__":
    main()
