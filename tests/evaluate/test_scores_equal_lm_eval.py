"""Items and aggregates equal what the stock harness computes from the same model and tasks."""

from __future__ import annotations

import logging

import lm_eval
import numpy as np
import pytest
from lm_eval.tasks import TaskManager

from evomerge.evaluate.harness import Harness, stock_model
from evomerge.evaluate.request import Request
from evomerge.evaluate.scorer import Scorer
from tests.evaluate.evaluation_bench import TASKS, Bench

ADDITIVE = [name for name in TASKS if name != "rolling"]


@pytest.fixture(scope="module")
def stock(bench: Bench) -> dict:
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    loaded = TaskManager(include_path=str(bench.folder), include_defaults=False).load(list(TASKS))
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(1234)
    model = stock_model(bench.model, bench.tokenizer, batch_size=64)
    return lm_eval.evaluate(model, loaded, bootstrap_iters=0)


@pytest.fixture(scope="module")
def harness(bench: Bench) -> Harness:
    return Harness.load(list(TASKS), [bench.folder], tokenizer=bench.tokenizer)


@pytest.mark.parametrize("batch_size", [5, 64])
def test_every_item_has_the_value_that_lm_eval_logs(
    bench: Bench, harness: Harness, stock: dict, batch_size: int
) -> None:
    scorer = Scorer(bench.model, bench.tokenizer, harness, batch_size)
    outcomes = scorer.score({name: harness.items[name] for name in ADDITIVE}, "metric")
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
    both = {task for task, value in seen if (task, 1 - value) in seen}
    assert len(both) > 6, "most tasks must have items that are right and items that are wrong"


def test_the_mean_of_the_items_is_the_score_that_lm_eval_prints(
    bench: Bench, harness: Harness, stock: dict
) -> None:
    scorer = Scorer(bench.model, bench.tokenizer, harness)
    outcomes = scorer.score({name: harness.items[name] for name in ADDITIVE}, "metric")
    for name in ADDITIVE:
        metric = harness.metrics[name]
        mean = np.mean([outcome.metric for outcome in outcomes if outcome.task == name])
        assert mean == pytest.approx(stock["results"][name][f"{metric.name},{metric.filter}"])


def test_rolling_items_weighted_by_length_give_the_score_that_lm_eval_prints(
    bench: Bench, harness: Harness, stock: dict
) -> None:
    outcomes = Scorer(bench.model, bench.tokenizer, harness).score(
        {"rolling": harness.items["rolling"]}, "metric"
    )
    lengths = [len(sample["target"].encode()) for sample in stock["samples"]["rolling"]]
    mean = np.average([outcome.metric for outcome in outcomes], weights=lengths)
    assert mean == pytest.approx(stock["results"]["rolling"]["bits_per_byte,none"], abs=1e-5)


@pytest.mark.parametrize("task", ["choice", "choice_shots", "choice_mutual", "likelihood"])
def test_log_likelihoods_are_within_a_thousandth_of_lm_evals(
    bench: Bench, harness: Harness, task: str
) -> None:
    scorer = Scorer(bench.model, bench.tokenizer, harness)
    requests = [one for doc_id in harness.items[task] for one in harness.requests(task, doc_id)]
    theirs = stock_model(bench.model, bench.tokenizer, 64).loglikelihood(
        requests, disable_tqdm=True
    )
    plan = scorer._plan(scorer._checked({task: harness.items[task]}), "metric")
    ours = scorer._forward(plan.batches, plan.pairs)
    assert len(ours) == len(theirs)
    for mine, (total, is_greedy) in zip(ours, theirs, strict=True):
        assert mine.total == pytest.approx(total, abs=1e-3)
        assert mine.is_greedy == is_greedy


@pytest.mark.parametrize("task", ["write", "write_digit", "write_shots"])
def test_generated_texts_are_lm_evals(bench: Bench, harness: Harness, task: str) -> None:
    scorer = Scorer(bench.model, bench.tokenizer, harness, batch_size=6)
    asked: list[tuple[tuple[str, int], Request]] = [
        ((task, doc_id), harness.requests(task, doc_id)[0]) for doc_id in harness.items[task]
    ]
    ours = scorer._generate(asked)
    theirs = stock_model(bench.model, bench.tokenizer, 6).generate_until(
        [request for _, request in asked], disable_tqdm=True
    )
    assert [answer.text for answer in ours] == theirs
    assert len(set(theirs)) > 3
    assert {answer.truncated for answer in ours} == {True, False}
