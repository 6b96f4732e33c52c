"""Mistakes in task files and requests are answered in one line each."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from evomerge.core.errors import UserError
from evomerge.evaluate.tasks import lm_eval_api as door
from evomerge.evaluate.tasks.harness import Harness
from evomerge.evaluate.tasks.request import TaskRequest
from tests.evaluate.evaluation_bench import CHOICE, GENERATE, Bench, metrics, write_task


@pytest.fixture
def folder(llama: Bench, tmp_path: Path) -> Path:
    for name in ("documents.jsonl", "shots.jsonl"):
        (tmp_path / name).write_text((llama.folder / name).read_text())
    write_task(tmp_path, "choice", CHOICE + metrics("acc"))
    return tmp_path


@pytest.fixture
def no_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading lm-eval's own fourteen thousand task files takes ten seconds; here it has none."""
    real = door.TaskManager
    monkeypatch.setattr(
        door, "TaskManager", lambda include_path=None, **_: real(None, include_path, False)
    )


def refusal(tasks: list, folder: Path, **options: object) -> str:
    with pytest.raises(UserError) as refused:
        Harness.load(tasks, [folder], **options)  # type: ignore[arg-type]
    message = str(refused.value)
    assert "\n" not in message
    return message


@pytest.mark.usefixtures("no_built_in")
def test_an_unknown_task_names_the_nearest_and_the_folder(folder: Path) -> None:
    message = refusal(["choise"], folder)
    assert message.startswith("unknown task 'choise': did you mean 'choice'? known: choice (in ")
    assert str(folder) in message


@pytest.mark.usefixtures("no_built_in")
def test_an_unknown_task_in_a_folder_with_a_broken_file_names_that_file(folder: Path) -> None:
    (folder / "mine.yaml").write_text("task: mine\n  bad: [indent\n")
    message = refusal(["mine"], folder)
    assert f"{folder / 'mine.yaml'} is broken: " in message


def test_an_unknown_metric_lists_the_tasks_metrics(folder: Path) -> None:
    message = refusal([TaskRequest("choice", "acc_nrm")], folder)
    assert message == (
        f"unknown metric of task 'choice' ({folder / 'choice.yaml'}) 'acc_nrm': "
        "did you mean 'acc'? known: acc"
    )


def test_an_unknown_filter_lists_the_tasks_filters(llama: Bench) -> None:
    message = refusal([TaskRequest("write_digit", "exact_match,digits")], llama.folder)
    assert "filter of task 'write_digit'" in message
    assert "did you mean 'digit'? known: digit, plain" in message


def test_a_metric_of_the_whole_task_is_refused_and_others_offered(llama: Bench) -> None:
    message = refusal([TaskRequest("likelihood", "perplexity")], llama.folder)
    assert "metric 'perplexity' of task 'likelihood'" in message
    assert message.endswith("cannot be read off single documents; metrics that can: acc")


def test_a_task_asked_for_twice_is_refused(llama: Bench) -> None:
    assert refusal(["both", "choice"], llama.folder) == (
        "task 'choice' is asked for twice (once in 'choice')"
    )


def test_no_tasks_at_all_is_refused(folder: Path) -> None:
    assert refusal([], folder) == "expected at least one task to score, but `tasks` is empty"


def test_a_task_without_documents_is_refused(folder: Path) -> None:
    (folder / "empty.jsonl").write_text("")
    write_task(folder, "hollow", CHOICE + metrics("acc"), data="empty.jsonl")
    message = refusal(["hollow"], folder)
    reason = "has no documents: its data file is empty"
    assert message == f"task 'hollow' ({folder / 'hollow.yaml'}) {reason}"


def test_a_template_with_an_unknown_field_names_task_and_field(folder: Path) -> None:
    write_task(folder, "typo", GENERATE + 'doc_to_target: "{{anser}}"\n' + metrics("exact_match"))
    message = refusal(["typo"], folder)
    assert message.startswith(f"task 'typo' ({folder / 'typo.yaml'}) cannot be used: ")
    assert "'anser' is undefined" in message


def test_more_examples_than_there_are_is_refused(folder: Path) -> None:
    body = CHOICE + "training_split: train\nfewshot_split: train\n" + metrics("acc")
    write_task(folder, "shots", body)
    message = refusal([TaskRequest("shots", num_fewshot=50)], folder)
    assert message.startswith("task 'shots' ")


def test_a_file_that_names_a_function_is_refused_unless_allowed(folder: Path) -> None:
    witness = folder / "was_run"
    (folder / "my_code.py").write_text(
        f"open({str(witness)!r}, 'w').close()\n\ndef text(doc):\n    return doc['prompt']\n"
    )
    body = CHOICE + metrics("acc") + "description: !function my_code.text\n"
    write_task(folder, "coded", body.replace("description", "doc_to_decontamination_query"))
    message = refusal(["coded"], folder)
    assert message.startswith("task 'coded' runs code of its own ('!function my_code.text'")
    assert "`allow_task_code`" in message
    assert not witness.exists()
    Harness.load(["coded"], [folder], allow_task_code=True)
    assert witness.exists()
    sys.modules.pop(str(folder / "my_code"), None)


def test_code_in_a_member_of_a_group_is_refused(folder: Path) -> None:
    write_task(folder, "coded", CHOICE + metrics("acc") + "process_docs: !function u.f\n")
    (folder / "all.yaml").write_text("group: all\ntask: [choice, coded]\n")
    assert "task 'coded' runs code of its own" in refusal(["all"], folder)


def test_code_in_a_task_that_nobody_asked_for_is_no_obstacle(folder: Path) -> None:
    write_task(folder, "coded", CHOICE + metrics("acc") + "process_docs: !function u.f\n")
    assert list(Harness.load(["choice"], [folder]).items) == ["choice"]


def test_a_template_that_reaches_for_python_is_stopped(folder: Path) -> None:
    attack = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    body = GENERATE + f'doc_to_target: "{attack}"\n' + metrics("exact_match")
    write_task(folder, "attack", body)
    message = refusal(["attack"], folder)
    assert "unsafe template: access to attribute '__class__' of 'str' object is unsafe" in message
