"""Plans the requests of a set of items to the model, once, whatever the weights are.

Items refer to pairs and prompts by their numbers in two long lists, so that pairs and prompts of
all tasks share batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evomerge.evaluate.batch_digest import composition
from evomerge.evaluate.generation.generation import Prompts, TextGenerator
from evomerge.evaluate.likelihood.batches import Batch
from evomerge.evaluate.outcomes import Item, ScoreKind
from evomerge.evaluate.scoring.choice_table import ChoiceTable
from evomerge.evaluate.tasks.encode import Encoder
from evomerge.evaluate.tasks.harness import Harness
from evomerge.evaluate.tasks.length_task import ANSWER_TOKENS
from evomerge.evaluate.tasks.lm_eval_api import is_sampled
from evomerge.evaluate.tasks.request import Request
from evomerge.evaluate.tasks.target import Choices
from evomerge.evaluate.token_requests import Pair


@dataclass(frozen=True)
class Asked:
    """The parts of an item, by their numbers in a plan.

    Attributes:
        item: The item.
        kinds: lm-eval's type of each request.
        requests: For each request the range of its pairs, or the numbers of its prompts: one, or
            as many as the task repeats a request whose answer is drawn at random.
        golds: The range of the pairs of its gold texts; empty where it has or needs none.
        graded: Whether lm-eval reads its metric off the answers.
    """

    item: Item
    kinds: tuple[str, ...]
    requests: tuple[range | tuple[int, ...], ...]
    golds: range
    graded: bool


@dataclass(frozen=True)
class ScoringPlan:
    """Everything about a set of items that does not depend on the weights."""

    asked: tuple[Asked, ...]
    pairs: tuple[Pair, ...]
    batches: tuple[Batch, ...]
    prompts: Prompts
    tables: tuple[tuple[tuple[Item, ...], ChoiceTable], ...]
    composition: str  # digest of the batches


def make_plan(
    items: tuple[Item, ...],
    score_kind: ScoreKind,
    harness: Harness,
    encoder: Encoder,
    batches_of: Callable[[Sequence[Pair]], list[Batch]],
    generation: TextGenerator,
) -> ScoringPlan:
    """Encode the requests of a set of items, and put them into batches.

    Args:
        items: The items, none of them a user's function's.
        score_kind: See `Scorer.score`.
        harness: Their tasks.
        encoder: Turns requests into tokens.
        batches_of: Puts pairs into batches.
        generation: Shares prompts out.
    """
    pairs: list[Pair] = []
    prompts: list[tuple[Item, Request]] = []
    asked = []
    choosing: dict[str, list[tuple[Item, Choices, list[int]]]] = {}
    prompted: dict[tuple[str, int, int], tuple[int, ...]] = {}  # by task asked, document, request
    for item in items:
        asked_task = harness.asked(item[0])
        kind = harness.output_type(item[0])
        golds = encoder.golds(item) if (kind, score_kind) == ("generate_until", "smooth") else []
        requests = [] if golds else harness.requests(*item)
        where: list[range | tuple[int, ...]] = []
        for place, request in enumerate(requests):
            if (asked_task, item[1], place) in prompted:  # its length, or its text, is wanted too
                where.append(prompted[asked_task, item[1], place])
            elif request.kind == "generate_until":
                times = harness.repeats(item[0]) if is_sampled(request.args[1]) else 1
                prompted[asked_task, item[1], place] = added = tuple(
                    range(len(prompts), len(prompts) + times)
                )
                where.append(added)
                prompts += [(item, request)] * times
            else:
                encoded = encoder.pairs(item, request)
                where.append(range(len(pairs), len(pairs) + len(encoded)))
                pairs += encoded
        span = range(len(pairs), len(pairs) + len(golds))
        pairs += golds
        graded = not golds and kind != ANSWER_TOKENS
        if kind == "multiple_choice":
            choices = harness.choices(*item)
            if choices.golds:
                numbers = [span.start for span in where if isinstance(span, range)]
                choosing.setdefault(item[0], []).append((item, choices, numbers))
                graded = not harness.chooses(item[0])
        kinds = tuple(request.kind for request in requests)
        asked.append(Asked(item, kinds, tuple(where), span, graded))
    tables = tuple(
        (tuple(item for item, _, _ in rows), ChoiceTable.of([(c, n) for _, c, n in rows]))
        for rows in choosing.values()
    )
    batches, shared = tuple(batches_of(pairs)), generation.share_out(prompts)
    digest = composition(items, pairs, batches, *generation.batches(shared))
    return ScoringPlan(tuple(asked), tuple(pairs), batches, shared, tables, digest)
