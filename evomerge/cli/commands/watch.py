"""`evomerge watch`: follow a run from another shell, by reading its journal alone."""

from __future__ import annotations

import time
from pathlib import Path

from evomerge.cli.commands.show import journal_of
from evomerge.cli.display.progress import Progress
from evomerge.report import Pace
from evomerge.study.journal.journal import follow
from evomerge.study.journal.lock import writer
from evomerge.study.journal.record import Record


def watch(directory: Path, every: float) -> None:
    """Print what a run has done and does, until its result is exported or Ctrl-C.

    Args:
        directory: The run folder.
        every: Seconds between two reads of the journal.
    """
    record, was_running = Record(), True
    journal = journal_of(directory)
    with Progress(pace=Pace()) as progress:
        try:
            for event in follow(journal):
                if event is not None:
                    record.apply(event)
                    progress(event, record)
                elif record.phase == "done" and record.exported is not None:
                    break
                else:
                    running = writer(journal) is not None
                    if was_running and not running:
                        print("watch: nobody runs this study now; waiting for it to be resumed")
                    was_running = running
                    if running:
                        progress.refresh(record)
                    time.sleep(every)
        except KeyboardInterrupt:
            return  # to stop looking is no interruption of the run
    if record.verdict is not None:
        print(f"\n{record.verdict['sentence']}")
