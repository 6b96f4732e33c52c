"""`check` refuses an evaluation that cannot work; a study runs on a text and a function."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run
from tests.cli.test_mistakes import assert_refused
from tests.study.small_study import WORDS

StudyFile = Callable[..., Path]
pytestmark = pytest.mark.usefixtures("real_workers")


def edited(study: Path, task: str, name: str, *changes: tuple[str, str]) -> None:
    """A copy of a task file under another name, with words replaced."""
    folder = study.parent / "tasks"
    text = (folder / f"{task}.yaml").read_text().replace(f"task: {task}", f"task: {name}")
    text = re.sub(r'"[^"]*/documents\.jsonl"', f'"{folder / "documents.jsonl"}"', text)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / f"{name}.yaml").write_text(text)


@pytest.mark.parametrize(
    ("evaluate", "words"),
    [
        (
            {"tasks": [{"name": "small_choice", "metric": "accc"}]},
            ["unknown metric of task 'small_choice'", "'accc'", "did you mean 'acc'"],
        ),
        (
            {"tasks": [{"name": "small_write", "metric": "exact_match,trimm"}]},
            ["unknown filter of task 'small_write'", "'trimm'", "did you mean 'trim'"],
        ),
        ({"tasks": ["few"]}, ["task few: its 2 items", "leave the pool 'race' empty"]),
        ({"tasks": ["unlabelled"]}, ["task 'unlabelled': 13 of 50 documents", "no gold"]),
        ({"tasks": ["short"]}, ["task 'short'", "longer than the 1 tokens", "max_gen_toks"]),
        (
            {"items": {"search": 0.5, "race": 0.3, "holdout": 0.3}},
            ["evaluate.items", "or the pools would overlap"],
        ),
        (
            {"tasks": [{"name": "mine", "function": "mine.py:f"}]},
            ["evaluate.tasks[0].function", "evaluate.allow_task_code: true"],
        ),
        (
            {"tasks": [{"name": "mine", "function": "mine.py:f"}], "allow_task_code": True},
            ["task 'mine'", "expected one number", "got str"],
        ),
        ({"tasks": [{"name": "prose", "text": "no.txt"}]}, ["prose: there is no file", "no.txt"]),
        ({"tasks": [{"name": "prose", "text": "blank.txt"}]}, ["blank.txt: expected a text"]),
    ],
)
def test_check_names_in_one_line_a_task_that_cannot_be_scored(
    evomerge: Run, small_study: StudyFile, evaluate: dict[str, Any], words: list[str]
) -> None:
    study = small_study(evaluate=evaluate)
    home, folder = study.parent, study.parent / "tasks"
    lines = (folder / "documents.jsonl").read_text().splitlines()
    documents = [json.loads(line) for line in lines]
    for number, document in enumerate(documents):
        document["gold"] = -1 if number % 4 == 0 else document["gold"]
        document["answer"] = " ".join(WORDS[:3])
    for name, rows in (("few.jsonl", documents[:2]), ("odd.jsonl", documents)):
        (folder / name).write_text("".join(json.dumps(one) + "\n" for one in rows))
    edited(study, "small_write", "few", ("documents.jsonl", "few.jsonl"), ("toks: 1", "toks: 9"))
    edited(study, "small_choice", "unlabelled", ("documents.jsonl", "odd.jsonl"))
    edited(study, "small_write", "short", ("documents.jsonl", "odd.jsonl"))
    (home / "mine.py").write_text("def f(model, tokenizer):\n    return 'good'\n")
    (home / "blank.txt").write_text("\n\n")
    assert_refused(evomerge("check", study), *words)


def test_a_text_and_functions_are_searched_raced_and_judged_like_tasks(
    evomerge: Run, small_study: StudyFile, tmp_path: Path
) -> None:
    tasks = [
        {"name": "prose", "text": "prose.txt", "chunk_bytes": 40},
        {"name": "size", "function": "mine.py:size", "weight": 0.1},
        {"name": "small_choice", "weight": 0.5},
        {"name": "each", "function": "mine.py:each", "items": 24, "weight": 0.1},
    ]
    study = small_study(
        evaluate={"tasks": tasks, "allow_task_code": True, "items": {"per_generation": 6}}
    )
    lines = [" ".join(WORDS[(i * k) % len(WORDS)] for k in range(1, 9)) for i in range(40)]
    (study.parent / "prose.txt").write_text("\n".join(lines) + "\n")
    (study.parent / "mine.py").write_text(
        "def size(model, tokenizer):\n"
        "    return -model.get_input_embeddings().weight.norm()\n\n"
        "def each(model, tokenizer, items):\n"
        "    return [float(model.get_input_embeddings().weight[i].sum()) for i in items]\n"
    )
    result = evomerge("check", study)
    assert result.code == 0, result.err
    assert "tasks      prose, small_choice, size, each\n" in result.out
    assert "task 'size': its function gives one number" in result.out
    run = tmp_path / "run"
    result = evomerge("search", study, run)
    assert result.code == 0, result.err
    verdict = json.loads((run / "verdict.json").read_text())
    assert set(verdict["scores"]["winner"]) == {"prose", "size", "small_choice", "each"}
    assert 0 < verdict["scores"]["winner"]["prose"] < 20
    assert "--tasks small_choice " in verdict["reproduce"]
    assert verdict["reproduce"].endswith("since they are not lm_eval's: each, prose, size")
    assert evomerge("search", study, run).code == 0  # resumes: the protocol is the same
