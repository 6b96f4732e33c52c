from __future__ import annotations

from typing import Any

import pytest
import torch

from evomerge.evaluate.scorer import Scorer
from evomerge.evaluate.scoring.plan import Mode
from evomerge.evaluate.tasks.harness import Harness
from tests.evaluate.evaluation_bench import TASKS, Bench

ITEMS = {"choice": [0, 3, 4, 9], "write": [1, 2, 7], "likelihood": [2, 5]}
MODES: tuple[Mode, ...] = ("smooth", "metric")


@pytest.fixture(scope="module")
def harness(llama: Bench) -> Harness:
    return Harness.load(list(TASKS), [llama.folder], tokenizer=llama.tokenizer)


@pytest.mark.parametrize("mode", MODES)
def test_equal_batches_have_one_digest_and_others_another(
    llama: Bench, harness: Harness, mode: Mode
) -> None:
    scorer = Scorer(llama.model, llama.tokenizer, harness)
    told = scorer.composition(ITEMS, mode)
    assert told == Scorer(llama.model, llama.tokenizer, harness).composition(ITEMS, mode)
    fewer = {**ITEMS, "write": [1, 2]}
    halved = Scorer(llama.model, llama.tokenizer, harness, batch_size=2)
    plain = Scorer(llama.model, llama.tokenizer, harness)
    plain._deepest = 0
    others = [scorer.composition(fewer, mode), halved.composition(ITEMS, mode)]
    others += [plain.composition(ITEMS, mode), *(scorer.composition(ITEMS, m) for m in MODES)]
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
