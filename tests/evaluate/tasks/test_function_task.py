from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.core.errors import UserError
from evomerge.evaluate.outcomes import NonFiniteError
from evomerge.evaluate.scorer import Scorer
from evomerge.evaluate.tasks.harness import Harness
from evomerge.evaluate.tasks.request import TaskRequest
from tests.evaluate.evaluation_bench import Bench, make_model

MINE = """
import torch

def norm(model, tokenizer):
    return -model.get_input_embeddings().weight.norm()

def each(model, tokenizer, scale=1.0):
    return [scale * item for item in range(12)]

def chosen(model, tokenizer, items):
    logits = model(input_ids=torch.tensor([[1, 2, 3]])).logits[0, -1]
    return logits[items]

def short(model, tokenizer):
    return [1.0]

def words(model, tokenizer):
    return "good"

def broken(model, tokenizer):
    return [1.0] * 11 + [float("nan")]

def writes(model, tokenizer):
    model.get_input_embeddings().weight.mul_(2)
    return 1.0

def alone(model):
    return 1.0

number = 3
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path / "mine.py"


def scores(bench: Bench, function: str, items: int | None, asked: list[int], **more: Any) -> list:
    request = TaskRequest("mine", function=function, items=items)
    harness = Harness.load([request], tokenizer=bench.tokenizer, allow_task_code=True)
    model = more.get("model", bench.model)
    outcomes = Scorer(model, bench.tokenizer, harness).score({"mine": asked}, "smooth")
    assert all(outcome.smooth is None for outcome in outcomes)
    return [outcome.metric for outcome in outcomes]


def test_one_number_is_the_score_of_every_item(llama: Bench, mine: Path) -> None:
    norm = -float(llama.model.get_input_embeddings().weight.detach().norm())
    assert scores(llama, f"{mine}:norm", None, [0, 9]) == [norm, norm]


def test_a_score_of_each_item_is_found_by_the_items_number(llama: Bench, mine: Path) -> None:
    assert scores(llama, f"{mine}:each", 12, [7, 0, 11]) == [7.0, 0.0, 11.0]


def test_a_function_may_score_only_the_items_that_are_asked_for(llama: Bench, mine: Path) -> None:
    with torch.no_grad():
        logits = llama.model(input_ids=torch.tensor([[1, 2, 3]])).logits[0, -1]
    returned = scores(llama, f"{mine}:chosen", 20, [5, 2])
    assert returned == [float(logits[5]), float(logits[2])]


def test_functions_and_tasks_are_scored_together_in_the_order_asked(
    llama: Bench, mine: Path
) -> None:
    requests = [
        TaskRequest("first", function=f"{mine}:each", items=12, weight=0.5),
        TaskRequest("choice"),
        TaskRequest("last", function=f"{mine}:norm"),
    ]
    harness = Harness.load(requests, [llama.folder], allow_task_code=True)
    described = harness.describe()
    assert described["weights"] == {"choice": 1.0, "first": 0.5, "last": 1.0}
    assert described["output_types"]["first"] == "function"
    assert described["metrics"]["first"]["higher_is_better"] is True
    assert [w for w in harness.warnings if "'last'" in w and "gives one number" in w]
    items = {"first": [3], "choice": [1, 0], "last": [2]}
    outcomes = Scorer(llama.model, llama.tokenizer, harness).score(items, "metric")
    assert [(o.task, o.doc_id) for o in outcomes] == [
        ("first", 3), ("choice", 1), ("choice", 0), ("last", 2)
    ]  # fmt: skip
    assert outcomes[0].metric == 3.0


def test_a_module_that_python_finds_can_be_named(
    llama: Bench, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(mine.parent))
    mine.rename(mine.with_name("mine_as_module.py"))
    assert scores(llama, "mine_as_module:each", 12, [4]) == [4.0]
    sys.modules.pop("mine_as_module")


def test_the_functions_source_is_part_of_the_protocol(llama: Bench, mine: Path) -> None:
    def digest() -> str:
        request = TaskRequest("mine", function=f"{mine}:norm")
        return Harness.load([request], tokenizer=llama.tokenizer, allow_task_code=True).digest

    first = digest()
    assert digest() == first
    mine.write_text(MINE + "# a word more\n")
    assert digest() != first


def test_code_is_not_even_imported_unless_allowed(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nf = print\n")
    with pytest.raises(UserError, match=r"task 'mine' runs code of its own .*`allow_task_code`"):
        Harness.load([TaskRequest("mine", function=f"{tmp_path / 'evil.py'}:f")])
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("function", "items", "message"),
    [
        ("short", 12, "expected 12 numbers from its function, got 1"),
        ("words", 12, "expected 12 numbers from its function, got str of 'good'"),
        ("each", None, "expected one number from its function, got list; for a score of each item"),
        ("writes", None, "its function changed the model's weights"),
        ("alone", None, r"expected alone\(model, tokenizer\), or with `items`"),
        ("chosen", None, r"expected chosen\(model, tokenizer\), or with `items`"),
        ("nowhere", None, "mine.py has no function 'nowhere'"),
        ("number", None, "mine.py has no function 'number'"),
    ],
)
def test_a_function_that_does_not_fit_is_refused_in_one_line(
    llama: Bench, mine: Path, function: str, items: int | None, message: str
) -> None:
    model = make_model("llama", seed=3)
    with pytest.raises(UserError, match=message) as refused:
        scores(llama, f"{mine}:{function}", items, [0], model=model)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module_here:f", "cannot import no_such_module_here: ModuleNotFoundError"),
        ("missing.py:f", "missing.py: there is no such file"),
        ("mine.py", "expected `function` as file.py:function or module:function"),
    ],
)
def test_a_function_that_is_not_there_is_refused_in_one_line(
    llama: Bench, path: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        scores(llama, path, None, [0])


def test_a_score_that_is_not_finite_fails_the_candidate_and_names_the_item(
    llama: Bench, mine: Path
) -> None:
    with pytest.raises(NonFiniteError, match="task 'mine', document 11"):
        scores(llama, f"{mine}:broken", 12, [3, 11])
    assert scores(llama, f"{mine}:broken", 12, [3]) == [1.0]
