"""`load_study`: a study again from its run folder."""

from __future__ import annotations

from pathlib import Path

from evomerge.core.errors import UserError
from evomerge.study.config import StudyConfig
from evomerge.study.journal.journal import JOURNAL, iterate
from evomerge.study.ledger import Listener
from evomerge.study.study import Study


def load_study(directory: str | Path, listener: Listener | None = None) -> Study:
    """The study that a run folder holds, to read it, to go on with it, or to confirm it.

    Args:
        directory: The run folder.
        listener: Called after every event with the event and the record.

    Raises:
        UserError: There is no journal, it is damaged, or the study has not begun.
    """
    for event in iterate(Path(directory) / JOURNAL):
        if event["event"] == "study":
            return Study(StudyConfig.from_dict(event["config"], Path("/")), directory, listener)
    raise UserError(f"{directory}: this study was interrupted before it began: run it again")
