"""The task files as lm-eval reads them, against answers computed another way."""

import json

import pytest

from evomerge.demo.problems import SKILLS, is_reserved
from evomerge.demo.tasks import DOCUMENTS, FORMS, TASKS, documents, write_tasks

NUMBER = {numeral: str(value) for value, numeral in enumerate("〇一二三四五六七八九")}
WORD = {"写": "copy ", "回": "rotate ", "逆": "reverse ", "整": "sort ", "大": "max "}


def _answer(task, prompt):
    """The answer to a prompt, from text alone."""
    command = "".join({**NUMBER, **WORD, "→": "="}.get(letter, letter) for letter in prompt)
    word, rest = command.rstrip("=").split(" ")
    if word == "max":
        result = str(max(map(int, rest.split(",")))).zfill(3)
    else:
        result = {"reverse": rest[::-1], "sort": "".join(sorted(rest))}[word]
    if task == "ja":
        return command.rstrip("=")
    return command + result if task.startswith("ja_") else result


def _digits(prompt):
    return tuple(int(NUMBER.get(x, x)) for x in prompt if x.isdigit() or x in NUMBER)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    write_tasks(folder, folder)
    return folder


@pytest.mark.parametrize("task", TASKS)
def test_every_document_is_distinct_unseen_and_rightly_answered(task):
    made = documents(task)
    assert len({document["prompt"] for document in made}) == len(made) == DOCUMENTS
    for document in made:
        assert is_reserved(_digits(document["prompt"]))
        assert document["answer"] == _answer(task, document["prompt"])


@pytest.mark.parametrize("task", TASKS)
def test_the_choices_are_four_and_one_of_them_is_right(task):
    for document in documents(task):
        assert len(set(document["choices"])) == 4
        assert document["choices"][document["gold"]] == document["answer"]
    golds = [document["gold"] for document in documents(task)]
    assert {golds.count(index) > 90 for index in range(4)} == {True}  # 128 each on average


def test_the_translation_task_asks_for_every_skill():
    words = [str(document["answer"]).split()[0] for document in documents("ja")]
    assert {words.count(skill) > 120 for skill in SKILLS} == {True}


def test_documents_are_the_same_on_every_call():
    assert documents("ja_max", 20) == documents("ja_max", 20) == documents("ja_max")[:20]


def test_lm_eval_loads_every_task_and_asks_what_the_documents_say(folder, monkeypatch, tmp_path):
    from lm_eval.tasks import TaskManager

    monkeypatch.chdir(tmp_path)  # paths must not lean on the working directory
    names = [f"demo_{task}{form}" for task in TASKS for form in FORMS]
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    loaded = manager.load(names)["tasks"]
    assert sorted(loaded) == sorted(names)
    for name, task in loaded.items():
        plain = name.removeprefix("demo_").removesuffix("_ll").removesuffix("_mc")
        rows = (folder / f"{plain}.jsonl").read_text(encoding="utf-8").splitlines()
        first = json.loads(rows[0])
        docs = list(task.test_docs())
        assert len(docs) == len(rows) == DOCUMENTS
        assert task.doc_to_text(docs[0]) == first["prompt"]
        if name.endswith("_mc"):
            assert task.doc_to_choice(docs[0]) == first["choices"]
            assert first["choices"][task.doc_to_target(docs[0])] == _answer(plain, first["prompt"])
        else:
            assert task.doc_to_target(docs[0]) == _answer(plain, first["prompt"])
        assert task.config.target_delimiter == ""
