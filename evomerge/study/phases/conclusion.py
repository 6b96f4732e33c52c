"""Phases 3 and 4 run the race on fresh items, and the verdict on held-out ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from evomerge import methods
from evomerge.core.errors import UserError
from evomerge.study.config import CountsTaskConfig
from evomerge.study.context import StudyRun
from evomerge.study.journal.codec import to_json
from evomerge.study.journal.events import ChosenEvent, RacedEvent, VerdictEvent
from evomerge.study.journal.trials import TrialRecord
from evomerge.study.phases.gradients import fitted_items
from evomerge.study.phases.reproduce import reproduce
from evomerge.study.statistics.comparison import Entrant, simplest
from evomerge.study.statistics.constraints import Limits
from evomerge.study.statistics.outcome import fitness
from evomerge.study.statistics.overfit import Overfit
from evomerge.study.statistics.race import Race
from evomerge.study.statistics.verdict import Verdict, broken, verdict
from evomerge.study.statistics.verdict_words import Size, sizes_in_words
from evomerge.study.wanted import Items

JUDGED_ANCHORS = 3  # how many of the best anchors the winner is compared with, besides all parents


class Conclusion:
    """Races candidates on fresh items, and judges the winner on held-out ones."""

    def __init__(self, study: StudyRun):
        self._study = study
        self._constraints = study.config.search.parsed_constraints
        self._race_scores: dict[int, float] = {}
        self._raced_out: set[int] = set()

    def run(self, contenders: Sequence[int], baseline: Sequence[TrialRecord]) -> Verdict:
        """Race the contenders, and compare the winner with the baseline; returns the verdict.

        A winner that cannot be scored on the held-out items leaves its place to the next.

        Raises:
            UserError: None of them can be.
        """
        left, winner = list(contenders), self._within_constraints(contenders, baseline)
        while (judged := self._verdict(winner, baseline)) is None:
            left.remove(winner)
            failure = self._study.record.trials[winner].failure
            reason = f"{self._name(winner)} could not be scored on the held-out items: " + (
                failure.message if failure else "the journal gives no reason"
            )
            if not left:
                raise UserError(f"{reason}; nor could any other candidate of the race")
            out, winner = winner, self._within_constraints(left, baseline)
            self._choose(winner, out, reason)
        return judged

    def _within_constraints(
        self, contenders: Sequence[int], baseline: Sequence[TrialRecord]
    ) -> int:
        """Return the race's winner among those that keep the constraints on its items."""
        first = winner = self._race(contenders)
        left = list(contenders)
        while self._constraints and (words := self._broken(winner, baseline)):
            left.remove(winner)
            if not left:
                self._choose(first, winner, "no candidate keeps the constraints on these items")
                return first
            out, winner = winner, self._race(left)
            self._choose(winner, out, f"on these items {self._name(out)} breaks {words}")
        return winner

    def _broken(self, number: int, baseline: Sequence[TrialRecord]) -> str:
        """Return the constraints that a candidate breaks on the race's items, in words."""
        tasks = {constraint.task for constraint in self._constraints}
        items = {task: ids for task, ids in self._study.pools["race"].items() if task in tasks}
        rows = self._outcomes([number], items, "race")[number]
        if rows is None:
            return "all of them: it could not be scored"
        return broken(self._limits(baseline, items, "race").results(rows))

    def _choose(self, number: int, instead_of: int, reason: str) -> None:
        """Log why the race's leader is not taken, unless the journal has it already."""
        choice = ChosenEvent(trial=number, instead_of=instead_of, reason=reason)
        if choice not in (replace(event, time=None) for event in self._study.record.chosen):
            self._study.ledger.log(choice)

    def _name(self, number: int) -> str:
        return self._study.record.trials[number].name

    def _limits(self, baseline: Sequence[TrialRecord], items: Items, phase: str) -> Limits:
        """Return the constraints' limits on these items, by the metric."""
        kinds = {trial.number: trial.kind for trial in baseline}
        scored = self._outcomes(list(kinds), items, phase)
        baseline_rows = [(kinds[n], rows) for n, rows in scored.items() if rows is not None]
        return Limits(self._constraints, baseline_rows, self._study.record.tasks, "metric")

    def _race(self, contenders: Sequence[int]) -> int:
        record = self._study.record
        race = Race(
            contenders,
            self._study.pools["race"],
            record.tasks_of("race"),
            clusters=record.clusters,
        )
        logged = [event for event in record.races if list(event.contenders) == list(contenders)]
        seen = 0
        while (items := race.next_items()) is not None:
            seen += sum(map(len, items.values()))
            for number, rows in self._outcomes(race.alive, items, "race").items():
                if rows is None and race.winner is None:
                    race.withdraw(number)
            if race.winner is not None:
                break
            values = {
                number: {(row.task, row.doc_id): row.metric for row in rows or ()}
                for number, rows in self._outcomes(race.alive, items, "race").items()
            }
            rung = race.observe(values)
            self._race_scores |= rung.scores
            self._raced_out |= set(rung.out)
            if rung.rung >= len(logged):
                self._study.ledger.log(
                    RacedEvent(
                        rung=rung.rung,
                        alive=rung.alive,
                        out=rung.out,
                        scores=rung.scores,
                        winner=rung.winner,
                        contenders=contenders,
                        items=seen,
                    )
                )
        assert race.winner is not None
        if self._study.config.search.select == "simplest":
            return self._simplest(race.winner, race.alive)
        return race.winner

    def _simplest(self, winner: int, alive: Sequence[int]) -> int:
        """Return the simplest of the last candidates alive within one standard error of the best.

        Contenders are ordered by simplicity.
        """
        scored = self._outcomes(alive, self._study.pools["race"], "race")
        record = self._study.record
        number = simplest(alive, scored, winner, record.tasks_of("race"), record.clusters)
        if number != winner:
            reason = "nearer to the start, and within one standard error of the best"
            self._choose(number, winner, reason)
        return number

    def _verdict(self, number: int, baseline: Sequence[TrialRecord]) -> Verdict | None:
        """Compare the winner with every parent and the best anchors on held-out items.

        Returns:
            The verdict; `None` if the winner could not be scored there.
        """
        record, items = self._study.record, self._study.pools["holdout"]
        rivals = [trial.number for trial in baseline if trial.kind in ("parent", "base")]
        rivals += record.best_anchors("anchor")[:JUDGED_ANCHORS]
        rivals += [n for n in self._race_scores if record.trials[n].kind == "anchor"]
        scored = self._outcomes(list(dict.fromkeys([number, *rivals])), items, "verdict")
        entrants = {
            n: Entrant(
                n,
                record.trials[n].kind,
                record.trials[n].name,
                record.trials[n].digest,
                rows,
                self._race_scores.get(n),
                n in self._raced_out,
            )
            for n, rows in scored.items()
            if rows is not None
        }
        if number not in entrants:
            return None
        tables, kept_in_race = {}, False
        if self._constraints:
            limits = self._limits(baseline, items, "verdict")
            tables = {n: limits.results(entrant.rows) for n, entrant in entrants.items()}
            kept_in_race = not self._broken(number, baseline)
        judged = verdict(
            entrants[number],
            [entrants[n] for n in dict.fromkeys(rivals) if n in entrants],
            record.tasks_of("holdout"),
            constraints=tables,
            kept_in_race=kept_in_race,
            unscored=[record.trials[n].name for n in dict.fromkeys(rivals) if n not in entrants],
            look=record.look(record.trials[number].digest, self._study.ledger.lenders.values()),
            clusters=record.clusters,
        )
        model = self._study.directory / "best" / "model"
        sampled = [task for task, spec in record.tasks.items() if spec.get("sampled")]
        loads = record.study is None or record.study.lm_eval_loads
        method = record.trials[judged.winner.trial].recipe.get("merge_method", "")
        brings = method in methods.names() and methods.get(method).brings_code
        command = reproduce(self._study.config, model, items, sampled, brings) if loads else None
        overfit = self._overfit(number, {n: entrant.rows for n, entrant in entrants.items()})
        sentence = judged.sentence + self._cost(number, judged)
        judged = replace(judged, sentence=sentence, reproduce=command, overfit=overfit)
        event = VerdictEvent(**vars(judged))
        logged = record.verdict and to_json(replace(record.verdict, time=None))
        if logged != to_json(event) or record.phase != "done":  # after more search, though equal
            self._study.ledger.log(event)
        return judged

    def _cost(self, number: int, judged: Verdict) -> str:
        """Return size and time of the winner and its rivals, if the study counts sizes."""
        record = self._study.record
        counted = [t for t in self._study.config.evaluate.tasks if isinstance(t, CountsTaskConfig)]
        sizes = []
        for n in (number, *(c.trial for c in judged.comparisons)) if counted else ():
            name = record.trials[n].name
            scored = judged.scores.get(name) or judged.scores["winner"]
            if n == number and number != judged.winner.trial:
                scored = judged.scores["race_winner"]
            seconds, items = record.judged_in.get(record.trials[n].digest, (0.0, 0))
            about: dict[str, float] = {
                t.counts: scored[t.name] for t in counted if t.name in scored
            }
            sizes.append(Size(name, about, seconds / items if items else None))
        return sizes_in_words(sizes)

    def _overfit(self, number: int, held_out: Mapping[int, Any]) -> Overfit | None:
        """Score a winner that followed gradients on items of its last steps, beside an anchor.

        Args:
            number: The winner.
            held_out: Outcomes of the winner, parents and anchors on the held-out items.
        """
        record = self._study.record
        items = fitted_items(record, 2 * self._study.config.evaluate.items_per_task)
        anchor = next((n for n in record.best_anchors() if n in held_out), None)
        if not items or anchor is None or number == anchor:
            return None
        rows = self._outcomes([number, anchor], items, "verdict")
        if rows[number] is None or rows[anchor] is None:
            return None
        tasks = {task: record.tasks[task] for task in items}
        fitted, anchor_fitted = (fitness(rows[n], tasks, "metric") for n in (number, anchor))
        mine, theirs = (
            fitness([row for row in held_out[n] if row.task in tasks], tasks, "metric")
            for n in (number, anchor)
        )
        name = record.trials[anchor].name
        count = sum(map(len, items.values()))
        return Overfit(count, fitted, mine, name, anchor_fitted, theirs)

    def _outcomes(self, trials: Sequence[int], items: Items, phase: str) -> dict[int, Any]:
        return self._study.outcomes(trials, items, "metric", phase)
