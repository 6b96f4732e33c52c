"""Turns documents of tasks into rows of text: a prompt and its right answer, or a whole text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evomerge.core.errors import UserError
from evomerge.evaluate.tasks.encode import Encoder
from evomerge.evaluate.tasks.harness import Harness

Row = dict[str, str]


def rows_of(
    harness: Harness, encoder: Encoder, items: Mapping[str, Sequence[int]]
) -> dict[str, list[Row]]:
    """Return rows of the tasks' documents, in their order.

    A written answer is the first right one, and the string that ends it where the task has one. A
    choice is the first right one. A task of whole texts gives texts.

    Args:
        harness: The tasks.
        encoder: Knows where answers end.
        items: Document numbers of each task.

    Raises:
        UserError: A task is a function, or none of its documents has a right answer.
    """
    made = {}
    for task, documents in items.items():
        if harness.output_type(task) == "function":
            raise UserError(
                f"task '{task}': it is a function, which has no rows of text: name another task of "
                "the model, or give it `data: FILE`"
            )
        rows = [row for number in documents for row in _rows(harness, encoder, task, number)]
        if documents and not rows:
            raise UserError(
                f"task '{task}': its documents have no right answers to learn from: name another "
                "task of the model, or give it `data: FILE`"
            )
        made[task] = rows
    return made


def _rows(harness: Harness, encoder: Encoder, task: str, number: int) -> list[Row]:
    kind = harness.output_type(task)
    requests = harness.requests(task, number)
    if kind == "loglikelihood_rolling":
        return [{"text": str(requests[0].args[0])}]
    if kind == "generate_until":
        golds = harness.golds(task, number)[:1]
        end = encoder.stops(requests[0])[:1]
        return [{"prompt": context, "answer": answer + "".join(end)} for context, answer in golds]
    right = 0
    if kind == "multiple_choice":
        choices = harness.choices(task, number).golds
        if not choices:
            return []
        right = choices[0]
    prompt, chosen = requests[right].args[:2]
    return [{"prompt": str(prompt), "answer": str(chosen)}]
