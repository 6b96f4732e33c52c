from __future__ import annotations

from typing import Any

import pytest
import torch

from evomerge.evaluate.outcomes import ScoreKind
from evomerge.evaluate.scorer import Scorer
from evomerge.evaluate.tasks.harness import Harness
from tests.evaluate.evaluation_bench import TASKS, Bench

ITEMS = {"choice": [0, 3, 4, 9], "write": [1, 2, 7], "likelihood": [2, 5]}
SCORE_KINDS: tuple[ScoreKind, ...] = ("smooth", "metric")


@pytest.fixture(scope="module")
def harness(llama: Bench) -> Harness:
    return Harness.load(list(TASKS), [llama.folder], tokenizer=llama.tokenizer)


@pytest.mark.parametrize("score_kind", SCORE_KINDS)
def test_equal_batches_have_one_digest_and_others_another(
    llama: Bench, harness: Harness, score_kind: ScoreKind
) -> None:
    scorer = Scorer(llama.model, llama.tokenizer, harness)
    told = scorer.composition(ITEMS, score_kind)
    assert told == Scorer(llama.model, llama.tokenizer, harness).composition(ITEMS, score_kind)
    fewer = {**ITEMS, "write": [1, 2]}
    halved = Scorer(llama.model, llama.tokenizer, harness, batch_size=2)
    plain = Scorer(llama.model, llama.tokenizer, harness)
    plain._deepest = 0
    others = [scorer.composition(fewer, score_kind), halved.composition(ITEMS, score_kind)]
    others += [
        plain.composition(ITEMS, score_kind),
        *(scorer.composition(ITEMS, m) for m in SCORE_KINDS),
    ]
    others.remove(told)
    assert told not in others
    assert len({*others}) == 4


def test_the_digest_is_of_the_batches_whatever_the_weights(llama: Bench, harness: Harness) -> None:
    scorer = Scorer(llama.model, llama.tokenizer, harness)
    told = scorer.composition(ITEMS, "metric")
    before = [parameter.clone() for parameter in llama.model.parameters()]
    with torch.no_grad():
        for parameter in llama.model.parameters():
            parameter.mul_(0.5)
    scorer.score(ITEMS, "metric")
    assert scorer.composition(ITEMS, "metric") == told
    with torch.no_grad():
        for parameter, held in zip(llama.model.parameters(), before, strict=True):
            parameter.copy_(held)


def test_generation_begins_in_the_batches_that_are_told(
    llama: Bench, harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = Scorer(llama.model, llama.tokenizer, harness, batch_size=1)
    began: list[Any] = []
    right = scorer._generation._decoder._continue

    def watched(prompts: Any, given: int, prefix: Any) -> Any:
        began.append([prompt.owner for prompt in prompts])
        return right(prompts, given, prefix)

    monkeypatch.setattr(scorer._generation._decoder, "_continue", watched)
    items = {"write": list(range(20))}
    scorer.score(items, "metric")
    plan = scorer._plan_of(scorer._checked(items), "metric")
    prompts, arranged, _ = scorer._generation.batches(plan.prompts)
    told = [[prompts[i].owner for i in some] for _, some in arranged]
    assert began == told
    assert len(told) > 1
