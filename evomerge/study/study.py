"""Runs a study: check, anchors, search, race, verdict, export. Run again, it resumes.

The control flow is written as if nothing could go wrong. Everything it asks for goes through the
ledger, which hands out what the journal holds and pays for the rest; and every proposal of the
optimizer is compared with the one that the journal holds. So resuming is running again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from evomerge.core.errors import UserError
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.space.space import SearchSpace
from evomerge.study.config import StudyConfig
from evomerge.study.context import StudyRun, study_space
from evomerge.study.display import study_html, study_line
from evomerge.study.journal import dataframes
from evomerge.study.journal.events import Event, ToldEvent
from evomerge.study.journal.journal import JOURNAL
from evomerge.study.journal.record import Record
from evomerge.study.ledger import Ledger, Listener
from evomerge.study.own_rows import check_rows, measure, with_rows
from evomerge.study.phases.anchors import anchors
from evomerge.study.phases.ask_tell import AskTell
from evomerge.study.phases.baseline import Baseline
from evomerge.study.phases.card import write_study_card
from evomerge.study.phases.check import check, finished, refuse_another
from evomerge.study.phases.choice import as_begun
from evomerge.study.phases.conclusion import Conclusion
from evomerge.study.phases.contenders import contenders
from evomerge.study.phases.dead_tasks import warn_of_dead_tasks
from evomerge.study.phases.export import export
from evomerge.study.phases.search import Generations, start_optimizer
from evomerge.study.progress import ProgressBar, someone_looks
from evomerge.study.reuse import lendable
from evomerge.study.statistics.verdict import Verdict
from evomerge.study.trial import Trial, best_numbers
from evomerge.study.workers.pool import open_pool
from evomerge.study.workers.scheduler import Scheduler

if TYPE_CHECKING:
    import optuna
    import pandas


Callback = Callable[["Study", Trial], None]


class Study:
    """A search in a directory.

    `optimize` and `confirm` score recipes with the study's own workers. For external evaluation,
    call `ask` and `tell` instead, and end with `close` (or use ``with``).

    Args:
        config: What to search, on what, for how long.
        directory: The run folder; the same folder resumes.
        listener: Called after every event with the event and the record.
        reuse: Other run folders of the same parents and evaluation; what they have scored is
            copied from there instead of being scored again.
        allow_changed: Whether a study may go on with another configuration or other versions than
            it began with; the journal records what changed.
    """

    def __init__(
        self,
        config: StudyConfig,
        directory: str | Path,
        listener: Listener | None = None,
        reuse: Sequence[str | Path] = (),
        *,
        allow_changed: bool = False,
    ):
        self.directory = Path(directory)
        self.space: SearchSpace = study_space(config)
        self.config = config
        self._listener = listener
        self._reuse = [Path(run) for run in reuse]
        self._allow_changed = allow_changed
        self._ledger: Ledger | None = None
        self._ask_tell: AskTell | None = None
        self._callbacks: Sequence[Callback] = ()
        self._is_stopped = False
        self._bar: ProgressBar | None = None
        if config.search.optimizer is not None:
            start_optimizer(config, self.space, None)  # refuses what it cannot search with

    def __repr__(self) -> str:
        return study_line(self.directory, self.record)

    def _repr_html_(self) -> str:
        return study_html(self.directory, self.record)

    @property
    def record(self) -> Record:
        """The state of the study, from the journal if it is not running."""
        if self._ledger is not None:
            return self._ledger.record
        journal = self.directory / JOURNAL
        return Record.read(self.directory) if journal.is_file() else Record()

    @property
    def best_recipe(self) -> Recipe:
        """The recipe that the verdict recommends.

        Raises:
            UserError: There is no verdict yet.
        """
        record = self.record
        if record.winner is None:
            raise UserError(f"{self.directory}: there is no verdict yet: call confirm()")
        return Recipe.from_dict(record.winner.recipe)

    @property
    def trials(self) -> list[Trial]:
        """All trials in the order of asking; the anchors come first."""
        record = self.record
        return [Trial(record, number) for number in record.trials]

    @property
    def best_trials(self) -> list[Trial]:
        """The search's best trials: one, or several that no other one beats.

        Best by `Trial.gain`, which is partly luck: what `confirm` recommends is chosen on other
        items. Empty until a trial has a fitness.
        """
        record = self.record
        return [Trial(record, number) for number in best_numbers(record)]

    @property
    def best_trial(self) -> Trial:
        """The first of `best_trials`.

        Raises:
            UserError: No trial has a fitness yet.
        """
        best = self.best_trials
        if not best:
            raise UserError(f"{self.directory}: no trial of the search has a fitness yet")
        return best[0]

    def trials_dataframe(self) -> pandas.DataFrame:
        """Return one row per trial; see `study.journal.dataframes` for the columns."""
        return dataframes.trials_dataframe(self.record)

    def outcomes_dataframe(self) -> pandas.DataFrame:
        """Return one row per recipe, mode and item; see `study.journal.dataframes`."""
        return dataframes.outcomes_dataframe(self.record)

    def to_optuna(self, storage: str | None = None) -> optuna.Study:
        """Return an Optuna study with the search's trials, for Optuna's plots and analyses.

        A trial's value is its gain over the reference anchor (its fitness without one); attributes
        have its number here, fitness, scores and failure. Anchors are no trials of it.

        Args:
            storage: The URL of an Optuna storage to copy it into; ``None`` keeps it in memory.
        """
        from evomerge.study.analysis.optuna_mirror import optuna_study

        return optuna_study(self.record, self.directory.resolve().name, storage)

    def optimize(
        self,
        n_trials: int | None = None,
        callbacks: Sequence[Callback] = (),
        progress: bool | None = None,
    ) -> None:
        """Score the anchors and search; called again, it goes on.

        Args:
            n_trials: In all, in whole generations; ``None`` takes the configuration's.
            callbacks: Each is called with the study and every trial of a generation once the
                optimizer has its fitness (None if it failed); it may call `stop`. Trials that the
                journal already has the fitness of are not repeated.
            progress: Whether to show a bar on stderr; ``None``: in a notebook or on a terminal, if
                the study has no listener.

        Raises:
            UserError: Something that the user can mend; the run folder resumes.
        """
        if n_trials is not None:
            search = replace(self.config.search, trials=n_trials)
            self.config = replace(self.config, search=search)
        self._callbacks = callbacks
        try:
            self._run(finish=False, progress=progress)
        finally:
            self._callbacks = ()

    def stop(self) -> None:
        """End the search after this generation; for callbacks.

        As after a deadline, `confirm` then judges the trials so far, and only a call with more
        trials continues the search.
        """
        self._is_stopped = True

    def ask(self) -> Trial:
        """Return the next trial to evaluate yourself; no worker is started, and no model is read.

        First come the anchors (every parent, the base, the usual merges), the honest baseline; the
        search starts at the best of them that the space holds. Then come generations, as the
        optimizer asks them. A trial whose scores were not given to `tell` before
        the study was closed is returned again.

        Raises:
            UserError: All trials of the generation are handed out and some have no scores yet; the
                search has ended; or the run folder is that of a study with its own workers.
        """
        number = self._open_ask_tell().ask()
        return Trial(self.record, number)

    def tell(
        self,
        trial: Trial | int,
        scores: Mapping[str, float] | float | None,
        reason: str = "reported as failed",
    ) -> None:
        """Record the result of a trial that `ask` returned; when this returns, it is on disk.

        Args:
            trial: The trial, or its number.
            scores: A number for every task of the study, higher is better; just the number if
                there is one task; None if it failed, which counts as the worst of its generation.
            reason: Why it failed.

        Raises:
            UserError: The trial has a result already, or a score is missing or not finite.
        """
        number = trial.number if isinstance(trial, Trial) else trial
        self._open_ask_tell().tell(number, scores, reason)

    def close(self) -> None:
        """Close the journal that `ask` and `tell` hold open; closing twice is harmless."""
        self._ask_tell = None
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def confirm(self, progress: bool | None = None) -> Verdict:
        """Race the best trials, judge the winner, and export it; returns the verdict.

        Searches first if that is not done. Called again, it returns the same.

        Args:
            progress: As for `optimize`.

        Raises:
            UserError: Something that the user can mend; the run folder resumes.
        """
        judged = self._run(finish=True, progress=progress)
        assert judged is not None
        return judged

    def _run(self, finish: bool, progress: bool | None) -> Verdict | None:
        started = time.monotonic()
        self.close()
        self._is_stopped = False
        study = self._open()
        try:
            differences = refuse_another(study, allow_changed=self._allow_changed)
            if progress or (progress is None and self._listener is None and someone_looks()):
                self._bar = ProgressBar(self.config.search.trials, study.record)
            done = finished(study)
            if done is not None and differences.is_empty:
                write_study_card(self.directory, study.record)
                return done
            with open_pool(self.config, self.directory / "workers.log") as pool:
                study.ledger.employ(Scheduler(pool))
                check_rows(self.config, self.space)
                check(study, self._allow_changed, differences)
                if done is not None:
                    write_study_card(self.directory, study.record)
                    return done
                begun = study.record.study
                assert begun is not None, "check() began it"
                for run in self._reuse:
                    study.ledger.borrow(run.name, lendable(run, begun))
                study = with_rows(study)
                of_data = anchors(study.config, study.data) if study.data else ()
                measure(study, [anchor.recipe for anchor in of_data])
                baseline = Baseline(study)
                warn_of_dead_tasks(study, baseline)
                search = Generations(study, baseline, started, lambda: self._is_stopped)
                optimizer = search.run()
                if not finish:
                    return None
                race = contenders(study, baseline, optimizer)
                judged = Conclusion(study).run(race, baseline.trials)
                export(study, judged)
                write_study_card(self.directory, study.record)
                return judged
        finally:
            self.close()

    def _open(self, external: bool = False) -> StudyRun:
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise UserError(f"{self.directory}: cannot make a run folder: {error}") from None
        self._ledger = Ledger(self.directory / JOURNAL, self._hear)
        self.config = as_begun(self.config, self.space, self._ledger.record, external)
        return StudyRun(self.config, self.directory, self.space, self._ledger)

    def _open_ask_tell(self) -> AskTell:
        if self._ask_tell is None:
            check_rows(self.config, self.space)
            study = self._open(external=True)
            try:
                self._ask_tell = AskTell(with_rows(study, external=True))
            except BaseException:
                self.close()
                raise
        return self._ask_tell

    def _hear(self, event: Event, record: Record) -> None:
        if self._bar is not None:
            self._bar(event, record)
        if self._listener is not None:
            self._listener(event, record)
        if isinstance(event, ToldEvent):
            for callback in self._callbacks:
                for number in event.trials:
                    callback(self, Trial(record, number))


__all__ = ["JOURNAL", "Callback", "Study"]
