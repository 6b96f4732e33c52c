"""`evomerge watch`: follow a run from another shell, by reading its journal alone."""

from __future__ import annotations

import time
from pathlib import Path

from evomerge.cli.commands.show import journal_of
from evomerge.cli.display.progress import Progress
from evomerge.report import Pace
from evomerge.study.journal.journal import follow
from evomerge.study.journal.record import Record


def watch(directory: Path, every: float) -> None:
    """Tell what a run has done and does, until its result is exported or Ctrl-C.

    Args:
        directory: The run folder.
        every: Seconds between two looks at the journal.
    """
    record, told = Record(), False
    with Progress(pace=Pace()) as progress:
        try:
            for event in follow(journal_of(directory)):
                if event is not None:
                    record.apply(event)
                    progress(event, record)
                elif record.phase == "done" and record.exported is not None:
                    break
                else:
                    if not told and not journal_of(directory).with_suffix(".lock").exists():
                        print(
                            "watch: nobody writes to this run now; waiting for its search to go on"
                        )
                    told = True
                    progress.refresh(record)
                    time.sleep(every)
        except KeyboardInterrupt:
            return  # to stop looking is no interruption of the run
    if record.verdict is not None:
        print(f"\n{record.verdict['sentence']}")
