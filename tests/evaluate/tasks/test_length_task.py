"""The length of answers is a task of its own: counted in tokens, fewer is better."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from evomerge.core.errors import UserError
from evomerge.evaluate.scorer import Scorer
from evomerge.evaluate.tasks.harness import Harness
from evomerge.evaluate.tasks.lm_eval_api import stock_model, whole_answers
from evomerge.evaluate.tasks.request import TaskRequest
from tests.evaluate.evaluation_bench import Bench

TASKS = [TaskRequest("write"), TaskRequest("length", tokens_of="write", weight=0.0)]
LIMIT = 12  # of the bench's task


@pytest.fixture(scope="module")
def harness(bench: Bench) -> Harness:
    return Harness.load(TASKS, [bench.folder], tokenizer=bench.tokenizer)


def counted(bench: Bench, harness: Harness, doc_id: int) -> int:
    """What transformers' own loop writes before its end token or a stop string, in tokens."""
    (request,) = harness.requests("write", doc_id)
    prompt, settings = request.args
    tokens = torch.tensor([bench.tokenizer(prompt)["input_ids"]])
    written = bench.model.generate(
        tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=LIMIT
    )[0, tokens.shape[1] :].tolist()
    for count in range(1, len(written) + 1):
        if written[count - 1] == bench.tokenizer.eos_token_id:
            return count - 1
        text = bench.tokenizer.decode(written[:count], skip_special_tokens=True)
        if any(stop in text for stop in settings["until"]):
            return count
    return len(written)


def test_tokens_are_those_that_transformers_writes(bench: Bench, harness: Harness) -> None:
    rows = Scorer(bench.model, bench.tokenizer, harness).score(
        {"length": harness.items["length"][:20]}, "metric"
    )
    assert [row.metric for row in rows] == [counted(bench, harness, i) for i in range(20)]
    assert len({row.metric for row in rows}) > 1
    assert all(row.smooth is None and not row.degenerate for row in rows)


@pytest.mark.parametrize("score_kind", ["smooth", "metric"])
def test_the_measured_task_scores_as_it_does_alone_and_its_answers_are_written_once(
    bench: Bench, harness: Harness, score_kind: Any
) -> None:
    items = {"write": [3, 1, 20], "length": [20, 3, 7]}
    scorer = Scorer(bench.model, bench.tokenizer, harness)
    rows = scorer.score(items, score_kind)
    alone = Scorer(bench.model, bench.tokenizer, harness)
    assert rows[:3] == alone.score({"write": [3, 1, 20]}, score_kind)
    assert rows[3:] == alone.score({"length": [20, 3, 7]}, score_kind)
    (plan,) = scorer._plans.values()
    assert len(plan.prompts.requests) == (3 if score_kind == "smooth" else 4)


def test_lm_evals_own_loop_counts_the_tokens_of_its_text(bench: Bench, harness: Harness) -> None:
    model = copy.deepcopy(bench.model)
    model.generation_config.suppress_tokens = []  # which our loop does not know
    rows = Scorer(model, bench.tokenizer, harness).score(
        {"length": list(range(20)), "write": list(range(20))}, "metric"
    )
    shown = Scorer(model, bench.tokenizer, harness).written({"write": list(range(20))})
    texts = {item.doc_id: item.written for item in shown}
    for row in rows[:20]:
        assert row.metric == len(
            bench.tokenizer.encode(texts[row.doc_id], add_special_tokens=False)
        )


def test_thinking_is_counted_though_lm_eval_drops_it_from_the_answer(llama: Bench) -> None:
    from lm_eval.models import huggingface

    before = huggingface.postprocess_generated_text
    with whole_answers():
        answer = huggingface.postprocess_generated_text(
            "let me see </think> 42\nmore", ["\n"], "</think>"
        )
        plain = huggingface.postprocess_generated_text("42\nmore", ["\n"], None)
        endless = huggingface.postprocess_generated_text("let me", ["\n"], "</think>")
    assert huggingface.postprocess_generated_text is before
    assert (answer, answer.whole) == ("42", "let me see </think>42")
    assert (plain, plain.whole) == ("42", "42")
    assert (endless, endless.whole) == ("let me", "let me")
    stock = stock_model(llama.model, llama.tokenizer, 4, {"think_end_token": "a"})
    assert stock.think_end_token == "a"


def test_the_task_has_the_documents_and_the_bounds_of_the_one_it_measures(harness: Harness) -> None:
    described = harness.describe()
    assert described["items"]["length"] == described["items"]["write"]
    assert described["item_keys"]["length"] == described["item_keys"]["write"]
    assert described["metrics"]["length"] == {
        "name": "tokens",
        "filter": "none",
        "higher_is_better": False,
        "bounds": [0.0, float(LIMIT)],
    }
    assert described["output_types"]["length"] == "answer_tokens"


def test_a_gradient_is_taken_of_the_other_tasks_and_lengths_are_counted(
    bench: Bench, harness: Harness
) -> None:
    from evomerge.evaluate.gradient.backward import weight_gradients

    weights = {"write": 0.5, "length": 0.0}
    gradients = []
    for items in ({"write": [3, 1]}, {"length": [5], "write": [3, 1]}):
        scorer = Scorer(bench.model, bench.tokenizer, harness)
        with weight_gradients(bench.model):
            rows, loss = scorer.backward(items, "answers", weights)
            one = next(p.grad for p in bench.model.parameters() if p.grad is not None)
            gradients.append((loss, one.clone()))
    assert [(row.task, row.doc_id) for row in rows] == [("length", 5), ("write", 3), ("write", 1)]
    assert gradients[0][0] == gradients[1][0]
    assert torch.equal(gradients[0][1], gradients[1][1])


def test_a_task_without_answers_cannot_be_measured(llama: Bench) -> None:
    def load(source: str) -> None:
        tasks = [TaskRequest("write"), TaskRequest("choice"), TaskRequest("l", tokens_of=source)]
        Harness.load(tasks, [llama.folder], tokenizer=llama.tokenizer)

    with pytest.raises(UserError, match=r"tokens_of: 'choice' has no answers to measure"):
        load("choice")
    with pytest.raises(UserError, match=r"task 'l': tokens_of: .*'writ'.*write"):
        load("writ")
