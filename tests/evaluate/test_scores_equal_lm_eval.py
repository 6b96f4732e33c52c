"""Conformance: items and aggregates equal what the stock harness computes from the same model.

Every kind of task that a study may hold (multiple choice by each normalisation, likelihood, rolling
likelihood, generation with stop strings and filters, few-shot, chat template) on every architecture
that users bring (Llama, Qwen3, GPT-2, Gemma 2), each tiny and made here.
"""

from __future__ import annotations

import logging
from pathlib import Path

import lm_eval
import numpy as np
import pytest
import torch
from lm_eval.tasks import TaskManager

from evomerge.evaluate.likelihood.attention import max_packed_length
from evomerge.evaluate.likelihood.batches import make_batches
from evomerge.evaluate.likelihood.likelihood import Forward
from evomerge.evaluate.model import load_model
from evomerge.evaluate.outcomes import ScoreKind
from evomerge.evaluate.scorer import Scorer
from evomerge.evaluate.tasks.encode import Encoder
from evomerge.evaluate.tasks.harness import Harness
from evomerge.evaluate.tasks.lm_eval_api import stock_model
from tests.evaluate.evaluation_bench import TASKS, Bench, answers, make_model

ADDITIVE = [name for name in TASKS if name != "rolling"]
CHATTED = ["choice", "choice_shots", "likelihood", "write", "write_shots"]


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "chat"])
def chat(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def stock(any_bench: Bench, chat: bool) -> dict:
    """lm-eval's own results."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = TaskManager(include_path=str(any_bench.folder), include_defaults=False)
    loaded = manager.load(CHATTED if chat else list(TASKS))
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(1234)
    model = stock_model(any_bench.model, any_bench.tokenizer, batch_size=64)
    return lm_eval.evaluate(
        model, loaded, bootstrap_iters=0, apply_chat_template=chat, fewshot_as_multiturn=chat
    )


@pytest.fixture(scope="module")
def harness(any_bench: Bench, chat: bool) -> Harness:
    names = CHATTED if chat else list(TASKS)
    return Harness.load(
        names, [any_bench.folder], tokenizer=any_bench.tokenizer, apply_chat_template=chat
    )


@pytest.mark.parametrize("batch_size", [5, 64])
def test_every_item_and_every_mean_has_the_value_of_lm_eval(
    any_bench: Bench, harness: Harness, stock: dict, batch_size: int
) -> None:
    scorer = Scorer(any_bench.model, any_bench.tokenizer, harness, batch_size)
    assert scorer.warnings == []
    names = [name for name in harness.items if name != "rolling"]
    outcomes = scorer.score({name: harness.items[name] for name in names}, "metric")
    seen = set()
    for outcome in outcomes:
        metric = harness.metrics[outcome.task]
        (logged,) = [
            sample
            for sample in stock["samples"][outcome.task]
            if sample["doc_id"] == outcome.doc_id and sample["filter"] == metric.filter
        ]
        assert outcome.metric == logged[metric.name], outcome
        seen.add((outcome.task, outcome.metric))
    for name in names:
        metric = harness.metrics[name]
        mean = np.mean([outcome.metric for outcome in outcomes if outcome.task == name])
        assert mean == pytest.approx(stock["results"][name][f"{metric.name},{metric.filter}"])
    both = {task for task, value in seen if (task, 1 - value) in seen}
    assert len(both) > (1 if len(names) < 6 else 5), "items must be right here and wrong there"


@pytest.mark.parametrize("chat", [False], indirect=True, ids=["plain"])
def test_rolling_likelihoods_and_their_mean_by_length_are_lm_evals(
    any_bench: Bench, harness: Harness, stock: dict
) -> None:
    scorer = Scorer(any_bench.model, any_bench.tokenizer, harness)
    outcomes = scorer.score({"rolling": harness.items["rolling"]}, "metric")
    lengths = [len(sample["target"].encode()) for sample in stock["samples"]["rolling"]]
    for outcome, sample, length in zip(outcomes, stock["samples"]["rolling"], lengths, strict=True):
        (likelihood,) = sample["filtered_resps"]
        assert outcome.metric is not None
        bits = -float(likelihood) / np.log(2)
        assert outcome.metric * length == pytest.approx(bits, abs=1e-3)
    mean = np.average([outcome.metric for outcome in outcomes], weights=lengths)
    assert mean == pytest.approx(stock["results"]["rolling"]["bits_per_byte,none"], abs=1e-5)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("task", ["choice", "choice_shots", "choice_mutual", "likelihood"])
def test_log_likelihoods_are_within_a_thousandth_of_lm_evals(
    any_bench: Bench, harness: Harness, stock: dict, task: str, packed: bool
) -> None:
    if task not in harness.items:
        pytest.skip("not among the tasks with a chat template")
    model = stock_model(any_bench.model, any_bench.tokenizer, batch_size=64)
    encoder = Encoder(model, harness)
    items = [(task, doc_id) for doc_id in harness.items[task]]
    requests = [(item, request) for item in items for request in harness.requests(*item)]
    pairs = [pair for item, request in requests for pair in encoder.pairs(item, request)]
    longest = max_packed_length(any_bench.model) if packed else 0
    batches = make_batches(pairs, 64, model.max_length, "cpu", longest)
    assert any(batch.last is not None for batch in batches) == packed
    ours = Forward(any_bench.model)(batches, pairs)
    theirs = [
        tuple(reply[0])
        for sample in stock["samples"][task]
        for reply in sample["resps"]
    ]  # fmt: skip
    assert len(ours) == len(theirs)
    for mine, (total, is_greedy) in zip(ours, theirs, strict=True):
        assert mine.total == pytest.approx(float(total), abs=1e-3)
        assert mine.is_greedy == (str(is_greedy) == "True")


@pytest.mark.parametrize("task", ["write", "write_digit", "write_shots"])
def test_generated_texts_are_lm_evals(
    any_bench: Bench, harness: Harness, stock: dict, task: str
) -> None:
    if task not in harness.items:
        pytest.skip("not among the tasks with a chat template")
    items = [(task, doc_id) for doc_id in harness.items[task]]
    ours = [answer.text for answer in answers(any_bench, harness, items, batch_size=6)]
    theirs = {sample["doc_id"]: sample["resps"][0][0] for sample in stock["samples"][task]}
    assert ours == [theirs[doc_id] for doc_id in harness.items[task]]
    assert len(set(ours)) >= 3


@pytest.mark.parametrize("chat", [False], indirect=True, ids=["plain"])
@pytest.mark.parametrize("score_kind", ["smooth", "metric"])
def test_swapped_weights_score_as_a_freshly_loaded_model_bit_for_bit(
    any_bench: Bench, harness: Harness, score_kind: ScoreKind, tmp_path: Path
) -> None:
    architecture = any_bench.model.config.model_type
    other = make_model(architecture, seed=9)
    other.save_pretrained(tmp_path)
    any_bench.tokenizer.save_pretrained(tmp_path)
    fresh, tokenizer = load_model(tmp_path)
    expected = Scorer(fresh, tokenizer, harness).score(harness.items, score_kind)

    resident = make_model(architecture, seed=3)
    scorer = Scorer(resident, any_bench.tokenizer, harness)
    before = scorer.score(harness.items, score_kind)
    source = dict(other.named_parameters())
    with torch.no_grad():
        for name, parameter in resident.named_parameters():
            parameter.copy_(source[name])
    assert scorer.score(harness.items, score_kind) == expected
    assert before != expected
