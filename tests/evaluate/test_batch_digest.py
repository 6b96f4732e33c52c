from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from evomerge.evaluate import scorer as scorer_module
from evomerge.evaluate.generation.decode import Decoder, PromptBatch
from evomerge.evaluate.likelihood.attention import PackingSupport
from evomerge.evaluate.outcomes import ScoreKind
from evomerge.evaluate.scorer import Scorer
from evomerge.evaluate.tasks.harness import Harness
from evomerge.evaluate.token_requests import Prompt
from tests.evaluate.evaluation_bench import TASKS, Bench

ITEMS = {"choice": [0, 3, 4, 9], "write": [1, 2, 7], "likelihood": [2, 5]}
SCORE_KINDS: tuple[ScoreKind, ...] = ("smooth", "metric")


@pytest.fixture(scope="module")
def harness(llama: Bench) -> Harness:
    return Harness.load(list(TASKS), [llama.folder], tokenizer=llama.tokenizer)


@pytest.mark.parametrize("score_kind", SCORE_KINDS)
def test_equal_batches_have_one_digest_and_others_another(
    llama: Bench, harness: Harness, score_kind: ScoreKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = Scorer(llama.model, llama.tokenizer, harness)
    digest = scorer.composition(ITEMS, score_kind)
    assert digest == Scorer(llama.model, llama.tokenizer, harness).composition(ITEMS, score_kind)
    fewer = {**ITEMS, "write": [1, 2]}
    halved = Scorer(llama.model, llama.tokenizer, harness, batch_size=2)
    monkeypatch.setattr(scorer_module, "packing_support", lambda _: PackingSupport(0))
    plain = Scorer(llama.model, llama.tokenizer, harness)
    (other_kind,) = set(SCORE_KINDS) - {score_kind}
    others = [
        scorer.composition(fewer, score_kind),
        halved.composition(ITEMS, score_kind),
        plain.composition(ITEMS, score_kind),
        scorer.composition(ITEMS, other_kind),
    ]
    assert len({digest, *others}) == 5


def test_the_digest_is_of_the_batches_whatever_the_weights(llama: Bench, harness: Harness) -> None:
    scorer = Scorer(llama.model, llama.tokenizer, harness)
    digest = scorer.composition(ITEMS, "metric")
    before = [parameter.clone() for parameter in llama.model.parameters()]
    with torch.no_grad():
        for parameter in llama.model.parameters():
            parameter.mul_(0.5)
    scorer.score(ITEMS, "metric")
    assert scorer.composition(ITEMS, "metric") == digest
    with torch.no_grad():
        for parameter, old in zip(llama.model.parameters(), before, strict=True):
            parameter.copy_(old)


def test_generation_begins_in_the_batches_of_the_digest(llama: Bench, harness: Harness) -> None:
    class Watched(Decoder):
        """Records the batches that it arranges."""

        def arrange(self, prompts: Sequence[Prompt]) -> Iterator[PromptBatch]:
            for batch in super().arrange(prompts):
                arranged.append([prompts[i].tokens[len(batch.prefix) :] for i in batch.numbers])
                yield batch

    arranged: list[list[tuple[int, ...]]] = []
    inputs: list[list[list[int]]] = []

    def watch(_: Any, __: Any, arguments: dict[str, Any]) -> None:
        if arguments["input_ids"].shape[1] > 1:  # a prompt; the tokens that are written come singly
            inputs.append(arguments["input_ids"].tolist())

    decoder = Watched(llama.model, llama.tokenizer, batch_size=1)
    scorer = Scorer(llama.model, llama.tokenizer, harness, batch_size=1, decoder=decoder)
    items = {"write": list(range(20))}
    scorer.composition(items, "metric")
    digested = [*arranged]
    hook = llama.model.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        scorer.score(items, "metric")
    finally:
        hook.remove()
    assert len(digested) > 1
    assert [[tuple(filter(None, row)) for row in batch] for batch in inputs] == digested
