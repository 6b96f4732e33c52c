"""Runs a worker as a child process: JSON lines in on stdin, JSON lines out; nothing is pickled.

Started by `local.LocalPool` as ``python -m evomerge.study.workers.child DRIVER``, with the driver's
process number. The first line is the study's configuration. The output of libraries goes to stderr,
so that stdout has answers alone.
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
    from evomerge.study.workers.answers.codec import read_request, write_answer
    from evomerge.study.workers.evaluator import Evaluator
    from evomerge.study.workers.start import start

    config = json.loads(sys.stdin.readline())
    faults.reach("worker.start")
    evaluator = start(config)  # or the failure to make one
    for line in sys.stdin:
        if isinstance(evaluator, Evaluator):
            answer = evaluator.handle(read_request(json.loads(line)))
        else:
            answer = evaluator
        faults.reach("worker.answer")
        answers.write(json.dumps(write_answer(answer)) + "\n")
        answers.flush()


def _die_with_parent() -> None:
    """Ask Linux to end this process when the driver ends, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != int(sys.argv[1]):  # it ended before we asked; it may itself be process 1
            os._exit(1)


if __name__ == "__main__":
    main()
