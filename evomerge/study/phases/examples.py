"""Writes a few items that the winner won and lost, with the prompt and both answers.

They are items of the race, not held-out ones: who reads held-out items and then changes the study
has searched on them. Texts are answered anew for this, since the journal holds none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.core.atomic import user_errors, write_text
from evomerge.core.errors import UserError
from evomerge.evaluate.outcomes import Item, OutcomeRow
from evomerge.study.context import StudyRun
from evomerge.study.journal.record import Record
from evomerge.study.journal.trials import TrialRecord
from evomerge.study.statistics.outcome import Tasks, sign
from evomerge.study.workers.requests import Show, Shown

FILE = "best/examples.json"
KIND = "examples"  # of the warning that there are none
_MOST = 8  # items won, and as many lost


def write_examples(study: StudyRun) -> None:
    """Write ``best/examples.json``, unless there is nothing to compare.

    The winner is compared with the hardest of its rivals in the race. A failure to answer them
    again is a warning, and the study ends all the same.
    """
    record, target = study.record, study.directory / FILE
    pair = rivals(record)
    chosen = None if pair is None else choose(record, *pair)
    if pair is None or chosen is None:
        target.unlink(missing_ok=True)  # an earlier winner's
        return
    items: dict[str, list[int]] = {}
    for task, doc_id in (*chosen["won"], *chosen["lost"]):
        items.setdefault(task, []).append(doc_id)
    try:
        answers = [_answers(study, trial, items) for trial in pair]
    except UserError as error:
        study.ledger.warn(KIND, f"no examples are shown in the report: {error}")
        return
    shown = [
        {**chosen["scores"][item], "fate": fate, **_texts(item, answers)}
        for fate in ("won", "lost")
        for item in chosen[fate]
        if all(item in texts for texts in answers)
    ]
    document = {
        "winner": {"trial": pair[0].number, "name": pair[0].name},
        "rival": {"trial": pair[1].number, "name": pair[1].name},
        "pool": "race",
        **{key: chosen[key] for key in ("wins", "losses", "ties")},
        "items": shown,
    }
    text = json.dumps(document, indent=1, ensure_ascii=True) + "\n"
    with user_errors(target.parent):
        target.parent.mkdir(exist_ok=True)
        write_text(target, text)


def rivals(record: Record) -> tuple[TrialRecord, TrialRecord] | None:
    """Return the race's winner and the baseline that came nearest to it in the race."""
    winner = record.race_winner
    if winner is None:
        return None
    ours = record.trials[winner]
    scores: dict[int, float] = {}
    for event in record.races:
        scores |= event.scores
    simple = [
        n
        for n in scores
        if record.trials[n].kind in ("parent", "base", "anchor")
        and record.trials[n].digest != ours.digest
    ]
    if not simple:
        return None
    last = max(len(_rows(record, record.trials[n])) for n in simple)  # who stayed longest
    stayed = [n for n in simple if len(_rows(record, record.trials[n])) == last]
    return ours, record.trials[max(stayed, key=lambda n: scores[n])]


def choose(record: Record, ours: TrialRecord, rival: TrialRecord) -> dict[str, Any] | None:
    """Choose items of the race on which two models differ most, in turn from every task.

    Returns:
        ``won`` and ``lost``, lists of items; ``scores`` {item: {winner_score, rival_score}};
        ``wins``, ``losses``, ``ties``, counts over all items that both have. ``None`` without any.
    """
    a, b = _rows(record, ours), _rows(record, rival)
    both = [item for item in a if item in b]
    if not both:
        return None
    gaps = {item: _gap(item[0], record.tasks, a[item], b[item]) for item in both}
    won = _in_turn({item: gap for item, gap in gaps.items() if gap > 0})
    lost = _in_turn({item: -gap for item, gap in gaps.items() if gap < 0})
    return {
        "won": won,
        "lost": lost,
        "scores": {
            item: {"winner_score": a[item].metric, "rival_score": b[item].metric}
            for item in (*won, *lost)
        },
        "wins": sum(gap > 0 for gap in gaps.values()),
        "losses": sum(gap < 0 for gap in gaps.values()),
        "ties": sum(gap == 0 for gap in gaps.values()),
    }


def _gap(task: str, tasks: Tasks, ours: OutcomeRow, theirs: OutcomeRow) -> float:
    assert ours.metric is not None
    assert theirs.metric is not None
    return sign(tasks[task]) * (ours.metric - theirs.metric)


def _rows(record: Record, trial: TrialRecord) -> dict[Item, OutcomeRow]:
    """Return a trial's metric outcomes on items of the race, as far as it was raced."""
    rows = record.outcomes.rows(trial.digest, "metric", record.pools.get("race", {}))
    return {(row.task, row.doc_id): row for row in rows if row.metric is not None}


def _in_turn(gaps: Mapping[Item, float]) -> list[Item]:
    """Return the items of the largest gaps, one of each task in turn."""
    by_task: dict[str, list[Item]] = {}
    for item in sorted(gaps, key=lambda item: (-gaps[item], item)):
        by_task.setdefault(item[0], []).append(item)
    turns = range(max(map(len, by_task.values()), default=0))
    items = [items[turn] for turn in turns for items in by_task.values() if turn < len(items)]
    return items[:_MOST]


def _answers(
    study: StudyRun, trial: TrialRecord, items: Mapping[str, Sequence[int]]
) -> dict[Item, Sequence[Any]]:
    rows = study.ledger.request(Show(trial.recipe, items), Shown).written
    return {(row[0], row[1]): row for row in rows}


def _texts(item: Item, answers: Sequence[Mapping[Item, Sequence[Any]]]) -> dict[str, Any]:
    ours, theirs = (of[item] for of in answers)
    return {
        "task": item[0],
        "document": item[1],
        "prompt": ours[4],
        "right": ours[3],
        "winner": ours[2],
        "rival": theirs[2],
    }
