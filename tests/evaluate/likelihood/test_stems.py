"""Choices behind the keys and values of their context, on models that take no block mask."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, FalconConfig, MambaConfig, MptConfig

from evomerge.evaluate.likelihood import stems
from evomerge.evaluate.likelihood.attention import deepest
from evomerge.evaluate.likelihood.likelihood import Forward, Pair, make_batches
from evomerge.evaluate.likelihood.packing import minimum_tokens, n_tokens, pack
from evomerge.evaluate.likelihood.stems import Depth, pack_stems, stem_depth
from evomerge.evaluate.outcomes import NonFiniteError
from evomerge.evaluate.scorer import Scorer
from evomerge.evaluate.tasks.harness import Harness
from tests.evaluate.evaluation_bench import Bench

SMALL = {"vocab_size": 256, "eos_token_id": 2, "bos_token_id": 1, "initializer_range": 0.3}
CONFIGS = {
    "bloom": BloomConfig(**SMALL, hidden_size=32, n_layer=2, n_head=2),
    "mpt": MptConfig(**SMALL, d_model=32, n_layers=2, n_heads=2),
    "falcon": FalconConfig(
        **SMALL, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, alibi=True
    ),
}
DEEP = Depth(1000, True)
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
    depth = stem_depth(model)
    assert depth.longest >= 128
    # MPT's bias counts padding between a prefix and a stem as distance.
    assert depth.prefixes == (model.config.model_type != "mpt")
    model.to(torch.float32)


def test_a_model_whose_cache_holds_no_keys_and_values_takes_none() -> None:
    small = {"vocab_size": 48, "hidden_size": 32, "num_hidden_layers": 2}
    assert stem_depth(model_of(MambaConfig(**small))) == Depth()


def test_a_stem_that_is_seen_where_it_is_padding_is_noticed(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = stems.padded_left

    def wrong(given: Any) -> Any:
        tokens, seen = right(given)
        return tokens, torch.ones_like(seen)

    monkeypatch.setattr(stems, "padded_left", wrong)
    assert stem_depth(model) == Depth()


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
    scorer._depth = Depth()
    plain = scorer._batches(plan.pairs)
    assert all(batch.stems is None for batch in plain)
    assert totals == pytest.approx(scorer._forward(plain, plan.pairs).totals, abs=1e-4)
    asked = [one for task, ids in items.items() for i in ids for one in harness.requests(task, i)]
    theirs = scorer._stock.loglikelihood(asked, disable_tqdm=True)
    assert len(theirs) == len(totals)
    assert totals == pytest.approx([total for total, _ in theirs], abs=1e-3)


def test_examples_that_contexts_share_change_nothing(model: Any) -> None:
    drawn = random.Random(0)

    def words(n: int) -> tuple[int, ...]:
        return tuple(drawn.randrange(3, 256) for _ in range(n))

    shots = words(90)
    pairs = []
    for number in range(20):
        context = shots + words(3 + number)
        pairs += [Pair(("one", number), context, words(1 + i)) for i in range(4)]
    batches = make_batches(pairs, 64, 2000, "cpu", depth=stem_depth(model))
    assert all(batch.stems is not None for batch in batches)
    assert {len(b.prefix) for b in batches} == ({90} if stem_depth(model).prefixes else {0})
    plain = make_batches(pairs, 64, 2000, "cpu")
    forward = Forward(model)
    told = forward(batches, pairs).totals
    assert told == pytest.approx(forward(plain, pairs).totals, abs=2e-4)


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
    (first, second), rest = pack_stems(inputs, 2, DEEP)
    assert rest == {(9, 9): 1}
    assert [row.tokens for row in first.rows] == [(199, 5, 6), (199, 7)]
    assert [row.stem for row in second.rows] == [short[:-1]] * 2
    assert first.n_tokens == 199 + 2 * 3
    one, rest = pack_stems(inputs, 64, DEEP)
    assert len(one) == 1
    assert one[0].n_tokens == 2 * 199 + 4 * 3  # the short stem is padded
    assert pack_stems(inputs, 64, Depth(10, True)) == ([], inputs)  # too deep
    assert pack_stems({(1, 2, 3): 2, (1, 2, 4): 2}, 64, DEEP)[0] == []  # not worth a call


def test_what_several_contexts_begin_with_is_a_prefix_of_their_stems() -> None:
    shots = tuple(range(500, 900))
    inputs = {(*shots, n, n + 1, i): 402 for n in range(0, 99, 3) for i in range(4)}
    batches, rest = pack_stems(inputs, 64, DEEP)
    assert rest == {}
    assert {batch.prefix for batch in batches} == {shots}
    assert {row.stem for batch in batches for row in batch.rows} == {(n,) for n in range(0, 99, 3)}
    assert {row.tokens for batch in batches for row in batch.rows} == {
        (n + 1, i) for n in range(0, 99, 3) for i in range(4)
    }
    assert n_tokens(batches) == 400 + 33 * 1 + 33 * 4 * 2
    alone = {(*shots, n): 400 for n in range(3)}  # the context is all that they have in common
    ((batch,), _) = pack_stems(alone, 64, DEEP)
    assert (batch.prefix, {row.stem for row in batch.rows}) == ((), {shots[:-1]})


def test_stems_save_most_of_what_plain_rows_repeat() -> None:
    inputs = {(*range(n, n + 60 + n % 9), i, i): 60 + n % 9 for n in range(20) for i in range(4)}
    batches, rest = pack_stems(inputs, 64, DEEP)
    assert rest == {}
    plain = n_tokens(pack(inputs, 64, 0))
    assert n_tokens(batches) < 0.35 * plain
    assert n_tokens(batches) < 1.2 * minimum_tokens(inputs)
