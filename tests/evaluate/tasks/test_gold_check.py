from __future__ import annotations

import json
from pathlib import Path

import pytest

from evomerge.core.errors import UserError
from evomerge.evaluate.scorer import Scorer
from evomerge.evaluate.tasks.harness import Harness
from evomerge.evaluate.tasks.request import TaskRequest
from tests.evaluate.evaluation_bench import (
    CHOICE,
    FEWSHOT,
    GENERATE,
    TASKS,
    Bench,
    metrics,
    write_task,
)

LIKELIHOOD = 'output_type: loglikelihood\ndoc_to_target: "{{answer}}"\n' + metrics("acc")
WRITE = GENERATE + 'doc_to_target: "{{answer}}"\n' + metrics("exact_match")


def checked(bench: Bench, folder: Path, body: str, documents: list[dict]) -> list[str]:
    """The warnings about a task of these documents."""
    for name in ("own.jsonl", "shots.jsonl"):
        (folder / name).write_text("".join(json.dumps(one) + "\n" for one in documents))
    write_task(folder, "own", body, data="own.jsonl")
    harness = Harness.load(["own"], [folder])
    return [*harness.warnings, *Scorer(bench.model, bench.tokenizer, harness).check()]


def document(**fields: object) -> dict:
    plain = {"prompt": "item:", "answer": "abc", "choices": ["abc", "xyz"], "gold": 0}
    return {**plain, **fields}


def test_tasks_as_they_should_be_are_passed_over_in_silence(llama: Bench) -> None:
    names = [name for name in TASKS if name != "write_digit"]  # its documents lack no gold either
    harness = Harness.load(names, [llama.folder])
    assert Scorer(llama.model, llama.tokenizer, harness).check() == []


@pytest.mark.parametrize("gold", [-1, 2, "abd"])
def test_a_label_that_is_no_choice_is_a_missing_gold(
    llama: Bench, tmp_path: Path, gold: object
) -> None:
    body = CHOICE.replace("doc_to_target: gold", 'doc_to_target: "{{gold}}"') + metrics("acc")
    documents = [document(gold=0), document(gold=gold), document(gold=1)]
    with pytest.raises(UserError, match=r"task 'own': 1 of 3 documents \(1\) has no gold"):
        checked(llama, tmp_path, body, documents)


@pytest.mark.parametrize("body", [WRITE, LIKELIHOOD])
def test_an_empty_answer_among_others_is_a_missing_gold(
    llama: Bench, tmp_path: Path, body: str
) -> None:
    documents = [document(), document(answer=""), document(answer=" ")]
    with pytest.raises(UserError, match=r"task 'own': 2 of 3 documents \(1, 2\) have no gold"):
        checked(llama, tmp_path, body, documents)


def test_a_generation_task_without_any_gold_is_scored_by_its_metric(
    llama: Bench, tmp_path: Path
) -> None:
    assert checked(llama, tmp_path, WRITE, [document(answer="")] * 3) == [
        "task 'own': no gold text to measure a likelihood of, so its smooth score is its metric"
    ]


def test_a_limit_shorter_than_the_answers_is_refused(llama: Bench, tmp_path: Path) -> None:
    short = WRITE.replace("max_gen_toks: 12", "max_gen_toks: 3")
    documents = [document(), document(answer="abcd"), document(answer="abcde")]
    with pytest.raises(UserError) as refused:
        checked(llama, tmp_path, short, documents)
    assert str(refused.value) == (
        "task 'own': 2 of 3 documents (1, 2) have a right answer longer than the 3 tokens that "
        "`max_gen_toks` allows (document 1: 4); raise it in the task file"
    )


def test_a_limit_shorter_than_a_few_answers_is_a_warning(llama: Bench, tmp_path: Path) -> None:
    short = WRITE.replace("max_gen_toks: 12", "max_gen_toks: 3")
    (warning,) = checked(llama, tmp_path, short, [document()] * 19 + [document(answer="abcd")])
    assert warning.startswith("task 'own': 1 of 20 documents (19) has a right answer longer")


def test_one_short_spelling_of_an_answer_is_enough(llama: Bench, tmp_path: Path) -> None:
    short = WRITE.replace("max_gen_toks: 12", "max_gen_toks: 3").replace(
        "{{answer}}", "{{answers}}"
    )
    assert checked(llama, tmp_path, short, [document(answers=["abcdef", "abc"])] * 3) == []


def test_a_stop_string_inside_the_answer_is_refused(llama: Bench, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"2 of 3 documents \(0, 2\) have a stop string .*'\.'"):
        checked(llama, tmp_path, WRITE, [document(answer="a.b"), document(), document(answer=".c")])


def test_examples_from_the_scored_documents_are_warned_about(llama: Bench, tmp_path: Path) -> None:
    body = CHOICE + FEWSHOT.replace("split: train", "split: test") + metrics("acc")
    documents = [document(prompt=f"item {i}:") for i in range(9)]
    warnings = [
        text for text in checked(llama, tmp_path, body, documents) if "very documents" in text
    ]
    assert len(warnings) == 1
    usual = Harness.load([TaskRequest("choice_shots")], [llama.folder])
    assert not [text for text in usual.warnings if "very documents" in text]


def test_right_answers_that_the_task_itself_gives_no_points_are_warned_about(
    llama: Bench, tmp_path: Path
) -> None:
    """A model writes the blank before its answer, and exact_match counts it, unless it is cut."""
    spaced = WRITE.replace('target_delimiter: ""', 'target_delimiter: " "')
    (warning,) = checked(llama, tmp_path, spaced, [document()] * 3)
    assert warning == (
        "task 'own': its right answers score 0 by exact_match through its filter 'none': a model "
        "writes ' abc' (document 0), and only 'abc' counts; they differ in blanks: put the filter "
        "remove_whitespace first in the task's filter_list"
    )
    filters = "filter_list: [{name: cut, filter: [{function: remove_whitespace}, %s]}]\n"
    mended = spaced + filters % "{function: take_first}"
    assert checked(llama, tmp_path, mended, [document()] * 3) == []


def test_right_answers_that_a_filter_does_not_find_are_warned_about(
    llama: Bench, tmp_path: Path
) -> None:
    lost = WRITE + (
        "filter_list: [{name: found, filter: [{function: regex, regex_pattern: '(z+)'}, "
        "{function: take_first}]}]\n"
    )
    (warning,) = checked(llama, tmp_path, lost, [document()] * 3)
    assert "through its filter 'found' (such as 'abc', document 0)" in warning
    assert "nobody can score there" in warning
    documents = [document(), document(answer="zz"), document()]
    assert checked(llama, tmp_path, lost, documents) == []  # one that counts is enough
