"""Reads the right answer of a document off its task, as text or as an index of its choices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CHOICE_METRICS = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info")
MAX_GOLDS = 16  # some question-answering documents list dozens of spellings of one answer


@dataclass(frozen=True)
class Choices:
    """A multiple-choice document.

    Attributes:
        golds: Indices of the right choices; empty if the task's label fits no choice.
        lengths: The divisor of each choice's log-likelihood in the metric.
        unconditional: Whether the metric (``acc_mutual_info``) subtracts the log-likelihoods
            without context, which then follow the others.
    """

    golds: tuple[int, ...]
    lengths: tuple[float, ...]
    unconditional: bool


def choices_of(task: Any, document: Any, metric: str) -> Choices:
    """Read the right choices, and the normalisation that `metric` uses, off lm-eval's task."""
    choices = [str(choice) for choice in task.doc_to_choice(document)]
    gold = task.doc_to_text(document) if task.multiple_input else task.doc_to_target(document)
    golds = []
    for one in gold if isinstance(gold, list | tuple) else [gold]:
        if isinstance(one, str) and one in choices:
            golds.append(choices.index(one))
        elif isinstance(one, int) and 0 <= one < len(choices):
            golds.append(one)
    if metric == "acc_norm":
        lengths = [float(len(choice)) for choice in choices]
    elif metric == "acc_bytes":
        lengths = [float(len(choice.encode())) for choice in choices]
    else:
        lengths = [1.0] * len(choices)
    positive = tuple(max(one, 1.0) for one in lengths)
    return Choices(tuple(golds), positive, unconditional=metric == "acc_mutual_info")


def golds_of(task: Any, document: Any, context: Any, chat: bool) -> list[tuple[str, str]]:
    """Return (context, answer) for each right answer of a generation document, in its order.

    The answer is joined to the prompt as the task joins its few-shot answers; with `chat`, the
    template has already closed the question. A task without a gold text gives an empty list.
    """
    if not isinstance(context, str):
        return []
    try:
        target = task.doc_to_target(document)
        if isinstance(target, int) and getattr(task.config, "doc_to_choice", None) is not None:
            target = task.doc_to_choice(document)[target]
    except Exception:  # a task that needs no target may define none, in many ways
        return []
    targets = target if isinstance(target, list | tuple) else [target]
    texts = [str(one) for one in targets if one is not None and str(one).strip()]
    unique = list(dict.fromkeys(texts))[:MAX_GOLDS]
    return [(context, _delimiter(task, document, context, text, chat) + text) for text in unique]


def _delimiter(task: Any, document: Any, context: str, answer: str, chat: bool) -> str:
    prefix = task.doc_to_prefix(document)
    if prefix:
        return "" if context[-1:].isspace() or answer[:1].isspace() else " "
    if chat:
        return ""
    delimiter = str(getattr(task.config, "target_delimiter", " "))
    return "" if delimiter.isspace() and context[-1:].isspace() else delimiter
