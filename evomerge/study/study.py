"""A study: check, anchors, search, race, verdict, export. Run again, it resumes.

The control flow is written as if nothing could go wrong. Everything it asks for goes through the
ledger, which hands out what the journal holds and pays for the rest; and every proposal of the
optimizer is compared with the one that the journal holds. So resuming is running again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evomerge.errors import UserError
from evomerge.recipe import Recipe
from evomerge.space import SearchSpace
from evomerge.study.baseline import Baseline
from evomerge.study.check import check, finished, refuse_another
from evomerge.study.config import StudyConfig
from evomerge.study.contenders import contenders
from evomerge.study.finish import Finish
from evomerge.study.generations import Generations, start_optimizer
from evomerge.study.journal import JOURNAL, iterate
from evomerge.study.ledger import Ledger, Listener
from evomerge.study.open_study import OpenStudy, study_space
from evomerge.study.record import Record
from evomerge.study.scheduler import Scheduler
from evomerge.study.workers import open_pool


class Study:
    """A search in a directory.

    Args:
        config: What to search, on what, for how long.
        directory: The run folder; the same folder resumes.
        listener: Called after every event with the event and the record.
    """

    def __init__(
        self, config: StudyConfig, directory: str | Path, listener: Listener | None = None
    ):
        self.config = config
        self.directory = Path(directory)
        self.space: SearchSpace = study_space(config)
        self._listener = listener
        self._ledger: Ledger | None = None
        start_optimizer(config, self.space, None)  # refuses what it cannot search with

    @property
    def record(self) -> Record:
        """What the study has done so far, from the journal if it is not running."""
        if self._ledger is not None:
            return self._ledger.record
        journal = self.directory / JOURNAL
        return Record.from_events(iterate(journal)) if journal.is_file() else Record()

    @property
    def best_recipe(self) -> Recipe:
        """The recipe that the verdict recommends.

        Raises:
            UserError: There is no verdict yet.
        """
        record = self.record
        if record.verdict is None:
            raise UserError(f"{self.directory}: there is no verdict yet: call confirm()")
        return Recipe.from_dict(record.trials[record.verdict["winner"]["trial"]].recipe)

    def optimize(self, n_trials: int | None = None) -> None:
        """Score the anchors and search; called again, it goes on.

        Args:
            n_trials: In all, in whole generations; ``None`` takes the configuration's.

        Raises:
            UserError: Something that the user can mend; the run folder resumes.
        """
        if n_trials is not None:
            told = replace(self.config.search, trials=n_trials)
            self.config = replace(self.config, search=told)
        self._run(finish=False)

    def confirm(self) -> Mapping[str, Any]:
        """Race, judge and export what was found; returns what verdict.json holds.

        Searches first if that is not done. Called again, it returns the same.

        Raises:
            UserError: Something that the user can mend; the run folder resumes.
        """
        judged = self._run(finish=True)
        assert judged is not None
        return judged

    def _run(self, finish: bool) -> Mapping[str, Any] | None:
        started = time.monotonic()
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise UserError(f"{self.directory}: cannot make a run folder: {error}") from None
        ledger = self._ledger = Ledger(self.directory / JOURNAL, self._listener)
        try:
            study = OpenStudy(self.config, self.directory, self.space, ledger)
            refuse_another(study)
            done = finished(study)
            if done is not None:
                return done
            with open_pool(self.config, self.directory / "workers.log") as pool:
                ledger.employ(Scheduler(pool))
                check(study)
                baseline = Baseline(study)
                optimizer = Generations(study, baseline, started).run()
                if not finish:
                    return None
                ending = Finish(self.config, self.directory, ledger, study.pools)
                return ending.run(contenders(study, baseline, optimizer), baseline.trials)
        finally:
            ledger.close()
            self._ledger = None


__all__ = ["JOURNAL", "Study"]
