"""Tasks of preferences: read, scored by which answer is likelier, and the loss of them."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.core.errors import UserError
from evomerge.evaluate.gradient.backward import weight_gradients
from evomerge.evaluate.scorer import Scorer
from evomerge.evaluate.tasks.harness import Harness
from evomerge.evaluate.tasks.preference_task import read_preferences
from evomerge.evaluate.tasks.request import TaskRequest
from tests.evaluate.evaluation_bench import Bench, make_model

ROWS = [
    {"prompt": "ask: ", "chosen": "no.", "rejected": "yes, here"},
    {"prompt": "say a word", "chosen": " good day", "rejected": " bad"},
    {"prompt": "q?", "chosen": "i can not", "rejected": "i can"},
]
ITEMS = {"safe": [0, 1, 2]}


@pytest.fixture(scope="module")
def harness(llama: Bench, tmp_path_factory: pytest.TempPathFactory) -> Harness:
    file = tmp_path_factory.mktemp("preferences") / "safe.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return Harness.load([TaskRequest("safe", preferences=file)], tokenizer=llama.tokenizer)


def margins(llama: Bench, model: Any) -> list[float]:
    """How much likelier each chosen answer is, in nats, by the model alone."""
    result = []
    for row in ROWS:
        totals = []
        for answer in (row["chosen"], row["rejected"]):
            prompt = llama.tokenizer(row["prompt"])["input_ids"]
            tokens = llama.tokenizer(row["prompt"] + answer)["input_ids"]
            with torch.no_grad():
                logs = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
            places = range(len(prompt), len(tokens))
            totals.append(sum(float(logs[i - 1, tokens[i]]) for i in places))
        result.append(totals[0] - totals[1])
    return result


def test_the_metric_says_whether_the_chosen_answer_is_likelier(
    llama: Bench, harness: Harness
) -> None:
    rows = Scorer(llama.model, llama.tokenizer, harness).score(ITEMS, "metric")
    assert [row.metric for row in rows] == [float(m > 0) for m in margins(llama, llama.model)]
    assert harness.describe()["metrics"]["safe"]["name"] == "acc"
    assert harness.preferences == {"safe"}


def test_the_loss_is_that_of_direct_preference_optimisation(llama: Bench, harness: Harness) -> None:
    model = copy.deepcopy(llama.model)
    scorer = Scorer(model, llama.tokenizer, harness)
    base = make_model("llama", 5)
    own = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        for name, p in base.named_parameters():
            model.get_parameter(name).copy_(p)
    assert scorer.without_reference(ITEMS) == [("safe", i) for i in range(3)]
    scorer.refer(scorer.without_reference(ITEMS))
    assert scorer.without_reference(ITEMS) == []
    with weight_gradients(model):
        _, at_base = scorer.backward(ITEMS, "dpo", {"safe": 1 / 3})
    assert at_base == pytest.approx(math.log(2), rel=1e-5)  # σ(0)
    with torch.no_grad():
        for name, value in own.items():
            model.get_parameter(name).copy_(value)
    differences = zip(margins(llama, llama.model), margins(llama, base), strict=True)
    expected = sum(math.log1p(math.exp(-0.1 * (ours - theirs))) for ours, theirs in differences) / 3
    with weight_gradients(model):
        _, loss = scorer.backward(ITEMS, "dpo", {"safe": 1 / 3})
    assert loss == pytest.approx(expected, rel=1e-5)
    assert loss != pytest.approx(at_base, rel=1e-4)


def test_its_gradient_is_the_difference_of_the_loss(llama: Bench, harness: Harness) -> None:
    model = copy.deepcopy(llama.model).double()
    scorer = Scorer(model, llama.tokenizer, harness)
    scorer.refer(scorer.without_reference(ITEMS))
    start = [p.detach().clone() for p in model.parameters()]
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():  # away from the reference
        for p, s in zip(model.parameters(), start, strict=True):
            p.add_(0.05 * torch.randn(s.shape, generator=draw, dtype=s.dtype))
    start = [p.detach().clone() for p in model.parameters()]

    def loss_and_gradient() -> tuple[float, list[torch.Tensor]]:
        with weight_gradients(model):
            _, value = scorer.backward(ITEMS, "dpo", {"safe": 1 / 3})
            return value, [p.grad.clone() for p in model.parameters()]

    _, gradients = loss_and_gradient()
    norm = float(torch.sqrt(sum((g**2).sum() for g in gradients)))
    assert norm > 1e-4
    ends, step = [], 1e-3
    for sign in (1, -1):
        with torch.no_grad():
            for p, s, g in zip(model.parameters(), start, gradients, strict=True):
                p.copy_(s + sign * step * g / norm)
        ends.append(loss_and_gradient()[0])
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(norm, rel=1e-2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it is empty"),
        ("nonsense\n", "line 1: expected JSON"),
        ('{"prompt": "a", "chosen": "b"}\n', "expected texts under prompt, chosen, rejected"),
        ('\n{"prompt": "a", "chosen": "b", "rejected": "b"}\n', "line 2: .*another rejected"),
        ('{"prompt": "a", "chosen": "", "rejected": "b"}\n', "neither empty"),
        ("[1]\n", "expected texts under"),
    ],
)
def test_a_line_that_is_no_preference_is_named(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        read_preferences(file)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the preferences"):
        read_preferences(tmp_path / "none.jsonl")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="expected UTF-8"):
        read_preferences(tmp_path / "bytes")
