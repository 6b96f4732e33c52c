"""Detects parents whose files change while a study runs, before a score is made of them.

Looking at sizes and times costs microseconds, so it is done for each candidate. Only where those
differ (also between a worker and the driver, which may see a file on different machines) are the
files read and hashed again: only their content matters.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from evomerge.core.errors import UserError
from evomerge.merge.parents.nested import open_parents
from evomerge.merge.parents.parents import Parents
from evomerge.study.workers.failures import StudyStopError
from evomerge.study.workers.requests import ExpectedParents


class ParentWatch:
    """Compares the parents' files with those that were opened."""

    def __init__(self, parents: Parents):
        self._parents = parents
        self._stamps = parents.stamps()
        self._agreed: str | None = None  # the driver's stamp, once the content was found equal

    @property
    def stamp(self) -> str:
        """A hash of every file's name, size and time."""
        return hashlib.sha256(json.dumps(self._stamps, sort_keys=True).encode()).hexdigest()[:16]

    def check(self, expected: ExpectedParents | None = None) -> None:
        """Check that the files are still those that the study began with.

        Args:
            expected: The parents as the worker that described them saw them.

        Raises:
            StudyStopError: The content of a file changed; the message names it.
        """
        now = self._parents.stamps()
        changed = [file for file, stamp in now.items() if stamp != self._stamps[file]]
        if changed:
            self._compare(changed, expected)
            self._stamps = now
        if expected is not None and expected.stamp not in (self.stamp, self._agreed):
            self._compare([], expected)
            self._agreed = expected.stamp

    def _compare(self, changed: list[str], expected: ExpectedParents | None) -> None:
        for model, checkpoint in self._parents.opened.items():
            files = [str(file) for file in checkpoint.store.files]
            changed_here = [file for file in changed if file in files]
            if changed and not changed_here:
                continue
            began = expected.fingerprints[model] if expected else None
            named = changed_here[0] if changed_here else str(checkpoint.folder)
            try:
                same = open_parents([model]).opened[model].fingerprint == began
                why = "its content differs"
            except (UserError, OSError) as error:
                same, why = False, str(error)
            if not same:
                raise StudyStopError(
                    f"{named}: changed while the study was running ({_size(named)}{why}); restore "
                    "the original file, then run the same command again to resume"
                )


def _size(file: str) -> str:
    path = Path(file)
    if path.is_dir():
        return ""
    return f"now {path.stat().st_size} bytes; " if path.exists() else "it is gone; "
