"""Names the tasks in which no anchor scores: searching on them costs time and says nothing."""

from __future__ import annotations

import re

from evomerge.core.errors import UserError
from evomerge.study.context import StudyRun
from evomerge.study.phases.baseline import Baseline
from evomerge.study.workers.requests import Show, Shown

KIND = "dead task"  # of these warnings in the journal
_SHOWN = 80  # characters of a text


def warn_of_dead_tasks(study: StudyRun, baseline: Baseline) -> None:
    """Warn once of each task in which nobody scores above 0, with an answer beside the right one.

    Args:
        study: The study.
        baseline: Its anchors, scored.
    """
    record = study.record
    if has_dead_tasks(study) or record.generations:  # told before, or looked at before
        return
    best: dict[str, float] = {}
    for rows in baseline.rows("metric").values():
        for row in rows:
            best[row.task] = max(best.get(row.task, 0.0), row.metric or 0.0)
    tasks = record.tasks_of("search")
    dead = [t for t, top in best.items() if top <= 0 and tasks[t]["higher_is_better"]]
    items = {t: ids[:1] for t, ids in (record.asks[0].items or {}).items() if t in dead}
    generated = {task: ids for task, ids in items.items() if task in record.generating}
    answers: dict[str, str] = {}
    if generated:
        recipe = record.trials[baseline.reference].recipe
        try:
            shown = study.ledger.request(Show(recipe, generated), Shown)
        except UserError:  # the warning stands without an example, and the study goes on
            shown = Shown(())
        answers = {task: _compared(doc, text, right) for task, doc, text, right, _ in shown.written}
    for task in dead:
        study.ledger.warn(
            KIND,
            f"task {task}: no parent, nor any usual merge, scores above 0 by "
            f"{tasks[task]['metric']}{answers.get(task, '')}; mend the task or leave it out: a "
            "search on it only costs time",
        )


def has_dead_tasks(study: StudyRun) -> bool:
    """Return whether a task was found in which nobody scores."""
    return any(warning.kind == KIND for warning in study.record.warnings)


def _compared(document: int, written: str, right: str) -> str:
    difference = ""
    if re.sub(r"\s+", "", written) == re.sub(r"\s+", "", right):
        difference = " (they differ in blanks alone, or in none: look at its filter_list)"
    texts = [text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…" for text in (written, right)]
    return f": document {document}: wrote {texts[0]!r}, right is {texts[1]!r}{difference}"
