"""Choices behind the cached keys and values of their context, where models take no block mask."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, FalconConfig, MambaConfig, MptConfig

from evomerge.evaluate.likelihood import context_cache
from evomerge.evaluate.likelihood.attention import max_packed_length
from evomerge.evaluate.likelihood.batches import make_batches
from evomerge.evaluate.likelihood.context_cache import (
    ContextCacheSupport,
    context_cache_support,
    pack_by_context,
)
from evomerge.evaluate.likelihood.likelihood import Forward
from evomerge.evaluate.likelihood.packing import n_tokens, pack
from evomerge.evaluate.outcomes import NonFiniteError
from evomerge.evaluate.scorer import Scorer
from evomerge.evaluate.tasks.encode import Encoder
from evomerge.evaluate.tasks.harness import Harness
from evomerge.evaluate.tasks.lm_eval_api import stock_model
from evomerge.evaluate.token_requests import Pair
from tests.evaluate.evaluation_bench import Bench, distinct_prefixes

SMALL = {"vocab_size": 256, "eos_token_id": 2, "bos_token_id": 1, "initializer_range": 0.3}
CONFIGS = {
    "bloom": BloomConfig(**SMALL, hidden_size=32, n_layer=2, n_head=2),
    "mpt": MptConfig(**SMALL, d_model=32, n_layers=2, n_heads=2),
    "falcon": FalconConfig(
        **SMALL, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, alibi=True
    ),
}
DEEP = ContextCacheSupport(1000, True)
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
def test_models_that_compute_biases_themselves_take_cached_contexts(
    model: Any, dtype: torch.dtype
) -> None:
    assert max_packed_length(model.to(dtype)) == 0
    support = context_cache_support(model)
    assert support.max_length >= 128
    # MPT's bias counts padding between a prefix and a context as distance.
    assert support.prefixes == (model.config.model_type != "mpt")
    model.to(torch.float32)


def test_a_model_without_a_cache_of_keys_and_values_takes_none() -> None:
    small = {"vocab_size": 48, "hidden_size": 32, "num_hidden_layers": 2}
    assert context_cache_support(model_of(MambaConfig(**small))) == ContextCacheSupport()


def test_a_context_whose_padding_is_seen_is_noticed(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = context_cache.pad_left

    def wrong(contexts: Any) -> Any:
        tokens, seen = right(contexts)
        return tokens, torch.ones_like(seen)

    monkeypatch.setattr(context_cache, "pad_left", wrong)
    assert context_cache_support(model) == ContextCacheSupport()


@pytest.mark.parametrize("batch_size", [16, 64])
def test_choices_behind_cached_contexts_are_as_likely_as_in_plain_rows_and_in_lm_eval(
    model: Any, llama: Bench, harness: Harness, batch_size: int
) -> None:
    stock = stock_model(model, llama.tokenizer, batch_size)
    encoder = Encoder(stock, harness)
    items = [(task, doc_id) for task, ids in harness.items.items() for doc_id in ids[:12]]
    requests = [(item, request) for item in items for request in harness.requests(*item)]
    pairs = [pair for item, request in requests for pair in encoder.pairs(item, request)]
    support, limit = context_cache_support(model), stock.max_length
    batches = make_batches(pairs, batch_size, limit, "cpu", context_cache=support)
    cached = [batch for batch in batches if batch.contexts is not None]
    assert cached
    assert all(len(batch.inputs) <= batch_size for batch in cached)
    totals = Forward(model)(batches, pairs).totals
    plain = make_batches(pairs, batch_size, limit, "cpu")
    assert all(batch.contexts is None for batch in plain)
    assert totals == pytest.approx(Forward(model)(plain, pairs).totals, abs=1e-4)
    theirs = stock.loglikelihood([request for _, request in requests], disable_tqdm=True)
    assert len(theirs) == len(totals)
    assert totals == pytest.approx([total for total, _ in theirs], abs=1e-3)


def test_examples_that_contexts_share_change_nothing(model: Any) -> None:
    generator = random.Random(0)

    def words(n: int) -> tuple[int, ...]:
        return tuple(generator.randrange(3, 256) for _ in range(n))

    shots = words(90)
    pairs = []
    for number in range(20):
        context = shots + words(3 + number)
        pairs += [Pair(("one", number), context, words(1 + i)) for i in range(4)]
    batches = make_batches(pairs, 64, 2000, "cpu", context_cache=context_cache_support(model))
    assert all(batch.contexts is not None for batch in batches)
    assert {len(b.prefix) for b in batches} == (
        {90} if context_cache_support(model).prefixes else {0}
    )
    plain = make_batches(pairs, 64, 2000, "cpu")
    forward = Forward(model)
    totals = forward(batches, pairs).totals
    assert totals == pytest.approx(forward(plain, pairs).totals, abs=2e-4)


def test_broken_weights_are_noticed_behind_cached_contexts(llama: Bench, harness: Harness) -> None:
    model = model_of(CONFIGS["bloom"])
    scorer = Scorer(model, llama.tokenizer, harness)
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError):
        scorer.score({"choice_norm": harness.items["choice_norm"][:12]}, "smooth")


def test_cached_contexts_by_hand() -> None:
    long, short = tuple(range(200)), tuple(range(300, 400))
    inputs = {(*long, 5, 6): 200, (*long, 7): 200, (*short, 1): 100, (*short, 2): 100, (9, 9): 1}
    (first, second), rest = pack_by_context(inputs, 2, DEEP)
    assert rest == {(9, 9): 1}
    assert [row.tokens for row in first.rows] == [(199, 5, 6), (199, 7)]
    assert [row.context for row in second.rows] == [short[:-1]] * 2
    assert first.n_tokens == 199 + 2 * 3
    one, rest = pack_by_context(inputs, 64, DEEP)
    assert len(one) == 1
    assert one[0].n_tokens == 2 * 199 + 4 * 3  # the short context is padded
    assert pack_by_context(inputs, 64, ContextCacheSupport(10, True)) == ([], inputs)  # too deep
    assert pack_by_context({(1, 2, 3): 2, (1, 2, 4): 2}, 64, DEEP)[0] == []  # not worth a call


def test_a_prefix_that_several_contexts_share_is_read_before_them() -> None:
    shots = tuple(range(500, 900))
    inputs = {(*shots, n, n + 1, i): 402 for n in range(0, 99, 3) for i in range(4)}
    batches, rest = pack_by_context(inputs, 64, DEEP)
    assert rest == {}
    assert {batch.prefix for batch in batches} == {shots}
    assert {row.context for batch in batches for row in batch.rows} == {
        (n,) for n in range(0, 99, 3)
    }
    assert {row.tokens for batch in batches for row in batch.rows} == {
        (n + 1, i) for n in range(0, 99, 3) for i in range(4)
    }
    assert n_tokens(batches) == 400 + 33 * 1 + 33 * 4 * 2
    alone = {(*shots, n): 400 for n in range(3)}  # the context is all that they have in common
    ((batch,), _) = pack_by_context(alone, 64, DEEP)
    assert (batch.prefix, {row.context for row in batch.rows}) == ((), {shots[:-1]})


def test_cached_contexts_save_most_of_what_plain_rows_repeat() -> None:
    inputs = {(*range(n, n + 60 + n % 9), i, i): 60 + n % 9 for n in range(20) for i in range(4)}
    batches, rest = pack_by_context(inputs, 64, DEEP)
    assert rest == {}
    plain = n_tokens(pack(inputs, 64, 0))
    assert n_tokens(batches) < 0.35 * plain
    assert n_tokens(batches) < 1.2 * distinct_prefixes(inputs)
