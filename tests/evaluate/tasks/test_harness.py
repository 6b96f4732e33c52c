from __future__ import annotations

import json
from pathlib import Path

import pytest

from evomerge.core.errors import UserError
from evomerge.evaluate.scorer import Scorer
from evomerge.evaluate.tasks.harness import Harness
from evomerge.evaluate.tasks.metric import Metric
from evomerge.evaluate.tasks.request import TaskRequest
from tests.evaluate.evaluation_bench import (
    CHOICE,
    GENERATE,
    N_DOCUMENTS,
    Bench,
    make_tokenizer,
    metrics,
    write_task,
)


def test_items_are_all_documents_and_equal_documents_have_equal_keys(llama: Bench) -> None:
    harness = Harness.load(["choice", "write"], [llama.folder])
    assert harness.items == {name: list(range(N_DOCUMENTS)) for name in ("choice", "write")}
    assert harness.item_keys["choice"] == harness.item_keys["write"]
    assert len(set(harness.item_keys["choice"])) == N_DOCUMENTS
    assert all(len(key) == 16 for key in harness.item_keys["choice"])


def test_an_item_key_is_the_hash_of_the_documents_canonical_json(tmp_path: Path) -> None:
    document = {"prompt": "é", "answer": "1"}
    (tmp_path / "one.jsonl").write_text(json.dumps(document))
    (tmp_path / "shots.jsonl").write_text(json.dumps(document))
    body = 'output_type: loglikelihood\ndoc_to_target: "{{answer}}"\n' + metrics("acc")
    write_task(tmp_path, "one", body, data="one.jsonl")
    # printf '{"answer":"1","prompt":"é"}' | sha256sum
    assert Harness.load(["one"], [tmp_path]).item_keys == {"one": ["be0d64fe7f2dea42"]}


def test_a_description_is_json_and_holds_what_a_driver_needs(llama: Bench) -> None:
    requests = [TaskRequest("write_digit", "exact_match,plain", weight=2.0), TaskRequest("choice")]
    described = Harness.load(requests, [llama.folder]).describe()
    assert json.loads(json.dumps(described)) == described
    assert described["tasks"] == ["write_digit", "choice"]
    assert described["metrics"]["write_digit"] == {
        "name": "exact_match",
        "filter": "plain",
        "higher_is_better": True,
    }
    assert described["weights"] == {"write_digit": 2.0, "choice": 1.0}
    assert described["output_types"]["choice"] == "multiple_choice"


def test_a_group_is_its_tasks_and_they_share_its_weight(llama: Bench) -> None:
    harness = Harness.load([TaskRequest("both", weight=3.0)], [llama.folder])
    assert harness.weights == {"choice": 1.5, "likelihood": 1.5}


def test_the_first_metric_and_filter_are_the_default(llama: Bench) -> None:
    harness = Harness.load(["choice", "choice_norm", "write_digit"], [llama.folder])
    assert harness.metrics == {
        "choice": Metric("acc", True, "none"),
        "choice_norm": Metric("acc_norm", True, "none"),
        "write_digit": Metric("exact_match", True, "digit"),
    }


def test_loading_twice_builds_the_same_prompts_even_with_examples_drawn_at_random(
    llama: Bench,
) -> None:
    first, second = (Harness.load(["write_shots"], [llama.folder]) for _ in range(2))
    assert first.digest == second.digest
    prompts = [first.requests("write_shots", i)[0].args[0] for i in range(N_DOCUMENTS)]
    assert prompts == [second.requests("write_shots", i)[0].args[0] for i in range(N_DOCUMENTS)]
    assert len({prompt.rsplit("item", 1)[0] for prompt in prompts}) > 3


def test_anything_that_decides_a_score_changes_the_digest(llama: Bench) -> None:
    def digest(*tasks: TaskRequest | str, **options: object) -> str:
        return Harness.load(list(tasks), [llama.folder], **options).digest  # type: ignore[arg-type]

    plain = digest("choice")
    assert plain == digest("choice")
    changed = {
        digest("choice_norm"),
        digest(TaskRequest("choice", "acc_norm")),
        digest(TaskRequest("choice", num_fewshot=1)),
        digest("choice", num_fewshot=1),
        digest("choice", tokenizer=make_tokenizer(bos=True)),
        digest("choice", tokenizer=make_tokenizer(bos=False)),
        digest("choice", "likelihood"),
    }
    assert len(changed - {plain}) == 6, "asking for one example in two ways is the same protocol"


def test_using_a_tokenizer_does_not_change_the_digest(llama: Bench) -> None:
    tokenizer = make_tokenizer(bos=True)
    tokenizer.pad_token = None
    fresh = Harness.load(["write"], [llama.folder], tokenizer=tokenizer)
    Scorer(llama.model, tokenizer, fresh).score({"write": [0, 1, 2]}, "metric")
    assert tokenizer.pad_token is not None
    used = Harness.load(["write"], [llama.folder], tokenizer=tokenizer)
    assert used.digest == fresh.digest


def test_the_digest_does_not_depend_on_where_the_files_are(llama: Bench, tmp_path: Path) -> None:
    (tmp_path / "documents.jsonl").write_text((llama.folder / "documents.jsonl").read_text())
    (tmp_path / "shots.jsonl").write_text((llama.folder / "shots.jsonl").read_text())
    write_task(tmp_path, "choice", CHOICE + metrics("acc", "acc_norm"))
    here = Harness.load(["choice"], [llama.folder]).digest
    assert here == Harness.load(["choice"], [tmp_path]).digest


def test_a_chat_template_renders_the_prompt(llama: Bench) -> None:
    tokenizer = make_tokenizer(bos=True)
    tokenizer.chat_template = (
        "{% for m in messages %}#{{ m.role }}:{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}#assistant:{% endif %}"
    )
    harness = Harness.load(["write"], [llama.folder], apply_chat_template=True, tokenizer=tokenizer)
    prompt = harness.requests("write", 0)[0].args[0]
    assert prompt == "#user:item 0: a=#assistant:"
    assert harness.golds("write", 0)[0] == (prompt, "nothing")
    with pytest.raises(UserError, match="the tokenizer has no chat template"):
        Harness.load(["write"], [llama.folder], apply_chat_template=True, tokenizer=None)


def test_gold_answers_are_joined_as_the_prompts_join_theirs(llama: Bench, tmp_path: Path) -> None:
    for name in ("documents.jsonl", "shots.jsonl"):
        (tmp_path / name).write_text((llama.folder / name).read_text())
    spaced = GENERATE.replace('target_delimiter: ""', 'target_delimiter: " "')
    target = 'doc_to_target: "{{digit}}"\n'
    write_task(tmp_path, "plain", GENERATE + target + metrics("exact_match"))
    write_task(tmp_path, "spaced", spaced + target + metrics("exact_match"))
    prefixed = spaced + target + 'gen_prefix: "so:"\n' + metrics("exact_match")
    write_task(tmp_path, "prefixed", prefixed)
    harness = Harness.load(["plain", "spaced", "prefixed"], [tmp_path])
    assert harness.golds("plain", 3) == [("item 10: defg=", "3")]
    assert harness.golds("spaced", 3) == [("item 10: defg=", " 3")]
    assert harness.golds("prefixed", 3) == [("item 10: defg= so:", " 3")]


def test_every_right_answer_is_a_gold(llama: Bench) -> None:
    harness = Harness.load(["write_any"], [llama.folder])
    answers = [answer for _, answer in harness.golds("write_any", 0)]
    assert answers == ["nothing", "none"]


def test_random_examples_and_public_test_splits_are_warned_about(llama: Bench) -> None:
    harness = Harness.load(["write_shots", "choice", "rolling"], [llama.folder])
    assert [warning.split(":")[0] for warning in harness.warnings] == [
        "task 'write_shots' draws its 2 examples at random, document after document",
        "task 'rolling'",
        "task 'rolling'",
    ]


def test_documents_with_the_same_value_in_the_cluster_field_have_the_same_key(
    tmp_path: Path,
) -> None:
    documents = [{"prompt": str(i), "answer": "1", "passage": i // 3} for i in range(9)]
    (tmp_path / "one.jsonl").write_text("\n".join(map(json.dumps, documents)))
    (tmp_path / "shots.jsonl").write_text(json.dumps(documents[0]))
    body = 'output_type: loglikelihood\ndoc_to_target: "{{answer}}"\n' + metrics("acc")
    write_task(tmp_path, "one", body, data="one.jsonl")
    plain = Harness.load(["one"], [tmp_path])
    request = TaskRequest("one", bounds=(0.0, 2.0), cluster="passage")
    clustered = Harness.load([request], [tmp_path])
    described = clustered.describe()
    assert [
        described["cluster_keys"]["one"].count(k) for k in described["cluster_keys"]["one"]
    ] == [3] * 9
    assert described["metrics"]["one"]["bounds"] == [0.0, 2.0]
    assert clustered.digest == plain.digest  # the scores are the same
    assert described["item_keys"] == plain.describe()["item_keys"]
    assert plain.describe()["cluster_keys"] == {}
    assert "bounds" not in plain.describe()["metrics"]["one"]
    assert plain.warnings == []  # a number is no passage
    with pytest.raises(
        UserError, match="task 'one': cluster: expected the field 'story' in every document, but "
    ):
        Harness.load([TaskRequest("one", cluster="story")], [tmp_path])


@pytest.mark.parametrize(
    ("passages", "hinted"),
    [
        ([f"{'A long passage. ' * 5}{i // 5}" for i in range(20)], True),
        ([f"{i // 5}" for i in range(20)], False),  # short: a category
        (["An instruction that every one of the documents shares, word for word."] * 20, False),
        ([f"{'A long passage. ' * 5}{i}" for i in range(20)], False),
    ],
)
def test_a_passage_that_documents_share_is_pointed_out(
    tmp_path: Path, passages: list[str], hinted: bool
) -> None:
    documents = [{"prompt": str(i), "answer": "1", "text": t} for i, t in enumerate(passages)]
    (tmp_path / "one.jsonl").write_text("\n".join(map(json.dumps, documents)))
    (tmp_path / "shots.jsonl").write_text(json.dumps(documents[0]))
    body = 'output_type: loglikelihood\ndoc_to_target: "{{answer}}"\n' + metrics("acc")
    write_task(tmp_path, "one", body, data="one.jsonl")
    warnings = Harness.load(["one"], [tmp_path]).warnings
    assert [
        "its 20 documents share 4 values of 'text'" in w and "cluster: text" in w for w in warnings
    ] == [True] * hinted
    assert Harness.load([TaskRequest("one", cluster="text")], [tmp_path]).warnings == []
