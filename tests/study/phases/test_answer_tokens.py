"""Tokens of answers are a task like any other: constraint, objective, front and verdict have it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.core.errors import UserError
from evomerge.evaluate import scorer
from evomerge.evaluate.scoring.plan import ScoringPlan, make_plan
from evomerge.study import study as study_module
from evomerge.study.config import StudyConfig
from evomerge.study.phases.gradients import without_gradient
from evomerge.study.phases.reproduce import reproduce
from evomerge.study.study import Study
from tests.study.small_study import WORDS, InProcessPool, events

StudyFile = Callable[..., Path]
MOST = 6
TASKS = ["small_choice", "small_write", {"name": "length", "tokens_of": "small_write"}]


def writing(study: Path) -> Path:
    """Let the task write more than a token, until a word that is no right answer."""
    tasks = study.parent / "tasks"
    documents = (tasks / "documents.jsonl").read_text().splitlines()
    answers = {json.loads(line)["answer"] for line in documents}
    stops = json.dumps([word for word in WORDS if not any(a.startswith(word) for a in answers)])
    file = tasks / "small_write.yaml"
    text = file.read_text().replace("max_gen_toks: 1", f"max_gen_toks: {MOST}")
    file.write_text(text.replace('["<eos>"]', stops))
    return study


@pytest.mark.usefixtures("real_workers")
def test_a_constraint_holds_answers_short_and_the_verdict_shows_their_length(
    own_study: StudyFile, tmp_path: Path
) -> None:
    study = writing(
        own_study(
            evaluate={"tasks": TASKS, "items": {"per_generation": 8}},
            search={"constraints": ["length <= best parent + 0.5"]},
        )
    )
    with Study(StudyConfig.from_yaml(study), tmp_path / "run") as opened:
        verdict = opened.confirm()
    (made,) = events(tmp_path / "run", "study")
    about = made["tasks"]["length"]
    assert (about["metric"], about["higher_is_better"], about["weight"]) == ("tokens", False, 0.0)
    assert about["bounds"] == [0.0, MOST]
    lengths = {name: scores["length"] for name, scores in verdict.scores.items()}
    assert all(0 < length <= MOST for length in lengths.values())
    assert len(set(lengths.values())) > 1
    rows = [row for e in events(tmp_path / "run", "outcomes") for row in e["rows"]]
    assert {row[3] for row in rows if row[0] == "length"} == {None}, "there is no smooth score"
    (constraint,) = verdict.constraints
    shortest = min(lengths["one"], lengths["two"])
    assert constraint.limit == pytest.approx(shortest + 0.5)
    assert constraint.score == pytest.approx(lengths["winner"])


def test_each_answer_is_written_once_for_both_tasks_that_look_at_it(
    own_study: StudyFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[tuple[int, int]] = []

    def counted(*arguments: Any) -> ScoringPlan:
        plan = make_plan(*arguments)
        if arguments[1] == "metric":
            prompts = {number for one in plan.asked for span in one.requests for number in span}
            counts.append((len(arguments[0]), len(prompts)))
        return plan

    monkeypatch.setattr(scorer, "make_plan", counted)
    monkeypatch.setattr(study_module, "open_pool", InProcessPool)
    study = writing(
        own_study(
            evaluate={
                "tasks": TASKS[1:],
                "items": {"per_generation": 8},
                "fitness": "metric",
                "batch_size": 6,
            }
        )
    )
    with Study(StudyConfig.from_yaml(study), tmp_path / "run") as opened:
        opened.confirm()
    assert len([n for n, _ in counts if n == 6]) > 3
    assert all(prompts == items / 2 for items, prompts in counts if items > 1)


@pytest.mark.slow
@pytest.mark.usefixtures("real_workers")
def test_with_a_weight_it_is_an_objective_of_the_front(
    own_study: StudyFile, tmp_path: Path
) -> None:
    study = writing(
        own_study(
            evaluate={"tasks": ["small_write", {**TASKS[2], "weight": 0.01}]},  # type: ignore[dict-item]
            search={"optimizer": "nsga2", "objective": "pareto", "population": 4, "trials": 8},
        )
    )
    with Study(StudyConfig.from_yaml(study), tmp_path / "run") as opened:
        opened.optimize(8)
        front = opened.best_trials
    told = events(tmp_path / "run", "told")
    assert told
    assert front
    vectors = [vector for event in told for vector in event["objectives"] if vector]
    assert all(len(vector) == 2 and -MOST <= vector[1] <= 0 for vector in vectors)


def test_the_stock_command_leaves_it_out_by_name(small_study: Path, tmp_path: Path) -> None:
    document = json.loads(small_study.read_text())
    document["evaluate"]["tasks"] = TASKS
    config = StudyConfig.from_dict(document, small_study.parent)
    command = reproduce(config, tmp_path / "model", {"small_write": [1], "length": [1]})
    assert command is not None
    assert command.endswith("# left out, since they are not lm_eval's: length")


def test_it_has_no_gradient_but_may_be_measured_beside_one(small_study: Path) -> None:
    document = json.loads(small_study.read_text())
    document["evaluate"]["tasks"] = [*TASKS[:2], {**TASKS[2], "weight": 0.1}]  # type: ignore[dict-item]
    config = StudyConfig.from_dict(document, small_study.parent)
    assert "'length' counts tokens" in str(without_gradient(config))
    document["evaluate"]["tasks"] = TASKS
    assert without_gradient(StudyConfig.from_dict(document, small_study.parent)) is None


@pytest.mark.parametrize(
    ("task", "more", "message"),
    [
        ({"metric": "acc"}, {}, "the number of tokens is the metric"),
        ({"cluster": "field"}, {}, "write it under small_write"),
        ({}, {"fitness": "metric", "model_args": {"think_end_token": "12"}}, "write it as text"),
        ({"tokens": 3}, {}, "tokens"),
    ],
)
def test_what_makes_no_sense_is_refused(
    small_study: Path, task: dict[str, object], more: dict[str, object], message: str
) -> None:
    document = json.loads(small_study.read_text())
    document["evaluate"] |= {"tasks": [*TASKS[:2], {**TASKS[2], **task}], **more}  # type: ignore[dict-item]
    with pytest.raises(UserError, match=message):
        StudyConfig.from_dict(document, small_study.parent)
