"""Shows the progress of a study: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.live import Live

from evomerge.cli.display.lines import console_of, print_lines
from evomerge.cli.display.panel import panel, speed
from evomerge.report import Pace
from evomerge.report.numbers import duration, number, plural
from evomerge.report.status import Driver, answers_text, baseline, baseline_text, ended_text
from evomerge.study.config import StudyConfig, seconds
from evomerge.study.journal.events import (
    ChosenEvent,
    Event,
    ExportedEvent,
    FailedEvent,
    OutcomesEvent,
    RacedEvent,
    SearchEndedEvent,
    StudyEvent,
    ToldEvent,
    VerdictEvent,
    WarningEvent,
)
from evomerge.study.journal.record import Record

QUIET_SECONDS = 30.0  # without a line, where there is no panel
STEPS_A_LINE = 10  # of a search with one trial in a generation, such as along gradients
REFRESH_SECONDS = 0.25  # of the panel; drawing it takes longer the longer a study is


class _Starting:
    """Says that workers load, and for how long by now; drawn again with every refresh."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __rich__(self) -> str:
        since = duration(time.monotonic() - self._began)
        return f"starting: workers load models and tasks, {since} so far"


class Progress:
    """Listens to a study's events and shows how it goes.

    Args:
        config: The study's; ``None`` takes the one in the study's own event.
        pace: Gets every event; it may begin with the journal's first.
        console: Where to show it; ``None`` is standard output.
    """

    def __init__(
        self,
        config: StudyConfig | None = None,
        pace: Pace | None = None,
        console: Console | None = None,
    ):
        self._config = config
        self._console = console or console_of(sys.stdout)
        self._live: Live | None = None
        self._drawn = float("-inf")
        self._said = time.monotonic()
        self._pace = pace or Pace(time.time())

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live = Live(
                console=self._console, refresh_per_second=1 / REFRESH_SECONDS, transient=True
            )
            self._live.start()
            self._live.update(_Starting())
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, event: Event, record: Record) -> None:
        """Take in an event; lines are for the long steps, the panel for every one."""
        self._pace.apply(event, record)
        line = self._line(event, record) or self._sign_of_life(event, record)
        if line:
            self.say(line)
        self.refresh(record, at_once=line is not None)

    def say(self, line: str) -> None:
        """Print a line above the panel."""
        self._said = time.monotonic()
        print_lines(self._console, line)

    def refresh(self, record: Record, at_once: bool = False, driver: Driver | None = None) -> None:
        """Draw the panel again, on a terminal; `at_once`, though it was drawn a moment ago."""
        just_drawn = time.monotonic() < self._drawn + REFRESH_SECONDS
        if self._live is None or (just_drawn and not at_once):
            return
        self._drawn = time.monotonic()
        search = self._search(record)
        allowed = seconds(search.get("deadline"))
        self._live.update(panel(record, self._pace, search.get("trials"), allowed, driver))

    def _sign_of_life(self, event: Event, record: Record) -> str | None:
        """Say what was just scored, where nothing else was printed for a while."""
        quiet = time.monotonic() - self._said > QUIET_SECONDS
        if self._live is not None or not isinstance(event, OutcomesEvent) or not quiet:
            return None
        name = record.trials[event.trial].name
        return f"{event.phase}: scored {name}, {speed(record, self._pace)}"

    def _search(self, record: Record) -> Mapping[str, Any]:
        """Return the study's search section."""
        if self._config is not None:
            return asdict(self._config.search)
        section: Mapping[str, Any] = record.config.get("search", {})
        return section

    def _line(self, event: Event, record: Record) -> str | None:
        match event:
            case StudyEvent(elsewhere=True):
                size = plural(len(event.dimensions), "dimension")
                return f"check: {plural(len(event.tasks), 'task')}, evaluated externally; {size}"
            case StudyEvent():
                pools = {p: sum(map(len, t.values())) for p, t in event.pools.items()}
                millions, dimensions = event.parameters / 1e6, len(event.dimensions)
                models = f"{len(event.fingerprints)} models of {millions:.3g} M parameters"
                text = (
                    f"check: {models} agree; {len(event.tasks)} tasks; "
                    f"{pools['search']:,} items to search, "
                    f"{pools['race']:,} to race, {pools['holdout']:,} held out; "
                    f"{plural(dimensions, 'dimension')}"
                )
                rows = [self._rows(event)] if self._config and self._config.data else []
                return "\n".join([text, *rows, *(f"warning: {w}" for w in event.warnings)])
            case ToldEvent():
                line = self._generation(event, record)
                if event.generation == 0:
                    return f"anchors: {baseline_text(baseline(record))}\n{line}"
                is_step = len(event.trials) == 1  # they are many and quick
                return None if is_step and event.generation % STEPS_A_LINE else line
            case WarningEvent():
                return f"warning: {event.message}"
            case FailedEvent():
                name = record.trials[event.trial].name
                return f"failed: {name}: {event.kind}: {event.message}"
            case SearchEndedEvent():
                return f"search: {ended_text(event)}"
            case RacedEvent():
                return self._race(event, record)
            case ChosenEvent():
                taken, other = (record.trials[n].name for n in (event.trial, event.instead_of))
                instead = f" rather than {other}" if taken != other else ""
                return f"race: {taken} is taken{instead}: {event.reason}"
            case VerdictEvent():
                items = _items(record, "holdout")
                judged = event.race_winner.name
                taken = event.winner.name
                instead = "" if taken == judged else f"; {taken} is recommended"
                return f"verdict: {judged}, judged on {items:,} held-out items{instead}"
            case ExportedEvent():
                digest = event.weights_digest  # None with output.save_model: false
                text = f"weights {digest[:12]}, as scored" if digest else "recipe only"
                if event.adapter is not None:
                    where = event.adapter.folder or "no adapter"
                    text += f"; {where}: {event.adapter.sentence}"
                return f"export: {text}"
        return None

    def _rows(self, event: StudyEvent) -> str:
        """Say whose rows are read, which comes before anything is scored."""
        from evomerge.study.own_rows import described

        assert self._config is not None
        rows = described(self._config, event.pools["search"])
        return f"rows: {rows}; workers run them first: `evomerge check` forecasts how long"

    def _generation(self, event: ToldEvent, record: Record) -> str:
        standings = record.generations[event.generation].standings()
        leader = max(standings, key=lambda standing: standing.fitness, default=None)
        best = f"best {number(leader.fitness)}" if leader else "all failed"
        if leader and leader.gain is not None:
            best += f" ({number(leader.gain, sign=True)} over the best anchor)"
        answers = _answers(record, event.generation)
        correlation = event.correlation
        rank = (
            "" if correlation is None else f", rank correlation with the metric {correlation:.2f}"
        )
        done, wanted = record.n_learned, self._search(record).get("trials")
        text = (
            f"search: generation {event.generation}, {done}/{wanted} trials, {best}"
            f"{_feasible(event.violations)}{answers}{rank}"
        )
        if self._live is not None:  # whose panel says the rest
            return text
        left = self._pace.seconds_left(wanted)
        behind = f", {duration(left)} left" if left else ""
        return f"{text}, {speed(record, self._pace)}{behind}"

    def _race(self, event: RacedEvent, record: Record) -> str:
        leader = max(event.scores, key=lambda n: event.scores[n])
        names = f"{record.trials[leader].name} {event.scores[leader]:.3f}"
        won = event.winner
        end = f"won by {record.trials[won].name}" if won is not None else f"led by {names}"
        stay = f"{len(event.alive)} of {len(event.scores)} stay"
        return f"race: rung {event.rung + 1}, {stay}, {end}"


def _answers(record: Record, generation: int) -> str:
    """Cut or unfound answers of the last leader that was scored by the metric."""
    for earlier in (generation, generation - 1):
        ask = record.generations.get(earlier)
        scored = zip(ask.fitness or (), ask.trials, strict=True) if ask else ()
        best = max(((f, -n) for f, n in scored if f is not None), default=None)
        if best is not None and record.written(-best[1]).answers:
            fates = answers_text(record.written(-best[1]))
            return fates and f", {record.trials[-best[1]].name}: {fates}"
    return ""


def _feasible(violations: Sequence[float | None] | None) -> str:
    """Return the trials of a generation that keep the constraints, if there are any.

    >>> _feasible([0.0, 0.25, None])
    ', 1 of 2 keep the constraints'
    """
    scored = [violation for violation in violations or () if violation is not None]
    count = sum(not violation for violation in scored)
    return f", {count} of {len(scored)} keep the constraints" if scored else ""


def _items(record: Record, pool: str) -> int:
    return sum(map(len, record.pools.get(pool, {}).values()))
