"""Losses by hand, their gradient by differences, and memory that runs out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from evomerge.core.errors import UserError
from evomerge.evaluate.gradient.backward import NoRoomError, weight_gradients
from evomerge.evaluate.gradient.losses import FUNCTIONS
from evomerge.evaluate.likelihood.batches import make_batches
from evomerge.evaluate.likelihood.likelihood import Forward
from evomerge.evaluate.outcomes import NonFiniteError
from evomerge.evaluate.scorer import Scorer
from evomerge.evaluate.tasks.encode import Encoder
from evomerge.evaluate.tasks.harness import Harness
from evomerge.evaluate.tasks.lm_eval_api import stock_model
from tests.evaluate.evaluation_bench import (
    GENERATE,
    Bench,
    answers,
    make_model,
    metrics,
    write_task,
)

NAMES = ["choice", "choice_norm", "choice_mutual", "likelihood", "write", "write_any", "rolling"]
ITEMS = {name: [0, 3, 5] for name in NAMES}
WEIGHTS = dict.fromkeys(NAMES, 1 / 21)


@pytest.fixture(scope="module")
def harness(bench: Bench) -> Harness:
    return Harness.load(NAMES, [bench.folder], tokenizer=bench.tokenizer)


def scorer_of(bench: Bench, harness: Harness, model: Any = None, batch_size: int = 16) -> Scorer:
    return Scorer(model or bench.model, bench.tokenizer, harness, batch_size)


def gradient_of(scorer: Scorer, model: Any, items: Any, loss: str) -> tuple[float, list[Any]]:
    with weight_gradients(model):
        _, value = scorer.backward(items, loss, WEIGHTS)
        return value, [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("loss", sorted(FUNCTIONS))
def test_the_gradient_is_the_difference_of_the_loss(
    bench: Bench, harness: Harness, loss: str
) -> None:
    model = copy.deepcopy(bench.model).double()  # logits are read in float32 all the same
    scorer = scorer_of(bench, harness, model)
    _, gradients = gradient_of(scorer, model, ITEMS, loss)
    norm = float(torch.sqrt(sum((g**2).sum() for g in gradients)))
    assert norm > 1e-4
    step = 2e-4  # so small that the model writes the same answers at both ends
    ends = []
    start = [p.detach().clone() for p in model.parameters()]
    for sign in (1, -1):
        with torch.no_grad():
            for p, s, g in zip(model.parameters(), start, gradients, strict=True):
                p.copy_(s + sign * step * g / norm)
        ends.append(gradient_of(scorer, model, ITEMS, loss)[0])
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(norm, rel=1e-2)


def test_a_written_answer_s_loss_is_the_cross_entropy_a_token_of_the_likeliest_right_one(
    bench: Bench, harness: Harness
) -> None:
    encoder = Encoder(stock_model(bench.model, bench.tokenizer, 64), harness)
    scorer = scorer_of(bench, harness)
    for task in ("write", "write_any"):
        for i in ITEMS[task]:
            pairs = encoder.golds((task, i))
            batches = make_batches(pairs, 64, 128, "cpu")
            of_tokens = [one.log_probabilities for one in Forward(bench.model)(batches, pairs)]
            expected = min(-float(logs.mean()) for logs in of_tokens)
            value, _ = gradient_of(scorer, bench.model, {task: [i]}, "answers")
            assert value * 21 == pytest.approx(expected, rel=1e-5)


def test_a_choice_s_loss_is_the_cross_entropy_of_its_choices(
    bench: Bench, harness: Harness
) -> None:
    model, scorer = bench.model, scorer_of(bench, harness)
    encoder = Encoder(stock_model(model, bench.tokenizer, 64), harness)
    for i in ITEMS["choice"]:
        requests = harness.requests("choice", i)
        pairs = [pair for request in requests for pair in encoder.pairs(("choice", i), request)]
        totals = []
        for pair in pairs:  # one at a time by the model itself
            tokens = torch.tensor([[*pair.context, *pair.continuation]])
            with torch.no_grad():
                logs = model(tokens).logits[0].log_softmax(-1)
            first = len(pair.context) - 1
            totals.append(sum(logs[first + k, t] for k, t in enumerate(pair.continuation)))
        (right,) = harness.choices("choice", i).golds
        expected = -torch.stack(totals).log_softmax(0)[right]
        value, _ = gradient_of(scorer, model, {"choice": [i]}, "answers")
        assert value * 21 == pytest.approx(float(expected), rel=1e-4, abs=1e-6)


def test_entropy_is_that_of_what_the_model_writes_token_by_token(
    bench: Bench, harness: Harness
) -> None:
    model, scorer = bench.model, scorer_of(bench, harness)
    for i in ITEMS["write"]:
        ((answer,), (request,)) = (
            answers(bench, harness, [("write", i)]),
            harness.requests("write", i),
        )
        prompt = bench.tokenizer(request.args[0])["input_ids"]
        tokens = [*prompt, *bench.tokenizer(answer.text, add_special_tokens=False)["input_ids"]]
        with torch.no_grad():
            logs = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
        entropies = -(logs.exp() * logs).sum(-1)[
            len(prompt) - 1 : max(len(tokens) - 1, len(prompt))
        ]
        value, _ = gradient_of(scorer, model, {"write": [i]}, "entropy")
        assert value * 21 == pytest.approx(float(entropies.mean()), rel=1e-4)
    with weight_gradients(model):
        rows, _ = scorer.backward({"write": ITEMS["write"]}, "entropy", WEIGHTS)
    assert rows == scorer.score({"write": ITEMS["write"]}, "metric")


def test_scores_on_the_way_are_the_smooth_scores(bench: Bench, harness: Harness) -> None:
    scorer = scorer_of(bench, harness)
    with weight_gradients(bench.model):
        rows, _ = scorer.backward(ITEMS, "answers", WEIGHTS)
    for ours, plain in zip(rows, scorer.score(ITEMS, "smooth"), strict=True):
        assert (ours.task, ours.doc_id) == (plain.task, plain.doc_id)
        assert ours.smooth == pytest.approx(plain.smooth, abs=2e-4)
        assert ours.metric == (
            plain.metric if plain.metric is None else pytest.approx(plain.metric, rel=1e-4)
        )


def test_one_row_at_a_time_gives_the_same_gradient(bench: Bench, harness: Harness) -> None:
    value, gradients = gradient_of(scorer_of(bench, harness), bench.model, ITEMS, "answers")
    alone, others = gradient_of(
        scorer_of(bench, harness, batch_size=1), bench.model, ITEMS, "answers"
    )
    assert alone == pytest.approx(value, rel=1e-5)
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


class Small:
    """A model whose memory holds so many rows; counts how often it did not."""

    def __init__(self, model: Any, rows: int) -> None:
        self.refused, self.rows = 0, rows
        self.model = copy.deepcopy(model)
        self.model.register_forward_pre_hook(self._check, with_kwargs=True)

    def _check(self, _: Any, __: Any, arguments: dict[str, Any]) -> None:
        if len(arguments["input_ids"]) > self.rows:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_when_memory_runs_out_rows_are_halved_and_the_gradient_is_the_same(
    bench: Bench, harness: Harness
) -> None:
    small = Small(bench.model, 8)  # a choice's eight rows stay together
    scorer = scorer_of(bench, harness, small.model, batch_size=32)
    value, gradients = gradient_of(scorer, small.model, ITEMS, "answers")
    assert small.refused == 2  # 32, 16
    gradient_of(scorer, small.model, ITEMS, "answers")
    assert small.refused == 2  # it remembers
    expected, plain = gradient_of(scorer_of(bench, harness), bench.model, ITEMS, "answers")
    assert value == pytest.approx(expected, rel=1e-5)
    for one, other in zip(gradients, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_an_item_that_does_not_fit_by_itself_is_an_error(bench: Bench, harness: Harness) -> None:
    small = Small(bench.model, 0)
    scorer = scorer_of(bench, harness, small.model)
    with weight_gradients(small.model), pytest.raises(NoRoomError, match=r"2\.00 GiB"):
        scorer.backward({"write": [0]}, "answers", WEIGHTS)


def test_broken_logits_name_the_item(bench: Bench, harness: Harness) -> None:
    model = copy.deepcopy(bench.model)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with weight_gradients(model), pytest.raises(NonFiniteError, match="write"):
        scorer_of(bench, harness, model).backward({"write": [3]}, "answers", WEIGHTS)


def test_an_item_without_a_right_answer_is_refused_with_the_remedy(llama: Bench) -> None:
    body = GENERATE + "doc_to_target: gold\n" + metrics("exact_match")
    body = body.replace("doc_to_target: gold", 'doc_to_target: ""')
    write_task(llama.folder, "write_free", body)
    harness = Harness.load(["write_free"], [llama.folder], tokenizer=llama.tokenizer)
    scorer = Scorer(llama.model, llama.tokenizer, harness)
    with weight_gradients(llama.model), pytest.raises(UserError, match="no right answer"):
        scorer.backward({"write_free": [0]}, "answers", {"write_free": 1.0})


def test_a_gradient_needs_no_more_than_the_weights_of_a_model_in_use() -> None:
    model = make_model("llama", 0)
    with weight_gradients(model):
        assert all(p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in model.parameters())
