"""Judges the model's replies to a plan's pairs and prompts: one outcome per item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.evaluate.generation.decode import Answer
from evomerge.evaluate.likelihood.likelihood import Likelihoods
from evomerge.evaluate.outcomes import Item, OutcomeRow, ScoreKind
from evomerge.evaluate.scoring.degenerate import is_degenerate
from evomerge.evaluate.scoring.plan import Asked, ScoringPlan
from evomerge.evaluate.scoring.smooth import smooth_answers, smooth_metric
from evomerge.evaluate.tasks.harness import Harness
from evomerge.evaluate.tasks.request import Grade


def outcomes(
    plan: ScoringPlan,
    likelihoods: Likelihoods,
    texts: Sequence[Answer],
    score_kind: ScoreKind,
    harness: Harness,
) -> list[OutcomeRow]:
    """Return one outcome per item of the plan, in its order.

    Args:
        plan: The plan of the items.
        likelihoods: The likelihoods of its pairs.
        texts: The answers to its prompts.
        score_kind: Whether smooth scores are wanted too.
        harness: The items' tasks.
    """
    chosen: dict[Item, tuple[float, float]] = {}  # metric and smooth score
    for items, table in plan.tables:
        metric, smooth = table.judge(likelihoods.totals)
        chosen.update(zip(items, zip(metric.tolist(), smooth.tolist(), strict=True), strict=True))
    grades = _grades(plan, likelihoods, texts, harness)
    answers = smooth_answers(likelihoods).tolist()
    rows = []
    for asked in plan.asked:
        task, doc_id = asked.item
        grade = grades.get(asked.item)
        value = chosen[asked.item][0] if asked.item in chosen else None
        value = value if grade is None else grade.value
        numbers = [n for where in asked.requests if isinstance(where, tuple) for n in where]
        written = [texts[number] for number in numbers]
        if task in harness.lengths:
            value = sum(answer.tokens for answer in written) / len(written)
            truncated = any(answer.truncated for answer in written)
            rows.append(OutcomeRow(task, doc_id, metric=value, truncated=int(truncated)))
            continue
        smoothed = None
        if score_kind == "smooth":
            smoothed = _smooth(asked, answers, chosen, value, harness)
        rows.append(
            OutcomeRow(
                task=task,
                doc_id=doc_id,
                metric=value,
                smooth=smoothed,
                truncated=int(any(answer.truncated for answer in written)),
                extracted=int(grade is None or not written or grade.extracted),
                degenerate=int(
                    bool(written)
                    and not _is_right(value, harness.metrics[task].higher_is_better)
                    and all(is_degenerate(answer.text, answer.truncated) for answer in written)
                ),
            )
        )
    return rows


def _is_right(value: float | None, higher_is_better: bool) -> bool:
    """Return whether the metric counts an answer as right: it may be right to write nothing."""
    if value is None:
        return False
    return value >= 0.5 if higher_is_better else value <= 0.0


def _grades(
    plan: ScoringPlan, likelihoods: Likelihoods, texts: Sequence[Answer], harness: Harness
) -> dict[Item, Grade]:
    """Let lm-eval grade the items that only it can grade."""
    totals, are_greedy = likelihoods.totals.tolist(), likelihoods.are_greedy.tolist()
    replies: dict[str, dict[int, list[Any]]] = {}
    for asked in plan.asked:
        if asked.graded:
            replies.setdefault(asked.item[0], {})[asked.item[1]] = [
                _reply(kind, where, totals, are_greedy, texts)
                for kind, where in zip(asked.kinds, asked.requests, strict=True)
            ]
    grades = {}
    for task, answers in replies.items():
        for doc_id, grade in harness.grade(task, answers).items():
            grades[task, doc_id] = grade
    return grades


def _smooth(
    asked: Asked,
    answers: Sequence[float],
    chosen: Mapping[Item, tuple[float, float]],
    value: float | None,
    harness: Harness,
) -> float | None:
    task = asked.item[0]
    if asked.golds:
        return max(answers[asked.golds.start : asked.golds.stop])
    if asked.item in chosen:
        return chosen[asked.item][1]
    if asked.kinds == ("loglikelihood",) and isinstance(asked.requests[0], range):
        return answers[asked.requests[0].start]
    if value is None:
        return None
    return smooth_metric(value, harness.metrics[task].higher_is_better)


def _reply(
    kind: str,
    where: range | tuple[int, ...],
    totals: Sequence[float],
    are_greedy: Sequence[bool],
    texts: Sequence[Answer],
) -> Any:
    if isinstance(where, tuple):
        written = [texts[number].text for number in where]
        return written if len(written) > 1 else written[0]
    if kind == "loglikelihood_rolling":
        return sum(totals[where.start : where.stop])
    return totals[where.start], are_greedy[where.start]
