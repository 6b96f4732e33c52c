"""Shows what a model answers to items, as texts: prompt, its answer, and the right one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from evomerge.evaluate.generation.decode import Answer
from evomerge.evaluate.likelihood.likelihood import Likelihoods
from evomerge.evaluate.outcomes import Item
from evomerge.evaluate.scoring.plan import Asked, ScoringPlan
from evomerge.evaluate.tasks.harness import Harness


class ShownItem(NamedTuple):
    """An item's texts, in the order in which workers send them."""

    task: str
    doc_id: int
    written: str
    right: str
    prompt: str


def shown_items(
    plan: ScoringPlan, likelihoods: Likelihoods, texts: Sequence[Answer], harness: Harness
) -> list[ShownItem]:
    """Return the texts of each item that is generated or chosen among texts; others have none.

    A chosen answer is the choice that the metric counts, the likeliest by its normalisation.

    Args:
        plan: The plan of the items, for metrics.
        likelihoods: The likelihoods of its pairs.
        texts: The answers to its prompts.
        harness: The items' tasks.
    """
    chosen: dict[Item, int] = {}
    for items, table in plan.tables:
        scores = np.where(table.right | table.wrong, table.scores(likelihoods.totals), -np.inf)
        chosen |= zip(items, scores.argmax(axis=1).tolist(), strict=True)
    rows = []
    for asked in plan.asked:
        requests = harness.requests(*asked.item)
        if asked.item in chosen:
            choices = harness.choices(*asked.item)
            args = [request.args for request in requests[: len(choices.lengths)]]
            contexts = {str(context) for context, _ in args}
            one = len(contexts) == 1  # else the choices are the contexts, as in winogrande
            answers = [str(text).strip() if one else f"{context}{text}" for context, text in args]
            right = ", ".join(answers[i] for i in sorted(choices.golds))
            prompt = contexts.pop() if one else ""
            rows.append(ShownItem(*asked.item, answers[chosen[asked.item]], right, prompt))
        elif (number := _generated(asked)) is not None:
            right = next((text for _, text in harness.golds(*asked.item)), "")
            prompt = str(requests[0].args[0])
            rows.append(ShownItem(*asked.item, texts[number].text, right, prompt))
    return rows


def _generated(asked: Asked) -> int | None:
    """Return the number of the item's first generated answer, or ``None``."""
    numbers = next((where for where in asked.requests if isinstance(where, tuple)), ())
    return numbers[0] if numbers else None
