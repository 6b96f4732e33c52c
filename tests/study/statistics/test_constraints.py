"""Constraints, several objectives, simplicity: what they mean, and that a study keeps to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge.core.errors import UserError
from evomerge.evaluate.outcomes import OutcomeRow
from evomerge.optimizers.coordinates import Coordinates
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.space.dimension import Dimension
from evomerge.report import status_text
from evomerge.report.page.page import page
from evomerge.report.run import Run
from evomerge.study.phases.card import study_card
from evomerge.study.phases.feedback import distance
from evomerge.study.statistics.comparison import Entrant, simplest
from evomerge.study.statistics.constraints import Constraint, ConstraintResult, Limits, demoted
from evomerge.study.statistics.outcome import Tasks
from evomerge.study.statistics.pareto import hypervolume, pareto_front
from evomerge.study.statistics.verdict import Verdict, verdict
from evomerge.study.study import Study
from evomerge.study.trial import front_of
from tests.study.small_study import StubWorkers, stub_config

TASKS: Tasks = {
    "qa": {"metric": "acc", "higher_is_better": True, "weight": 1.0},
    "lm": {"metric": "ppl", "higher_is_better": False, "weight": 1.0},
}


def rows(qa: float, lm: float) -> list[OutcomeRow]:
    return [OutcomeRow("qa", 0, qa, None, 0, 1), OutcomeRow("lm", 0, lm, None, 0, 1)]


BASELINE = [
    ("base", rows(0.2, 30.0)),
    ("parent", rows(0.6, 12.0)),
    ("parent", rows(0.5, 9.0)),
    ("anchor", rows(0.7, 10.0)),
]


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("qa >= best parent - 0.01", 0.59),
        ("qa>=best anchor", 0.7),
        ("qa >= base + .1", 0.3),
        ("qa >= 0.55", 0.55),
        ("lm <= best parent + 0.5", 9.5),  # less is better, so the best parent's is the smallest
        ("lm <= 11", 11.0),
    ],
)
def test_limits_by_hand(text: str, limit: float) -> None:
    constraint = Constraint.parse(text, "here", ["qa", "lm"])
    results = Limits([constraint], BASELINE, TASKS, "metric").results(rows(0.6, 10.0))
    assert results[0].limit == pytest.approx(limit)
    holds = limit >= 10.0 if constraint.at_most else limit <= 0.6
    assert results[0].kept == holds


def test_violations_add_up_and_a_reference_carries_them_to_other_items() -> None:
    texts = ["qa >= best parent", "lm <= best anchor"]
    limits = Limits(
        [Constraint.parse(text, "", [*TASKS]) for text in texts], BASELINE, TASKS, "metric"
    )
    assert limits.violation(rows(0.6, 10.0)) == 0
    assert limits.violation(rows(0.5, 12.0)) == pytest.approx(0.1 + 2.0)
    # On easier items the anchor has .9 instead of .7; .75 there is worth .55.
    beside = limits.violation_beside(rows(0.75, 10.0), rows(0.9, 10.0), rows(0.7, 10.0))
    assert beside == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("qa > 0.5", "expected TASK >= LIMIT"),
        ("qa >= best mother", "expected TASK >= LIMIT"),
        ("q >= 0.5", "unknown task 'q'"),
    ],
)
def test_other_forms_are_refused_in_one_line(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Constraint.parse(text, "study: search.constraints", ["qa", "lm"])


def test_those_that_break_constraints_rank_below_all_that_keep_them() -> None:
    values, broken = [0.9, 0.2, 0.8, None, 0.5], [0.01, 0.0, 0.3, None, 0.0]
    lowered = demoted(values, broken)
    order = sorted(
        (i for i in range(5) if lowered[i] is not None),
        key=lambda i: -(lowered[i] or 0),
    )
    assert order == [4, 1, 0, 2]
    assert lowered[3] is None


@pytest.mark.parametrize("seed", range(5))
def test_hypervolume_is_the_share_of_a_cube_that_is_dominated(seed: int) -> None:
    draws = np.random.default_rng(seed)
    front = draws.random((6, 3))
    samples = draws.random((100_000, 3))
    hit = (samples[:, None, :] <= front[None]).all(axis=2).any(axis=1).mean()
    assert hypervolume(front.tolist(), (0, 0, 0)) == pytest.approx(hit, abs=0.006)


def test_hypervolume_counts_nothing_below_the_reference_and_no_beaten_trial() -> None:
    assert hypervolume([(-1.0, 5.0)], (0.0, 0.0)) == 0
    assert hypervolume([(2, 2), (1, 1)], (0, 0)) == hypervolume([(2, 2)], (0, 0)) == 4


def test_distance_counts_another_choice_as_the_whole_range() -> None:
    space = Coordinates([Dimension("a"), Dimension("m", "categorical", choices=("x", "y"))])
    assert distance(space, (0.5, "y"), (0.25, "x")) == pytest.approx((0.25 + 1) / 2)
    assert distance(space, (0.25, "x"), (0.25, "x")) == 0


def run(tmp_path: Path, **search: Any) -> Study:
    study = Study(stub_config(search={"trials": 24, **search}), tmp_path / "run")
    study.confirm()
    return study


def test_a_pareto_search_tells_gains_by_task_and_hands_out_the_front(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    stub_workers()
    study = run(tmp_path, optimizer="nsga2", objective="pareto")
    generations = study.record.generations.values()
    vectors = {
        n: v for g in generations for n, v in zip(g.trials, g.objectives or (), strict=True) if v
    }
    assert {len(v) for v in vectors.values()} == {2}
    for g in generations:  # equal weights: the fitness is the objectives' mean
        for vector, value in zip(g.objectives or (), g.fitness or (), strict=True):
            assert np.mean(vector) == pytest.approx((value or 0) - (g.reference or 0), abs=1e-9)
    numbers = list(vectors)
    front = [numbers[i] for i in pareto_front(list(vectors.values()))]
    assert [trial.number for trial in study.best_trials] == front
    trials = front_of(study.record)
    assert trials is not None
    assert trials["trials"] == front
    assert f"{len(front)} trial" in status_text(study.record)


def test_an_optimizer_of_one_number_is_refused_for_a_pareto_search(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"CatCma searches for one number: .* nsga2"):
        Study(stub_config(search={"objective": "pareto"}), tmp_path / "run")


def test_constraints_that_nothing_keeps_are_said_in_the_verdict(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    stub_workers()
    study = run(tmp_path, constraints=["stub_choice >= 2"])
    judged = study.record.verdict
    assert judged is not None
    assert judged.improvement_shown is False
    assert [c.kept for c in judged.constraints] == [False]
    assert study.record.chosen[-1].reason == "no candidate keeps the constraints on these items"
    if judged.winner.kind == "trial":
        assert judged.sentence.startswith("No improvement shown")
    assert all((v or 0) > 0 for g in study.record.generations.values() for v in g.violations or ())


def test_constraints_that_all_keep_change_nothing_but_the_record(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    stub_workers()
    free = run(tmp_path / "free")
    bound = run(tmp_path / "bound", constraints=["stub_choice >= -1"])
    points = [[t.point for t in s.record.trials.values()] for s in (free, bound)]
    assert points[0] == points[1]
    judged = bound.record.verdict
    assert judged is not None
    assert judged.constraints[0].kept is True
    assert bound.record.chosen == []


def entrant(number: int, kind: str, qa: float, race: float | None = None) -> Entrant:
    """A model that is right on so many of 100 questions."""
    answers = [OutcomeRow("qa", i, float(i < 100 * qa), None, 0, 1) for i in range(100)]
    return Entrant(number, kind, f"{kind} {number}", f"d{number}", answers, race)


def judged(limit: float, rivals: list[Entrant], *, kept_in_race: bool = True) -> Verdict:
    """The verdict on a trial that is right on 90 of 100, which may have at most `limit`."""
    tasks: Tasks = {"qa": TASKS["qa"]}
    limits = Limits([Constraint.parse(f"qa <= {limit}", "", ["qa"])], [], tasks, "metric")
    winner = entrant(9, "trial", 0.9, race=0.9)
    tables = {e.trial: limits.results(e.rows) for e in (winner, *rivals)}
    return verdict(winner, rivals, tasks, constraints=tables, kept_in_race=kept_in_race)


def test_a_winner_that_breaks_a_constraint_is_neither_an_improvement_nor_recommended() -> None:
    rivals = [
        entrant(0, "parent", 0.3),
        entrant(1, "anchor", 0.2, race=0.4),  # in the race, and keeps it
        entrant(2, "anchor", 0.6, race=0.6),  # best in the race, and breaks it
    ]
    result = judged(0.5, rivals)
    assert result.improvement_shown is False
    assert result.winner.name == "anchor 1"
    assert result.constraints[0] == ConstraintResult("qa <= 0.5", 0.9, 0.5, kept=False)
    said = result.sentence
    assert said.startswith(
        "No improvement shown: on held-out items trial 9 breaks qa <= 0.5 (0.900, the limit is "
        "0.500), which it keeps on those of the race. anchor 1, which needs no search, keeps "
        "every constraint and is recommended. Constraints aside, trial 9 scores +0.300 ["
    )
    assert said.count("recommended") == 1
    assert judged(0.5, rivals[:1]).winner.name == "parent 0"  # though it did not race
    assert "of the race" not in judged(0.5, rivals, kept_in_race=False).sentence


def test_the_winner_stays_and_the_verdict_says_so_if_no_model_keeps_the_constraints() -> None:
    result = judged(0.1, [entrant(0, "parent", 0.3), entrant(1, "anchor", 0.2, race=0.4)])
    assert result.improvement_shown is False
    assert result.winner == result.race_winner
    assert "still recommended, since no parent or anchor keeps every constraint" in result.sentence


def test_a_constraint_that_is_kept_changes_no_verdict() -> None:
    result = judged(0.95, [entrant(0, "parent", 0.3)])
    assert result.improvement_shown is True
    assert result.winner.name == "trial 9"
    assert result.sentence.startswith("Improvement shown on")


def test_verdict_recipe_card_and_report_name_one_model_if_the_winner_breaks_a_constraint(
    stub_workers: StubWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub_workers()
    monkeypatch.setattr(
        "evomerge.study.phases.conclusion.broken", lambda _: ""
    )  # on the race's items all keep it
    monkeypatch.setattr(Limits, "violation_beside", lambda *_: 0.0)  # and in the search
    study = run(tmp_path, constraints=["stub_choice <= best parent"])
    folder = tmp_path / "run"
    verdict_document = json.loads((folder / "verdict.json").read_text())
    assert verdict_document["race_winner"]["kind"] == "trial"
    assert verdict_document["winner"]["kind"] in ("parent", "anchor")
    assert verdict_document["improvement_shown"] is False
    name, number = verdict_document["winner"]["name"], verdict_document["winner"]["trial"]
    record = study.record
    assert record.exported is not None
    assert record.exported.trial == number
    recipe = record.trials[number].recipe
    assert Recipe.from_yaml(folder / "best" / "recipe.yaml").to_dict() == recipe
    assert study.best_recipe.to_dict() == recipe
    assert (
        verdict_document["scores"]["winner"]
        == verdict_document["scores"][name]
        != verdict_document["scores"]["race_winner"]
    )
    card = study_card(record, "title")
    assert f"this model ({name}) | {verdict_document['race_winner']['name']}" in card
    assert (
        f"| {verdict_document['race_winner']['name']}, which won the race, against | difference"
        in card
    )
    assert f"{name}, which needs no search, keeps every constraint and is recommended" in card
    assert f"<p>Recommended: <strong>{name}</strong>" in page(Run.read(folder))


def test_a_high_price_keeps_the_search_near_its_start(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    stub_workers()
    ends = []
    for price in (0.0, 50.0):
        study = run(tmp_path / str(price), simplicity=price, trials=60)
        start = study.record.generations[0]
        centre = np.mean([study.record.trials[n].point for n in start.trials], axis=0)
        last = study.record.generations[max(study.record.generations)]
        ends.append(
            np.mean([np.abs(np.array(study.record.trials[n].point) - centre) for n in last.trials])
        )
    assert ends[1] < ends[0]


def test_the_simplest_is_within_one_standard_error_of_the_best() -> None:
    # of 100 items the best has 10 and 4 that the first has not and it has not: 6/101 = .059 ahead,
    # with an error of sqrt((14 + 1)/101 - .059²)/10 = .038; of the second 7 and 4, .030 and .034
    tasks: Tasks = {"qa": TASKS["qa"]}

    def answers(*right: range) -> list[OutcomeRow]:
        solved = {i for of_trial in right for i in of_trial}
        return [OutcomeRow("qa", i, float(i in solved), None, 0, 1) for i in range(100)]

    best = answers(range(50))
    first, second = answers(range(10, 54)), answers(range(7, 54))
    scored = {1: first, 2: second, 3: best, 4: None}
    assert simplest([1, 2, 3], scored, 3, tasks) == 2
    assert simplest([4, 1, 3, 2], scored, 3, tasks) == 3
    assert simplest([1, 3], scored, 1, tasks) == 1


def test_the_simplest_of_equals_is_chosen_if_asked_for(
    stub_workers: StubWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[Any]] = []

    def noted(*given: Any) -> int:
        asked.append([*given, simplest(*given)])
        return int(asked[-1][-1])

    monkeypatch.setattr("evomerge.study.phases.conclusion.simplest", noted)
    stub_workers(signal=0.0)  # all are equal, and the race's leader leads by chance
    best = run(tmp_path / "best").record
    record = run(tmp_path / "simplest", select="simplest").record
    assert best.verdict is not None
    assert record.verdict is not None
    assert record.study is not None
    race = record.races[-1]
    ((order, scored, winner, tasks, _, number),) = asked
    assert list(order) == [n for n in race.contenders if n in race.alive]
    assert {len(scored[n]) for n in order} == {sum(map(len, record.pools["race"].values()))}
    assert winner == race.winner != number
    assert tasks == record.tasks_of("race")
    chosen = record.verdict.race_winner.trial
    assert chosen == number
    assert [(e.trial, e.instead_of) for e in record.chosen] == [(number, winner)]
    assert best.chosen == []
