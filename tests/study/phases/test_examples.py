"""Items that the winner won and lost are written down with the prompt and both answers."""

from __future__ import annotations

import json
from pathlib import Path

from evomerge.core.errors import UserError
from evomerge.study.journal.record import Record
from evomerge.study.phases import examples
from evomerge.study.phases.examples import FILE, choose, rivals, write_examples
from tests.report import report_bench as bench


def test_items_of_the_race_are_chosen_in_turn_from_every_task(tmp_path: Path) -> None:
    record = Record.read(bench.write(tmp_path / "run"))
    pair = rivals(record)
    assert pair is not None
    assert [trial.name for trial in pair] == ["trial 6", "uniform average"]
    chosen = choose(record, *pair)
    # quiz 10 to 13: trial 6 answers 1 1 1 1, the average 1 1 0 1; the two texts score 3.0 for both
    assert chosen is not None
    assert chosen["won"] == [("quiz", 12)]
    assert chosen["lost"] == []
    assert [chosen[key] for key in ("wins", "losses", "ties")] == [1, 0, 5]
    assert chosen["scores"] == {("quiz", 12): {"winner_score": 1.0, "rival_score": 0.0}}


def test_where_less_is_better_a_lower_score_wins(tmp_path: Path) -> None:
    events = bench.events()
    for event in events:
        if event["event"] == "outcomes" and event["phase"] == "race" and event["trial"] == 6:
            event["rows"] = [
                [*row[:2], 2.5, *row[3:]] if row[0] == "text" else row for row in event["rows"]
            ]
    record = Record.read(bench.write(tmp_path / "run", events))
    pair = rivals(record)
    assert pair is not None
    chosen = choose(record, *pair)
    assert chosen is not None
    assert chosen["won"] == [("quiz", 12), ("text", 10), ("text", 11)]


def test_a_finished_study_has_them_with_the_texts_of_its_tasks(
    finished: Path, small_study: Path
) -> None:
    record = Record.read(finished)
    document = json.loads((finished / FILE).read_text())
    assert document["winner"]["trial"] == record.race_winner
    written = (small_study.parent / "tasks" / "documents.jsonl").read_text().splitlines()
    documents = [json.loads(line) for line in written]
    assert document["items"] or document["wins"] == document["losses"] == 0
    for item in document["items"]:
        task, number = item["task"], item["document"]
        assert number in record.pools["race"][task]
        assert number not in record.pools["holdout"][task]
        assert item["prompt"] == documents[number]["prompt"]
        assert item["right"].strip() == documents[number]["answer"]
        better = item["winner_score"] > item["rival_score"]
        assert item["fate"] == ("won" if better else "lost")
        # what it answers now is what was scored: right answers are the ones that scored 1
        for who in ("winner", "rival"):
            is_right = item[who].strip() == item["right"].strip()
            assert is_right == (item[f"{who}_score"] == 1.0)


def test_a_study_ends_although_its_models_cannot_be_asked_again(
    tmp_path: Path,
) -> None:
    warnings = []

    class Ledger:
        def request(self, *_: object) -> None:
            raise UserError("the worker was lost")

        def warn(self, kind: str, message: str) -> None:
            warnings.append((kind, message))

    class Opened:
        record = Record.read(bench.write(tmp_path / "run"))
        directory = tmp_path / "run"
        ledger = Ledger()

    write_examples(Opened())  # type: ignore[arg-type]
    assert warnings == [(examples.KIND, "no examples are shown in the report: the worker was lost")]
    assert not (tmp_path / "run" / FILE).exists()
