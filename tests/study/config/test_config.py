"""Study files are read strictly, and every default can be seen."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from evomerge.core import yaml_file
from evomerge.core.errors import UserError
from evomerge.study.config import (
    FunctionTaskConfig,
    StudyConfig,
    TaskConfig,
    TextTaskConfig,
    seconds,
)
from evomerge.study.journal.codec import from_json
from evomerge.study.journal.events import StudyEvent
from evomerge.study.past import of_journal
from tests.report import report_bench as bench

LEAST: dict[str, Any] = {
    "base_model": "org/base",
    "models": ["org/one", "org/two"],
    "space": "ties_by_depth",
    "evaluate": {"tasks": ["arc_easy"]},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """The least study with one key set; the path's parts are joined by dots."""
    document = copy.deepcopy(LEAST)
    section: Any = document
    *parts, last = path.split(".")
    for part in parts:
        section = section.setdefault(part, {})
    section[last] = value
    return document


def read(document: Any, folder: Path = Path("/nowhere")) -> StudyConfig:
    return StudyConfig.from_dict(document, folder, "study.yaml")


def test_the_least_study_has_the_documented_defaults() -> None:
    config = read(LEAST)
    assert config.to_dict() == {
        "base_model": "org/base",
        "models": ["org/one", "org/two"],
        "space": "ties_by_depth",
        "evaluate": {
            "tasks": [
                {"name": "arc_easy", "metric": None, "weight": 1.0, "bounds": None, "cluster": None}
            ],
            "include_path": [],
            "num_fewshot": None,
            "apply_chat_template": False,
            "system_instruction": None,
            "fewshot_as_multiturn": None,
            "gen_kwargs": None,
            "fewshot_seed": None,
            "model_args": None,
            "dtype": None,
            "batch_size": "auto",
            "fitness": "smooth",
            "adapters": None,
            "items": {
                "search": 0.5,
                "race": 0.2,
                "holdout": 0.3,
                "per_generation": 48,
                "search_tasks": [],
                "race_tasks": [],
                "holdout_tasks": [],
            },
            "allow_task_code": False,
            "engine": "hf",
            "engine_options": {},
        },
        "search": {
            "optimizer": None,
            "trials": 240,
            "seed": 0,
            "population": None,
            "deadline": None,
            "max_cost": None,
            "random_share": 0.05,
            "objective": "weighted",
            "constraints": [],
            "simplicity": 0.0,
            "select": "best",
            "options": {},
            "then": None,
        },
        "workers": {
            "backend": "local",
            "count": 1,
            "device": "auto",
            "threads": 1,
            "gpus": 0.0,
            "ray_address": None,
            "parents": None,
            "candidate": None,
            "price_per_hour": None,
            "patience": "2h",
        },
        "output": {"dtype": "bfloat16", "save_model": True, "adapter_rank": None},
        "trust_remote_code": None,
        "data": None,
        "calibration": None,
        "methods": None,
        "optimizers": None,
    }


def test_a_shown_config_is_read_back_the_same(tmp_path: Path) -> None:
    document = changed("search.options", {"sigma": 0.1})
    document["search"] |= {"optimizer": "cmaes", "then": {"optimizer": "adam", "after": 9}}
    document["space"] = {"merge_method": "linear", "models": [{"model": "*"}]}
    document["evaluate"] |= {"num_fewshot": 3, "batch_size": 8, "items": {"holdout": 0.1}}
    document["evaluate"]["tasks"] = [{"name": "a", "metric": "acc", "weight": 2}, "b"]
    config = read(document)
    assert read(config.to_dict()) == config
    file = tmp_path / "study.yaml"
    file.write_text(yaml_file.write(config.to_dict()))
    assert StudyConfig.from_yaml(file) == config
    assert config.evaluate.tasks == (TaskConfig("a", "acc", 2.0), TaskConfig("b"))


def test_folders_are_taken_relative_to_the_file_and_hub_ids_as_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    for folder in ("zoo/base", "zoo/one", "tasks"):
        (home / folder).mkdir(parents=True)
    (home / "my_space.yaml").write_text("merge_method: linear\n")
    document = changed("evaluate.include_path", ["tasks"])
    document |= {
        "base_model": "zoo/base",
        "models": ["zoo/one", "org/two"],
        "space": "my_space.yaml",
    }
    (home / "study.yaml").write_text(yaml_file.write(document))
    monkeypatch.chdir(tmp_path)
    config = StudyConfig.from_yaml("home/study.yaml")
    assert config.base_model == str(home / "zoo" / "base")
    assert config.models == (str(home / "zoo" / "one"), "org/two")
    assert config.evaluate.include_path == (str(home / "tasks"),)
    assert config.space == str(home / "my_space.yaml")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("modles", [], "study.yaml: unknown key 'modles': did you mean 'models'"),
        ("search.trails", 9, "study.yaml: search: unknown key 'trails': did you mean 'trials'"),
        ("evaluate.items.hold_out", 0.3, "did you mean 'holdout'"),
        ("workers.cuont", 2, "did you mean 'count'"),
        ("output.dtpye", "float32", "did you mean 'dtype'"),
        ("evaluate.tasks", [{"name": "a", "wieght": 1}], r"tasks\[0\]: unknown key 'wieght'"),
    ],
)
def test_unknown_keys_name_the_nearest_known_one(path: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(changed(path, value))


@pytest.mark.parametrize("key", ["base_model", "models", "space", "evaluate"])
def test_missing_keys_are_named(key: str) -> None:
    document = {name: value for name, value in LEAST.items() if name != key}
    with pytest.raises(UserError, match=f"study.yaml: expected a key '{key}'"):
        read(document)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("search.trials", "many", "search.trials: expected a whole number, but got 'many'"),
        ("search.trials", 2.5, "expected a whole number"),
        ("search.trials", True, "expected a whole number"),
        ("search.trials", None, "expected a whole number"),
        ("search.trials", 0, "search.trials: expected at least 1, got 0"),
        ("search.population", 241, r"expected at most search\.trials \(240\), but got 241"),
        ("search.seed", 2**63, "search.seed: expected 0 to 2\\*\\*63 - 1, got 9223372036854775808"),
        ("search.seed", -1, "search.seed: expected 0 to"),
        ("search.deadline", "soon", "search.deadline: expected a time span such as 45m or 8h"),
        ("search.random_share", 10**400, "search.random_share: expected a number, but got 1000"),
        ("search.deadline", 60, "search.deadline: expected text, but got 60"),
        ("search.options", [1], "search.options: expected a mapping"),
        ("search", [1], "search: expected a mapping"),
        ("models", "org/one", "models: expected a list but got 'org/one'"),
        ("models", [], "models: expected one or more different models"),
        ("models", ["org/one", "org/one"], "models: expected one or more different models"),
        ("models", [3], r"models\[0\]: expected text, but got 3"),
        ("base_model", 3, "base_model: expected text"),
        ("space", 7, "space: expected text, but got 7"),
        ("evaluate.tasks", [], "evaluate.tasks: expected one or more different tasks"),
        ("evaluate.tasks", ["a", "a"], "evaluate.tasks: expected one or more different tasks"),
        ("evaluate.tasks", [{"metric": "acc"}], r"tasks\[0\]: expected a key 'name'"),
        ("evaluate.tasks", [{"name": "a", "weight": "x"}], "weight: expected a number"),
        ("evaluate.tasks", [{"name": "a", "weight": float("nan")}], "a number but got nan"),
        ("evaluate.tasks", [{"name": "a", "weight": float("inf")}], "weights of at least 0"),
        ("evaluate.tasks", [{"name": "a", "weight": -1}], "weights of at least 0"),
        ("evaluate.tasks", [{"name": "a", "bounds": [1, 0]}], r"bounds: expected \[low, high\]"),
        ("evaluate.tasks", [{"name": "a", "bounds": [0]}], r"bounds: .*, but got \[0\.0\]"),
        ("evaluate.tasks", [{"name": "a", "bounds": [0, float("inf")]}], "bounds: expected"),
        ("evaluate.tasks", [{"name": "a", "cluster": 3}], "cluster: expected text"),
        ("evaluate.fitness", "smoth", "unknown value 'smoth': did you mean 'smooth'"),
        ("evaluate.batch_size", "big", "evaluate.batch_size: "),
        ("evaluate.batch_size", 0, "evaluate.batch_size: expected at least 1, but got 0"),
        ("evaluate.apply_chat_template", "yes", "expected true or false, but got 'yes'"),
        ("evaluate.include_path", ["nowhere"], "/nowhere/nowhere is no folder"),
        ("evaluate.items.search", 0.9, "the shares must add up to at most 1"),
        ("evaluate.items.holdout", 0, r"evaluate.items.holdout must be a share in \(0, 1\]"),
        ("evaluate.items.per_generation", 0, "items.per_generation: expected at least 1"),
        ("workers.backend", "slurm", "workers.backend: unknown value 'slurm'"),
        ("workers.count", 0, "count and threads of at least 1"),
        ("workers.gpus", -0.5, "gpus of at least 0"),
        ("workers.gpus", 1.5, "a share up to 1, or a whole number, but got 1.5"),
        (
            "evaluate.dtype",
            "float16",
            r"float32 or output\.dtype \(bfloat16\), since float16 would",
        ),
        ("output.dtype", "float64", "output.dtype: unknown value 'float64'"),
    ],
)
def test_wrong_values_are_refused_with_their_place(path: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(changed(path, value))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("study.yaml: ")


def test_several_gpus_go_with_no_single_device_and_not_with_vllm() -> None:
    document = changed("workers.gpus", 2)
    assert read(document).workers.gpus == 2
    workers = {**document["workers"], "device": "cuda:1"}
    with pytest.raises(UserError, match="cuda:1 is one device, but gpus asks for 2"):
        read({**document, "workers": workers})
    with pytest.raises(UserError, match="vLLM shares the weights of one GPU"):
        read({**document, "evaluate": {**document["evaluate"], "engine": "vllm"}})


@pytest.mark.parametrize("document", [None, [], "text", 3, {1: 2}])
def test_a_file_that_is_no_mapping_is_refused(document: Any) -> None:
    with pytest.raises(UserError, match=r"study\.yaml: expected a mapping"):
        read(document)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90s", 90), ("45m", 2700), ("8h", 28800), ("1.5h", 5400), ("2d", 172800), (" 3 m ", 180)],
)
def test_time_spans(text: str, expected: float) -> None:
    assert seconds(text) == expected


def test_no_time_span_is_none() -> None:
    assert seconds(None) is None


@pytest.mark.parametrize("text", ["", "8", "h", "-1h", "1h30m", "8 hours", "nan s"])
def test_other_words_are_no_time_spans(text: str) -> None:
    with pytest.raises(UserError, match="expected a time span such as 45m or 8h"):
        seconds(text)


def test_an_adapter_on_a_base_is_named_in_a_mapping_or_with_a_plus(tmp_path: Path) -> None:
    for name in ("base", "one", "two"):
        (tmp_path / name).mkdir()
    models = [{"model": "base", "adapter": "one"}, "base+two", "base+org/three"]
    config = read({**LEAST, "base_model": "base", "models": models}, tmp_path)
    base = tmp_path / "base"
    assert config.models == (
        f"{base}+{tmp_path}/one",
        f"{base}+{tmp_path}/two",
        f"{base}+org/three",
    )
    assert read(config.to_dict(), tmp_path) == config


def test_a_recipe_in_the_file_may_name_models_as_the_study_does(tmp_path: Path) -> None:
    for name in ("base", "one"):
        (tmp_path / "zoo" / name).mkdir(parents=True)
    space = {
        "merge_method": "task_arithmetic",
        "base_model": "zoo/base",
        "models": [{"model": "zoo/one", "parameters": {"weight": "search"}}],
    }
    document = {
        "base_model": "zoo/base",
        "models": ["zoo/one"],
        "space": space,
        "evaluate": {"tasks": ["arc"]},
    }
    config = StudyConfig.from_dict(document, tmp_path)
    assert isinstance(config.space, dict)
    assert config.space["base_model"] == config.base_model
    assert config.space["models"][0]["model"] == config.models[0]
    assert space["base_model"] == "zoo/base", "arguments are left as they were found"


def test_texts_and_functions_are_tasks_with_files_relative_to_the_study(tmp_path: Path) -> None:
    (tmp_path / "prose.txt").write_text("text\n")
    (tmp_path / "mine.py").write_text("")
    tasks = [
        "arc_easy",
        {"name": "prose", "text": "prose.txt", "weight": 0.5},
        {"name": "race", "bounds": [0, 1], "cluster": "article"},
        {"name": "size", "function": "mine.py:size"},
        {"name": "each", "function": "package.module:each", "items": 30},
    ]
    document = {**LEAST, "evaluate": {"tasks": tasks, "allow_task_code": True}}
    config = read(document, tmp_path)
    assert config.evaluate.tasks == (
        TaskConfig("arc_easy"),
        TextTaskConfig("prose", weight=0.5, text=str(tmp_path / "prose.txt"), chunk_bytes=1000),
        TaskConfig("race", bounds=(0.0, 1.0), cluster="article"),
        FunctionTaskConfig("size", function=f"{tmp_path / 'mine.py'}:size"),
        FunctionTaskConfig("each", function="package.module:each", items=30),
    )
    assert read(config.to_dict(), Path("/")) == config


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"text": "missing.txt"}, r"evaluate.tasks: mine: there is no file .*missing.txt"),
        ({"text": "t.txt", "chunk_bytes": 0}, "chunk_bytes: expected at least 1, but got 0"),
        ({"text": "t.txt", "items": 3}, r"tasks\[0\].*'items'"),
        ({"text": "t.txt", "function": "m:f"}, r"tasks\[0\].*'function'"),
        ({"function": "m:f", "items": 0}, "items: expected at least 1, but got 0"),
        ({"text": "t.txt", "cluster": "x"}, "cluster: a text's chunks have no fields"),
        ({"function": "m:f", "cluster": "x"}, "cluster: a function's items have no fields"),
        ({"function": "m:f", "bounds": [2, 1]}, "bounds: expected"),
        ({"function": "m:f", "metric": "acc"}, "metric: a function's scores are its metric"),
    ],
)
def test_texts_and_functions_that_cannot_be_are_named(
    tmp_path: Path, task: dict[str, Any], message: str
) -> None:
    (tmp_path / "t.txt").write_text("text\n")
    evaluate = {"tasks": [{"name": "mine", **task}], "allow_task_code": True}
    with pytest.raises(UserError, match=message):
        read({**LEAST, "evaluate": evaluate}, tmp_path)


def test_a_function_needs_the_flag_that_allows_code() -> None:
    evaluate = {"tasks": [{"name": "mine", "function": "m:f"}]}
    with pytest.raises(UserError, match=r"tasks\[0\].function: m:f is code; read it, then set"):
        read({**LEAST, "evaluate": evaluate})


@pytest.mark.parametrize(("n_tasks", "each"), [(1, 48), (2, 24), (7, 7), (20, 4)])
def test_items_that_are_not_counted_are_shared_by_the_tasks(n_tasks: int, each: int) -> None:
    document = {**LEAST, "evaluate": {"tasks": [f"task_{i}" for i in range(n_tasks)]}}
    config = StudyConfig.from_dict(document, Path("/"))
    assert config.evaluate.items.per_generation == each
    assert StudyConfig.from_dict(config.to_dict(), Path("/")) == config


def test_the_configuration_of_a_journal_of_the_last_version_loses_what_is_gone() -> None:
    def study_event(steps: str) -> StudyEvent:
        return from_json(StudyEvent, bench.study(config={"search": {"seed": 3, "steps": steps}}))

    assert of_journal(study_event("even")) == {"search": {"seed": 3}}
    with pytest.raises(UserError, match=r"written by evomerge 0\.1\.0 with search\.steps"):
        of_journal(study_event("deltas"))
