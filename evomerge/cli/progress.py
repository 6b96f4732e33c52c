"""Progress of a study: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from evomerge.study.config import StudyConfig
from evomerge.study.objective import fitness
from evomerge.study.record import Record, TrialRecord


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would end the process with a code that means our fault


class Progress:
    """Listens to a study's events and tells how it goes."""

    def __init__(self, config: StudyConfig):
        self._config = config
        self._console = _Console(file=sys.stdout, highlight=False)
        self._live: Live | None = None
        self._began = time.monotonic()
        self._search_began: float | None = None
        self._told_before = 0

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, event: Mapping[str, Any], record: Record) -> None:
        """Take in an event; lines are for the steps that last, the panel for every one."""
        line = self._line(event, record)
        if line:
            self._console.print(line, markup=False, soft_wrap=True)
        if self._live is not None:
            self._live.update(self._panel(record))

    def _line(self, event: Mapping[str, Any], record: Record) -> str | None:
        match event["event"]:
            case "study":
                pools = {p: sum(map(len, t.values())) for p, t in event["pools"].items()}
                size, dimensions = event["parameters"] / 1e6, len(event["dimensions"])
                text = (
                    f"check: {len(event['fingerprints'])} models of {size:.3g} M parameters agree; "
                    f"{len(event['tasks'])} tasks; {pools['search']} items to search, "
                    f"{pools['race']} to race, {pools['holdout']} held out; {dimensions} dimensions"
                )
                return "\n".join([text, *(f"warning: {w}" for w in event["warnings"])])
            case "told":
                if event["generation"] == 0 or self._search_began is None:
                    self._search_began = time.monotonic()
                    self._told_before = self._searched(record)
                    return f"{self._anchors(record)}\n{self._generation(event, record)}"
                return self._generation(event, record)
            case "failed":
                name = record.trials[event["trial"]].name
                return f"failed: {name}: {event['kind']}: {event['message']}"
            case "search_ended":
                return f"search: ended after {event['trials']} trials ({event['reason']})"
            case "raced":
                return self._race(event, record)
            case "verdict":
                items = _items(record, "holdout")
                return f"verdict: {event['winner']['name']}, judged on {items} held-out items"
            case "exported":
                return f"export: weights {str(event['weights_digest'])[:12]}, as scored"
        return None

    def _anchors(self, record: Record) -> str:
        """The best parent and the best simple merge, by the real metric on the anchors' items."""
        best = {}
        for kind in ("parent", "anchor"):
            scored = [
                (score, trial.name)
                for trial in record.trials.values()
                if trial.kind == kind and (score := _metric(record, trial)) is not None
            ]
            if scored:
                score, name = max(scored)
                best[kind] = f"best {kind} {name} {score:.3f}"
        return f"anchors: {', '.join(best.values())} (metric)"

    def _generation(self, event: Mapping[str, Any], record: Record) -> str:
        values = [value for value in event["fitness"] if value is not None]
        best = f"best {max(values):.4f}" if values else "all failed"
        against = (event["reference"] or {}).get("fitness")
        gain = f" ({max(values) - against:+.4f} to the best anchor)" if values and against else ""
        correlation = event["correlation"]
        rank = (
            "" if correlation is None else f", rank correlation with the metric {correlation:.2f}"
        )
        warning = " (low: consider fitness: metric)" if (correlation or 1.0) < 0.5 else ""
        done, wanted = self._searched(record), self._config.search.trials
        return (
            f"search: generation {event['generation']}, {done}/{wanted} trials, {best}{gain}"
            f"{rank}{warning}, {self._rate(record)}"
        )

    def _rate(self, record: Record) -> str:
        began = self._search_began or self._began
        elapsed = max(time.monotonic() - began, 1e-3)
        done = self._searched(record)
        fresh = done - self._told_before
        if fresh <= 0:
            return f"{_forward(record)} in the model"
        left = (self._config.search.trials - done) * elapsed / fresh
        return (
            f"{fresh / elapsed:.2g} trials/s, {_forward(record)} in the model, {_span(left)} left"
        )

    def _race(self, event: Mapping[str, Any], record: Record) -> str:
        leader = max(event["scores"], key=lambda n: event["scores"][n])
        names = f"{record.trials[int(leader)].name} {event['scores'][leader]:.3f}"
        won = event["winner"]
        end = f"won by {record.trials[won].name}" if won is not None else f"led by {names}"
        stay = f"{len(event['alive'])} of {len(event['scores'])} stay"
        return f"race: rung {event['rung'] + 1}, {stay}, {end}"

    @staticmethod
    def _searched(record: Record) -> int:
        return sum(len(g.trials) for g in record.generations.values() if g.fitness is not None)

    def _panel(self, record: Record) -> Table:
        """The live view: what a person wants to know at a glance."""
        table = Table.grid(padding=(0, 2))
        kinds = Counter(t.failure.kind for t in record.trials.values() if t.failure)
        failures = ", ".join(f"{n} {kind}" for kind, n in kinds.items()) or "none"
        last = max(record.generations, default=None)
        told = record.generations[last] if last is not None else None
        rows = {
            "phase": record.phase,
            "trials": f"{self._searched(record)} of {self._config.search.trials}",
            "items": f"{record.item_evaluations:,}",
            "best": f"{record.best.fitness:.4f} ({record.best.name})" if record.best else "–",
            "best anchor": f"{told.reference:.4f}" if told and told.reference is not None else "–",
            "speed": self._rate(record),
            "failures": failures,
            "elapsed": _span(time.monotonic() - self._began),
        }
        for key, value in rows.items():
            table.add_row(f"[dim]{key}[/dim]", value)
        return table


def _metric(record: Record, trial: TrialRecord) -> float | None:
    items = record.asks[0].items or {}
    if record.outcomes.missing(trial.digest, "metric", items):
        return None
    return fitness(record.outcomes.rows(trial.digest, "metric", items), record.tasks, "metric")


def _items(record: Record, pool: str) -> int:
    return sum(map(len, record.study["pools"][pool].values())) if record.study else 0


def _forward(record: Record) -> str:
    total = record.seconds["total"]
    return f"{100 * record.seconds['forward'] / total:.0f} %" if total else "–"


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
