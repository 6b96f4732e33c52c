from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from evomerge.evaluate.likelihood.attention import max_packed_length
from evomerge.evaluate.likelihood.batches import make_batches
from evomerge.evaluate.likelihood.likelihood import Forward, selected_logits
from evomerge.evaluate.outcomes import NonFiniteError
from evomerge.evaluate.token_requests import Pair
from tests.evaluate.evaluation_bench import make_model

MAX_LENGTH = 128
PAIRS = [
    Pair(("t", 0), (1, 5, 9), (7, 8)),
    Pair(("t", 1), (1, 5, 9), (7, 11)),  # shares its input with the first
    Pair(("t", 2), (1, 6), (4,)),
    Pair(("t", 3), (1, 6, 12, 13, 14), (15, 16, 17), endings=(2, 40)),
    Pair(("t", 4), (1, 6), (5,)),  # shares its input with the third
]


def likelihoods(model: Any, pairs: list[Pair], batch_size: int = 64, packed_length: int = 0) -> Any:
    return Forward(model)(make_batches(pairs, batch_size, MAX_LENGTH, "cpu", packed_length), pairs)


def by_hand(model: Any, pair: Pair) -> tuple[np.ndarray, np.ndarray, bool]:
    """One unpadded row, float64 softmax, every token looked at by itself."""
    tokens = [*pair.context, *pair.continuation]
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0].double().numpy()
    wanted: list[tuple[int, ...]] = [(token,) for token in pair.continuation]
    wanted += [pair.endings] if pair.endings else []
    log_probabilities, margins = [], []
    for position, alternatives in enumerate(wanted, start=len(pair.context) - 1):
        row = logits[position]
        mine = row[list(alternatives)]
        others = np.delete(row, list(alternatives))
        log_probabilities.append(np.log(np.exp(mine).sum() / np.exp(row).sum()))
        margins.append((mine.max() - others.max()) / row.std(ddof=1))
    greedy = all(m > 0 for m in margins[: len(pair.continuation)])
    return np.array(log_probabilities), np.array(margins), greedy


def few_shot(count: int) -> list[Pair]:
    """Questions with four answers each, behind examples that all of them share."""
    generator = np.random.default_rng(0)
    examples = tuple(generator.integers(3, 48, 40).tolist())
    pairs = []
    for number in range(count):
        question = tuple(generator.integers(3, 48, generator.integers(9, 20)).tolist())
        for answer in range(4):
            tokens = tuple(generator.integers(3, 48, 1 + answer).tolist())
            endings = (2, 40) if number % 3 == 0 else ()
            pairs.append(Pair(("t", number), examples + question, tokens, endings))
    return pairs


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "gemma3", "qwen3"])
@pytest.mark.parametrize(
    ("batch_size", "packed_length"), [(1, 0), (2, 0), (64, 0), (2, 128), (64, 128)]
)
def test_likelihoods_equal_a_float64_softmax_of_single_rows(
    architecture: str, batch_size: int, packed_length: int
) -> None:
    # Gemma 2 caps its logits softly after the head: reading hidden states would miss it.
    model = make_model(architecture, seed=1)
    pairs = PAIRS + few_shot(12)
    computed = likelihoods(model, pairs, batch_size, min(packed_length, max_packed_length(model)))
    for pair, likelihood in zip(pairs, computed, strict=True):
        log_probabilities, margins, greedy = by_hand(model, pair)
        np.testing.assert_allclose(likelihood.log_probabilities, log_probabilities, atol=2e-5)
        np.testing.assert_allclose(likelihood.margins, margins, atol=2e-5)
        assert likelihood.is_greedy == greedy
        total = log_probabilities[: len(pair.continuation)].sum()
        assert likelihood.total == pytest.approx(total, abs=2e-5)


def test_a_greedy_continuation_is_recognised() -> None:
    model = make_model("llama", seed=1)
    with torch.no_grad():
        best = int(model(torch.tensor([[1, 5, 9]])).logits[0, -1].argmax())
    right, wrong = likelihoods(
        model, [Pair(("t", 0), (1, 5, 9), (best,)), Pair(("t", 1), (1, 5, 9), (best + 1,))]
    )
    assert (right.is_greedy, wrong.is_greedy) == (True, False)
    assert right.margins[0] > 0 > wrong.margins[0]


def test_pairs_with_the_same_input_share_a_row() -> None:
    (batch,) = make_batches(PAIRS, 64, MAX_LENGTH, "cpu")
    assert batch.inputs.tolist() == [
        [1, 6, 12, 13, 14, 15, 16, 17],
        [1, 5, 9, 7, 0, 0, 0, 0],
        [1, 6, 0, 0, 0, 0, 0, 0],
    ]


def test_batches_do_not_depend_on_the_order_of_the_pairs() -> None:
    forward = make_batches(PAIRS, 2, MAX_LENGTH, "cpu")
    backward = make_batches(PAIRS[::-1], 2, MAX_LENGTH, "cpu")
    assert [batch.inputs.tolist() for batch in forward] == [
        batch.inputs.tolist() for batch in backward
    ]


def test_an_input_that_is_too_long_loses_its_left_end() -> None:
    long = Pair(("t", 0), tuple(range(3, 13)), (20, 21))
    (batch,) = make_batches([long], 64, max_length=6, device="cpu")
    # As in lm-eval: of the last 7 tokens of context and answer, all but the last.
    assert batch.inputs.tolist() == [[8, 9, 10, 11, 12, 20]]
    assert batch.columns.tolist() == [4, 5]


@pytest.mark.parametrize("packed_length", [0, 128])
def test_a_large_vocabulary_makes_smaller_batches_of_the_same_rows(packed_length: int) -> None:
    model, pairs = make_model("llama", seed=1), few_shot(12)
    whole = make_batches(pairs, 64, MAX_LENGTH, "cpu", packed_length)
    parts = make_batches(
        pairs, 64, MAX_LENGTH, "cpu", packed_length, vocabulary_size=(1 << 27) // 20
    )
    assert len(parts) > len(whole)
    assert all(len(batch.targets) <= 20 or len(batch.inputs) == 1 for batch in parts)
    assert sum(len(batch.inputs) for batch in parts) == sum(len(batch.inputs) for batch in whole)
    np.testing.assert_allclose(
        Forward(model)(parts, pairs).totals, Forward(model)(whole, pairs).totals, atol=1e-5
    )


@pytest.mark.parametrize("packed_length", [0, 128])
def test_contexts_longer_than_the_model_are_cut_alike_in_packed_and_plain_rows(
    packed_length: int,
) -> None:
    model = make_model("llama", seed=1)
    generator = np.random.default_rng(1)
    pairs = []
    for number, length in enumerate((120, 127, 128, 140, 300)):
        context = tuple(generator.integers(3, 48, length).tolist())
        for size in (1, 1, 4):
            pairs.append(
                Pair(("t", number), context, tuple(generator.integers(3, 48, size).tolist()))
            )
    for pair, likelihood in zip(pairs, likelihoods(model, pairs, 64, packed_length), strict=True):
        cut = (pair.context + pair.continuation)[-(MAX_LENGTH + 1) :]
        size = len(pair.continuation)
        log_probabilities, _, greedy = by_hand(model, Pair(pair.owner, cut[:-size], cut[-size:]))
        np.testing.assert_allclose(likelihood.log_probabilities, log_probabilities, atol=2e-5)
        assert likelihood.is_greedy == greedy


def test_a_model_without_a_reachable_head_gives_the_same_logits() -> None:
    model = make_model("llama", seed=1)
    for packed_length in (0, 128):
        (batch,) = make_batches(PAIRS, 64, MAX_LENGTH, "cpu", packed_length)
        with torch.no_grad():
            through_head = selected_logits(model, batch)
            model.get_output_embeddings = lambda: None
            whole = selected_logits(model, batch)
            del model.get_output_embeddings
        torch.testing.assert_close(through_head, whole, atol=1e-5, rtol=0)
        assert through_head.shape == (len(batch.targets), 48)


def test_the_head_is_left_without_hooks() -> None:
    model = make_model("llama", seed=1)
    likelihoods(model, PAIRS)
    assert not model.lm_head._forward_pre_hooks


@pytest.mark.parametrize("packed_length", [0, 128])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_reported_with_their_item(
    value: float, packed_length: int
) -> None:
    model = make_model("gpt2", seed=1)
    with torch.no_grad():
        # Token 12 occurs in one item alone.
        model.transformer.wte.weight[12] = value
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.nan_to_num(0.0, 0.0, 0.0))
    with pytest.raises(NonFiniteError) as broken:
        likelihoods(model, PAIRS, packed_length=packed_length)
    assert (broken.value.task, broken.value.doc_id) == ("t", 3)


def test_margins_are_exact_with_a_large_vocabulary_and_logits_far_from_zero() -> None:
    """49,152 tokens and 3 more, all logits near 100: the spread is that of float64."""
    config = LlamaConfig(
        vocab_size=49_155,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
        bias = torch.nn.Parameter(torch.full((49_155,), 100.0))
    model.lm_head.bias = bias
    pair = Pair(("t", 0), (1, 5, 9), (40_000, 8, 49_154))
    (computed,) = likelihoods(model, [pair])
    log_probabilities, margins, _ = by_hand(model, pair)
    np.testing.assert_allclose(computed.log_probabilities, log_probabilities, atol=5e-5)
    np.testing.assert_allclose(computed.margins, margins, rtol=1e-5)
