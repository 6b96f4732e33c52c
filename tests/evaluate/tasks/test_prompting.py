"""Options of lm_eval's command that change what a task asks, or how its answers are drawn."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import torch
from lm_eval.tasks import TaskManager

from evomerge.core.errors import UserError
from evomerge.evaluate.scorer import Scorer
from evomerge.evaluate.tasks.harness import Harness
from evomerge.evaluate.tasks.lm_eval_api import stock_model
from evomerge.study.config import EvaluateConfig
from evomerge.study.config.tasks import TaskConfig
from tests.evaluate.evaluation_bench import (
    CHAT,
    GENERATE,
    Bench,
    make_model,
    make_tokenizer,
    metrics,
    write_task,
)

TASKS = ["choice", "choice_shots", "write", "write_shots"]


def by_lm_eval(bench: Bench, names: list[str], model_args: dict[str, Any], **options: Any) -> dict:
    """The samples of lm-eval's own evaluation, by task."""
    manager = TaskManager(include_path=str(bench.folder), include_defaults=False)
    loaded = manager.load(names)
    gen_kwargs = options.pop("gen_kwargs", None)
    seed = options.pop("fewshot_seed", 1234)
    for task in loaded["tasks"].values():  # as lm_eval's simple_evaluate does
        if gen_kwargs and task.OUTPUT_TYPE == "generate_until":
            task.set_config(key="generation_kwargs", value=gen_kwargs, update=True)
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed)
    stock = stock_model(bench.model, bench.tokenizer, 64, model_args)
    return lm_eval.evaluate(stock, loaded, bootstrap_iters=0, **options)["samples"]


@pytest.mark.parametrize(
    "options",
    [
        {"system_instruction": "be short"},
        {"system_instruction": "be short", "apply_chat_template": True},
        {"apply_chat_template": True, "fewshot_as_multiturn": False},
        {"gen_kwargs": {"max_gen_toks": 2, "until": ["c"]}},
        {"fewshot_seed": 7},
        {"model_args": {"add_bos_token": False}},
        {"model_args": {"max_length": 24}},
        {"apply_chat_template": True, "model_args": {"chat_template_args": {"loud": True}}},
        {"model_args": {"think_end_token": "e"}},
    ],
)
def test_prompts_and_scores_are_those_of_lm_eval_with_the_same_option(
    llama: Bench, options: dict[str, Any]
) -> None:
    tokenizer = make_tokenizer(bos=True)
    tokenizer.chat_template = "{% if loud %}#{% endif %}" + CHAT
    bench = Bench(llama.model, tokenizer, llama.folder)
    harness = Harness.load(TASKS, [bench.folder], tokenizer=tokenizer, **options)
    theirs = dict(options)
    model_args = theirs.pop("model_args", {})
    theirs.setdefault("fewshot_as_multiturn", bool(theirs.get("apply_chat_template")))
    samples = by_lm_eval(bench, TASKS, model_args, **theirs)
    scored = Scorer(bench.model, tokenizer, harness).score(harness.items, "metric")
    for row in scored:
        metric = harness.metrics[row.task]
        (expected,) = [
            one
            for one in samples[row.task]
            if (one["doc_id"], one["filter"]) == (row.doc_id, metric.filter)
        ]
        asked = [request.args for request in harness.requests(row.task, row.doc_id)]
        assert [list(one) for one in asked] == [list(one) for one in expected["arguments"]]
        assert row.metric == expected[metric.name], row
    plain = Harness.load(TASKS, [bench.folder], tokenizer=tokenizer)
    assert plain.digest != harness.digest  # another evaluation, whose scores are not reused


def test_a_template_that_takes_no_system_message_goes_without_and_this_is_said(
    llama: Bench,
) -> None:
    tokenizer = make_tokenizer(bos=True)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}"
        "{{ raise_exception('no system') }}{% endif %}#{{ m.content }}{% endfor %}"
    )
    harness = Harness.load(
        ["write"],
        [llama.folder],
        apply_chat_template=True,
        tokenizer=tokenizer,
        system_instruction="be short",
    )
    assert harness.requests("write", 0)[0].args[0] == "#item 0: a="
    assert any("takes no system message" in warning for warning in harness.warnings)


def evaluate(**settings: Any) -> EvaluateConfig:
    return EvaluateConfig((TaskConfig("write"),), **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fewshot_as_multiturn": True}, "turns need apply_chat_template: true"),
        ({"model_args": {"ad_bos": True}}, "did you mean 'add_bos_token'"),
        ({"model_args": {"think_end_token": "</t>"}}, "need fitness: metric, but it is smooth"),
        (
            {"model_args": {"think_end_token": "t"}, "fitness": "metric", "engine": "vllm"},
            "need engine: hf, but it is vllm",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        evaluate(**settings).check("study.yaml")


def test_what_lm_evals_model_refuses_is_one_line(llama: Bench) -> None:
    with pytest.raises(UserError, match=r"lm_eval refuses .*think_end_token is required"):
        stock_model(llama.model, llama.tokenizer, 4, {"enable_thinking": True})


# -- answers that are drawn at random --------------------------------------------------------------


def even_model() -> Any:
    """A model that writes "b" with probability 1/2, and every other letter alike.

    With 15 answers the majority is "b" but for one time in 10^4: a single rival letter would have
    to come more often, at 1/70 each.
    """
    model = make_model("llama", seed=1)
    tokenizer = make_tokenizer(bos=True)
    (letter,) = tokenizer.encode("b", add_special_tokens=False)
    rows = model.config.vocab_size
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(torch.zeros(rows, 32))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj" in name:
                weight.zero_()
        model.model.embed_tokens.weight.fill_(1)
        model.model.norm.weight.fill_(1)
        wanted = torch.full((rows,), math.log(0.5 / 35))
        wanted[40:] = wanted[:4] = -30.0
        wanted[letter] = math.log(0.5)
        model.lm_head.weight.copy_((wanted / 32)[:, None].expand(rows, 32))
    return model, tokenizer


def drawn_task(folder: Path, name: str, repeats: int, *filters: str) -> None:
    sampling = GENERATE.replace("do_sample: false", "do_sample: true\n  temperature: 1.0").replace(
        "max_gen_toks: 12", "max_gen_toks: 1"
    )
    listed = ", ".join(f"{{function: {one}}}" for one in (*filters, "take_first"))
    body = (
        f"{sampling}doc_to_target: 'b'\nrepeats: {repeats}\n"
        f"filter_list: [{{name: one, filter: [{listed}]}}]\n"
    )
    write_task(folder, name, body + metrics("exact_match"))


def test_a_task_that_repeats_gets_so_many_answers_of_its_own(llama: Bench, tmp_path: Path) -> None:
    for name in ("documents.jsonl", "shots.jsonl"):
        (tmp_path / name).write_text((llama.folder / name).read_text())
    drawn_task(tmp_path, "single", 1)
    drawn_task(tmp_path, "vote", 15, "majority_vote")
    model, tokenizer = even_model()
    harness = Harness.load(["single", "vote"], [tmp_path], tokenizer=tokenizer)
    rows = Scorer(model, tokenizer, harness).score(harness.items, "metric")
    mean = {
        task: sum(row.metric or 0 for row in rows if row.task == task) / len(harness.items[task])
        for task in harness.items
    }
    assert 0.2 < mean["single"] < 0.8
    assert mean["vote"] == 1.0
    assert [w for w in harness.warnings if "'vote' draws" in w and "15 times" in w]
    assert harness.describe()["sampled"] == ["single", "vote"]


def test_a_greedy_task_that_repeats_is_asked_once(llama: Bench, tmp_path: Path) -> None:
    for name in ("documents.jsonl", "shots.jsonl"):
        (tmp_path / name).write_text((llama.folder / name).read_text())
    target = 'doc_to_target: "{{whole}}"\n'
    write_task(tmp_path, "thrice", f"{GENERATE}{target}repeats: 3\n" + metrics("exact_match"))
    write_task(tmp_path, "once", GENERATE + target + metrics("exact_match"))
    harness = Harness.load(["thrice", "once"], [tmp_path])
    scorer = Scorer(llama.model, llama.tokenizer, harness)
    thrice, once = (scorer.score({task: range(12)}, "metric") for task in ("thrice", "once"))
    assert [row.metric for row in thrice] == [row.metric for row in once]
    assert not [warning for warning in harness.warnings if "draws its answers" in warning]
