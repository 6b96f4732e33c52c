"""Checks that the right answers of tasks can be given, before anything is spent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evomerge.core.errors import UserError
from evomerge.evaluate.tasks.encode import Encoder
from evomerge.evaluate.tasks.harness import Harness

# Where more of a task's answers than this cannot be given, its metric measures the limit.
MOST_UNREACHABLE = 0.1
GRADED = 20  # documents of a task whose right answers go through its filter and metric


def check_golds(harness: Harness, encoder: Encoder) -> list[str]:
    """Look at the right answer of every document, and return warnings.

    Raises:
        UserError: Documents have no right answer where others of the task have one, or answers
            are longer than the task lets a model write, or hold one of its stop strings.
    """
    warnings = []
    for task, documents in harness.items.items():
        kind = harness.output_type(task)
        if kind == "generate_until":
            missing = [i for i in documents if not harness.golds(task, i)]
            if len(missing) == len(documents):
                warnings.append(
                    f"task '{task}': no gold text to measure a likelihood of, so its smooth score "
                    "is its metric"
                )
                continue
        elif kind == "multiple_choice":
            missing = [i for i in documents if not harness.choices(task, i).golds]
        elif kind == "loglikelihood":
            missing = [i for i in documents if not harness.requests(task, i)[0].args[1].strip()]
        else:
            continue
        if missing:
            raise UserError(
                f"task '{task}': {_count(missing, documents)} no gold: their right answer is "
                "empty, or is none of their choices"
            )
        if kind == "generate_until":
            warnings += _unreachable(task, documents, harness, encoder)
            warnings += _worthless(task, documents[:GRADED], harness, encoder)
    return warnings


def _worthless(
    task: str, documents: Sequence[int], harness: Harness, encoder: Encoder
) -> list[str]:
    """Grade right answers as a model writes them; warn if the task's own metric gives them 0."""
    metric = harness.metrics[task]
    texts = {i: encoder.right_texts((task, i))[0] for i in documents}
    if not metric.higher_is_better or _scores(task, texts, harness):
        return []
    text = next(iter(texts.values()))
    where = f"document {documents[0]}"
    warning = (
        f"task '{task}': its right answers score 0 by {metric.name} through its filter "
        f"'{metric.filter}'"
    )
    stripped = {i: text.strip() for i, text in texts.items()}
    if _scores(task, stripped, harness):
        return [
            f"{warning}: a model writes {text!r} ({where}), and only {text.strip()!r} counts; they "
            "differ in blanks: put the filter remove_whitespace first in the task's filter_list"
        ]
    return [
        f"{warning} (such as {text!r}, {where}): unless it asks for other words around them, "
        "nobody can score there"
    ]


def _scores(task: str, texts: Mapping[int, str], harness: Harness) -> bool:
    """Return whether any of these answers gets points."""
    known_errors = dict(harness.errors)
    grades = harness.grade(task, {i: [text] for i, text in texts.items()})
    harness.errors.clear()
    harness.errors.update(known_errors)
    return any(grade.value is not None and grade.value > 0 for grade in grades.values())


def _unreachable(
    task: str, documents: Sequence[int], harness: Harness, encoder: Encoder
) -> list[str]:
    """Look for right answers of a generation task that cannot be written as the task asks."""
    request = harness.requests(task, documents[0])[0]
    stops, max_tokens = encoder.stops(request), encoder.max_tokens(request)
    shortest = {i: min(len(p.continuation) for p in encoder.golds((task, i))) for i in documents}
    long = [i for i in documents if shortest[i] > max_tokens]
    cut = [
        i
        for i in documents
        if all(any(stop in answer for stop in stops) for _, answer in harness.golds(task, i))
    ]
    warnings = []
    for unreachable, why in (
        (
            long,
            f"a right answer longer than the {max_tokens} tokens that `max_gen_toks` allows "
            f"(document {long[0]}: {shortest[long[0]]}); raise it in the task file"
            if long
            else "",
        ),
        (cut, f"a stop string ({', '.join(map(repr, stops))}) in the right answer"),
    ):
        text = f"task '{task}': {_count(unreachable, documents)} {why}"
        if len(unreachable) > MOST_UNREACHABLE * len(documents):
            raise UserError(text)
        if unreachable:
            warnings.append(text)
    return warnings


def _count(affected: Sequence[int], documents: Sequence[int]) -> str:
    named = ", ".join(map(str, affected[:3])) + (", …" if len(affected) > 3 else "")
    verb = "has" if len(affected) == 1 else "have"
    return f"{len(affected)} of {len(documents)} documents ({named}) {verb}"
