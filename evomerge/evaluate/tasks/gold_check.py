"""What would make a task's right answers unreachable, found before anything is spent."""

from __future__ import annotations

from collections.abc import Sequence

from evomerge.core.errors import UserError
from evomerge.evaluate.scoring.encode import Encoder
from evomerge.evaluate.tasks.harness import Harness

# Where more of a task's answers than this cannot be given, its metric measures the limit.
MOST_UNREACHABLE = 0.1


def check_golds(harness: Harness, encoder: Encoder) -> list[str]:
    """Look at the right answer of every document; what is odd, but not wrong, is returned.

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
                f"task '{task}': {_some(missing, documents)} no gold: their right answer is empty, "
                "or is none of their choices"
            )
        if kind == "generate_until":
            warnings += _unreachable(task, documents, harness, encoder)
    return warnings


def _unreachable(
    task: str, documents: Sequence[int], harness: Harness, encoder: Encoder
) -> list[str]:
    """Generation tasks whose right answers cannot be written as the task asks."""
    most = encoder.most_tokens(harness.requests(task, documents[0])[0])
    long = [
        i for i in documents if min(len(p.continuation) for p in encoder.golds((task, i))) > most
    ]
    stops = encoder.stops(harness.requests(task, documents[0])[0])
    cut = [
        i
        for i in documents
        if all(any(stop in answer for stop in stops) for _, answer in harness.golds(task, i))
    ]
    told = []
    if long:
        first = min(len(pair.continuation) for pair in encoder.golds((task, long[0])))
        told.append(
            (
                long,
                f"a right answer longer than the {most} tokens that `max_gen_toks` allows "
                f"(document {long[0]}: {first}); raise it in the task file",
            )
        )
    if cut:
        told.append((cut, f"a stop string ({', '.join(map(repr, stops))}) in the right answer"))
    for found, why in told:
        text = f"task '{task}': {_some(found, documents)} {why}"
        if len(found) > MOST_UNREACHABLE * len(documents):
            raise UserError(text)
    return [f"task '{task}': {_some(found, documents)} {why}" for found, why in told]


def _some(found: Sequence[int], documents: Sequence[int]) -> str:
    named = ", ".join(map(str, found[:3])) + (", …" if len(found) > 3 else "")
    verb = "has" if len(found) == 1 else "have"
    return f"{len(found)} of {len(documents)} documents ({named}) {verb}"
