"""Choices behind the keys and values of their context, on models that take no block mask."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, FalconConfig, MambaConfig, MptConfig

from evomerge.evaluate import Harness, NonFiniteError, Scorer, stems
from evomerge.evaluate.packed import deepest
from evomerge.evaluate.packing import minimum_tokens, n_tokens, pack
from evomerge.evaluate.stems import deepest_with_stem, pack_stems
from tests.evaluate.evaluation_bench import Bench

SMALL = {"vocab_size": 256, "eos_token_id": 2, "bos_token_id": 1, "initializer_range": 0.3}
CONFIGS = {
    "bloom": BloomConfig(**SMALL, hidden_size=32, n_layer=2, n_head=2),
    "mpt": MptConfig(**SMALL, d_model=32, n_layers=2, n_heads=2),
    "falcon": FalconConfig(
        **SMALL, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, alibi=True
    ),
}
TASKS = ["choice", "choice_norm", "choice_shots", "choice_mutual"]


def model_of(config: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(scope="module", params=CONFIGS)
def model(request: pytest.FixtureRequest) -> Any:
    return model_of(CONFIGS[request.param])


@pytest.fixture(scope="module")
def harness(llama: Bench) -> Harness:
    return Harness.load(TASKS, [llama.folder], tokenizer=llama.tokenizer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_with_biases_of_their_own_take_stems(model: Any, dtype: torch.dtype) -> None:
    assert deepest(model.to(dtype)) == 0
    assert deepest_with_stem(model) >= 128
    model.to(torch.float32)


def test_a_model_whose_cache_holds_no_keys_and_values_takes_none() -> None:
    small = {"vocab_size": 48, "hidden_size": 32, "num_hidden_layers": 2}
    assert deepest_with_stem(model_of(MambaConfig(**small))) == 0


def test_a_stem_that_is_seen_where_it_is_padding_is_noticed(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = stems.padded_left

    def wrong(given: Any) -> Any:
        tokens, seen = right(given)
        return tokens, torch.ones_like(seen)

    monkeypatch.setattr(stems, "padded_left", wrong)
    assert deepest_with_stem(model) == 0


@pytest.mark.parametrize("batch_size", [16, 64])
def test_choices_behind_stems_are_as_likely_as_in_plain_rows_and_in_lm_eval(
    model: Any, llama: Bench, harness: Harness, batch_size: int
) -> None:
    items = {task: ids[:12] for task, ids in harness.items.items()}
    scorer = Scorer(model, llama.tokenizer, harness, batch_size)
    plan = scorer._plan_of(scorer._checked(items), "smooth")
    stemmed = [batch for batch in plan.batches if batch.stems is not None]
    assert stemmed
    assert all(len(batch.inputs) <= batch_size for batch in stemmed)
    totals = scorer._forward(plan.batches, plan.pairs).totals
    scorer._deepest_with_stem = 0
    plain = scorer._batches(plan.pairs)
    assert all(batch.stems is None for batch in plain)
    assert totals == pytest.approx(scorer._forward(plain, plan.pairs).totals, abs=1e-4)
    asked = [one for task, ids in items.items() for i in ids for one in harness.requests(task, i)]
    theirs = scorer._stock.loglikelihood(asked, disable_tqdm=True)
    assert len(theirs) == len(totals)
    assert totals == pytest.approx([total for total, _ in theirs], abs=1e-3)


def test_broken_weights_are_noticed_behind_stems(llama: Bench, harness: Harness) -> None:
    model = model_of(CONFIGS["bloom"])
    scorer = Scorer(model, llama.tokenizer, harness)
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError):
        scorer.score({"choice_norm": harness.items["choice_norm"][:12]}, "smooth")


def test_stems_by_hand() -> None:
    long, short = tuple(range(200)), tuple(range(300, 400))
    inputs = {(*long, 5, 6): 200, (*long, 7): 200, (*short, 1): 100, (*short, 2): 100, (9, 9): 1}
    (first, second), rest = pack_stems(inputs, 2, 1000)
    assert rest == {(9, 9): 1}
    assert [row.tokens for row in first.rows] == [(199, 5, 6), (199, 7)]
    assert [row.stem for row in second.rows] == [short[:-1]] * 2
    assert first.n_tokens == 199 + 2 * 3
    one, rest = pack_stems(inputs, 64, 1000)
    assert len(one) == 1
    assert one[0].n_tokens == 2 * 199 + 4 * 3  # the short stem is padded
    assert pack_stems(inputs, 64, 10) == ([], inputs)  # too deep
    assert pack_stems({(1, 2, 3): 2, (1, 2, 4): 2}, 64, 10)[0] == []  # not worth a call


def test_stems_save_most_of_what_plain_rows_repeat() -> None:
    inputs = {(*range(n, n + 60 + n % 9), i, i): 60 + n % 9 for n in range(20) for i in range(4)}
    batches, rest = pack_stems(inputs, 64, 1000)
    assert rest == {}
    plain = n_tokens(pack(inputs, 64, 0))
    assert n_tokens(batches) < 0.35 * plain
    assert n_tokens(batches) < 1.2 * minimum_tokens(inputs)
