"""The end of a study: the race on fresh items, the verdict on held-out ones, and the export."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.core.atomic import user_errors, write_text
from evomerge.recipe.recipe import Recipe
from evomerge.study.config import StudyConfig
from evomerge.study.journal.trials import TrialRecord
from evomerge.study.ledger import Items, Ledger
from evomerge.study.phases.reproduce import reproduce
from evomerge.study.statistics.comparison import Entrant, simplest
from evomerge.study.statistics.constraints import Limits
from evomerge.study.statistics.race import Race
from evomerge.study.statistics.verdict import broken, verdict
from evomerge.study.workers.requests import (
    Evaluate,
    Export,
    Exported,
    Scores,
    Translate,
    Translation,
)

JUDGED_ANCHORS = 3  # so many of the best anchors are compared with the winner, besides all parents


class Finish:
    """Race, verdict and export of one study."""

    def __init__(
        self,
        config: StudyConfig,
        directory: Path,
        ledger: Ledger,
        pools: Mapping[str, Items],
    ):
        self.config = config
        self.directory = directory
        self.ledger = ledger
        self.pools = pools
        self._constraints = config.search.parsed_constraints
        self._race_scores: dict[int, float] = {}
        self._raced_out: set[int] = set()

    def run(self, contenders: Sequence[int], baseline: Sequence[TrialRecord]) -> Mapping[str, Any]:
        """Race the contenders, judge the winner against the baseline, and export it."""
        winner = self._within_constraints(contenders, baseline)
        judged = self._verdict(winner, baseline)
        self._export(judged)
        return judged

    def _within_constraints(
        self, contenders: Sequence[int], baseline: Sequence[TrialRecord]
    ) -> int:
        """The winner of the race among those that keep the constraints on the race's items."""
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
        """The constraints that a candidate breaks on the race's items, in words."""
        tasks = {constraint.task for constraint in self._constraints}
        items = {task: ids for task, ids in self.pools["race"].items() if task in tasks}
        rows = self._outcomes([number], items, "race")[number]
        if rows is None:
            return "all of them: it could not be scored"
        return broken(self._limits(baseline, items, "race").table(rows))

    def _choose(self, number: int, instead_of: int, reason: str) -> None:
        """Write down why the race's leader is not taken, unless a resumed study said so before."""
        told = {"event": "chosen", "trial": number, "instead_of": instead_of, "reason": reason}
        if told not in [{**_told(e), "event": "chosen"} for e in self.ledger.record.chosen]:
            self.ledger.log(told)

    def _name(self, number: int) -> str:
        return self.ledger.record.trials[number].name

    def _limits(self, baseline: Sequence[TrialRecord], items: Items, phase: str) -> Limits:
        """The constraints' limits on these items, by the metric."""
        kinds = {trial.number: trial.kind for trial in baseline}
        scored = self._outcomes(list(kinds), items, phase)
        some = [(kinds[n], rows) for n, rows in scored.items() if rows is not None]
        return Limits(self._constraints, some, self.ledger.record.tasks, "metric")

    def _race(self, contenders: Sequence[int]) -> int:
        record = self.ledger.record
        race = Race(contenders, self.pools["race"], record.tasks_of("race"))
        held = [event for event in record.races if event.get("contenders") == list(contenders)]
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
            if rung.rung >= len(held):
                about = {"contenders": list(contenders), "items": seen}
                self.ledger.log({**rung.event(), **about})
        assert race.winner is not None
        if self.config.search.select == "simplest":
            return self._simplest(race.winner, race.alive)
        return race.winner

    def _simplest(self, winner: int, alive: Sequence[int]) -> int:
        """The first of those in the race to its end that is within one standard error of the best.

        Contenders stand in the order of their simplicity.
        """
        scored = self._outcomes(alive, self.pools["race"], "race")
        number = simplest(alive, scored, winner, self.ledger.record.tasks_of("race"))
        if number != winner:
            reason = "nearer to the start, and within one standard error of the best"
            self._choose(number, winner, reason)
        return number

    def _verdict(self, number: int, baseline: Sequence[TrialRecord]) -> dict[str, Any]:
        """Compare the winner with every parent and the best anchors on held-out items."""
        record, items = self.ledger.record, self.pools["holdout"]
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
            failure = record.trials[number].failure
            why = failure.message if failure else "for no reason given"
            raise RuntimeError(f"the race's winner could not be scored on held-out items: {why}")
        tables, kept_in_race = {}, False
        if self._constraints:
            limits = self._limits(baseline, items, "verdict")
            tables = {n: limits.table(entrant.rows) for n, entrant in entrants.items()}
            kept_in_race = not self._broken(number, baseline)
        judged = verdict(
            entrants[number],
            [entrants[n] for n in dict.fromkeys(rivals) if n in entrants],
            record.tasks_of("holdout"),
            constraints=tables,
            kept_in_race=kept_in_race,
            unscored=[record.trials[n].name for n in dict.fromkeys(rivals) if n not in entrants],
        )
        judged["reproduce"] = reproduce(self.config, self.directory / "best" / "model", items)
        said = record.verdict is not None and _told(record.verdict) == judged
        if not said or record.phase != "done":  # said again after more of the search, though equal
            self.ledger.log({"event": "verdict", **judged})
        return judged

    def _export(self, judged: Mapping[str, Any]) -> None:
        """Write verdict, recipe and model; the model's digest must be that of what was scored."""
        trial = self.ledger.record.winner
        assert trial is not None, "the verdict comes before the export"
        recipe = Recipe.from_dict(trial.recipe)
        best = self.directory / "best"
        told = json.dumps(judged, indent=1, ensure_ascii=False) + "\n"
        with user_errors(best):
            best.mkdir(exist_ok=True)
            _sweep(best)
            write_text(best / "recipe.yaml", recipe.to_yaml())
            write_text(self.directory / "verdict.json", told)
        translated = self.ledger.request(Translate(trial.recipe), Translation)
        if translated.mergekit is not None:
            with user_errors(best):
                write_text(best / "mergekit.yaml", translated.mergekit)
        else:
            (best / "mergekit.yaml").unlink(missing_ok=True)  # an earlier winner's
        digest, model = None, None
        if self.config.output.save_model:
            task, ids = next(iter(self.pools["holdout"].items()))
            one_item = Evaluate(trial.recipe, [{task: ids[:1]}], "metric", digest=True)
            scored_digest = self.ledger.request(one_item, Scores).weights_digest
            assert scored_digest is not None
            export = Export(trial.recipe, str((best / "model").resolve()))
            digest, model = self.ledger.request(export, Exported).weights_digest, "best/model"
            if digest != scored_digest:
                raise RuntimeError(
                    f"the exported weights ({digest[:12]}) are not those that were scored "
                    f"({scored_digest[:12]}): {best / 'model'} is not to be trusted"
                )
        past = self.ledger.record.exported
        done = {
            "trial": trial.number,
            "model": model,
            "weights_digest": digest,
            "no_mergekit": translated.why_not,
        }
        if past is None or {key: past.get(key) for key in done} != done:
            self.ledger.log({"event": "exported", **done})

    def _outcomes(self, trials: Sequence[int], items: Items, phase: str) -> dict[int, Any]:
        return self.ledger.outcomes(trials, items, "metric", phase)


def _told(event: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key not in ("event", "time")}


def _sweep(folder: Path) -> None:
    """Remove what an export that was killed left half-written; nobody else writes here."""
    for partial in folder.glob(".*.partial-*"):
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)
