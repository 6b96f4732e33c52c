"""Every key of a study file can be given from Python, and means the same there."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import evomerge as em
from evomerge import optimizers
from evomerge.core.errors import UserError
from evomerge.study.config import EvaluateConfig

# One value other than the default for every key; a new key without an entry fails the test below.
OTHER: dict[str, dict[str, Any]] = {
    "evaluate": {
        "tasks": ["qa", {"name": "lm", "metric": "acc", "weight": 2.0}],
        "include_path": ["tasks"],
        "num_fewshot": 3,
        "apply_chat_template": True,
        "system_instruction": "Be brief.",
        "fewshot_as_multiturn": False,
        "gen_kwargs": {"temperature": 0.5},
        "fewshot_seed": 7,
        "model_args": {"add_bos_token": True},
        "batch_size": 8,
        "fitness": "metric",
        "items": {"per_generation": 7, "search": 0.4, "race": 0.3},
        "allow_task_code": True,
        "dtype": "float32",
        "adapters": "built",
        "engine": "vllm",
        "engine_options": {"gpu_memory_utilization": 0.5},
    },
    "search": {
        "optimizer": "cmaes",
        "trials": 40,
        "seed": 5,
        "population": 10,
        "deadline": "8h",
        "max_cost": 5.0,
        "random_share": 0.1,
        "objective": "pareto",
        "constraints": ["qa >= best parent - 0.01"],
        "simplicity": 0.1,
        "select": "simplest",
        "steps": "deltas",
        "options": {"sigma": 0.2},
        "then": {"optimizer": "random", "after": 9, "options": {}},
    },
    "workers": {
        "backend": "ray",
        "count": 3,
        "device": "cuda",
        "threads": 2,
        "gpus": 0.5,
        "parents": "host",
        "candidate": "streamed",
        "ray_address": "auto",
        "patience": "30m",
        "price_per_hour": 2.0,
    },
    "output": {"dtype": "float32", "save_model": False, "adapter_rank": 4},
}
SECTIONS = {
    "evaluate": em.EvaluateConfig,
    "search": em.SearchConfig,
    "workers": em.WorkersConfig,
    "output": em.OutputConfig,
}
BASE: dict[str, Any] = {"base_model": "base", "models": ["a", "b"]}
SPACE = "task_arithmetic_by_depth"


def from_yaml(folder: Path, sections: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a study file with these sections, as plain data."""
    from evomerge.core import yaml_file

    file = folder / "study.yaml"
    document = {**BASE, "space": SPACE, "evaluate": {"tasks": ["qa", "lm"]}, **sections}
    file.write_text(yaml_file.write(document))
    return em.StudyConfig.from_yaml(file).to_dict()


def keys() -> list[tuple[str, str]]:
    return [(name, f.name) for name, kind in SECTIONS.items() for f in dataclasses.fields(kind)]


@pytest.mark.parametrize(("section", "key"), keys())
def test_every_key_given_from_python_is_the_key_of_the_study_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: str, key: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks").mkdir()
    value = OTHER[section][key]
    evaluate: dict[str, Any] = {"tasks": ["qa", "lm"]}
    if key == "engine_options":
        evaluate["engine"] = "vllm"
    given: dict[str, Any] = {}
    named = {"objective": "random", "options": "cmaes", "then": "catcma"}
    also: dict[str, Any] = {"optimizer": named[key]} if key in named else {}
    if section == "evaluate":
        evaluate[key] = value
    elif section == "search":
        given |= {key: value, **also}
    else:
        given[section] = {key: value}
    beside = {"workers": {"price_per_hour": 2.0}} if key == "max_cost" else {}
    given |= beside
    sections = {section: {key: value, **also}, "evaluate": evaluate}
    yaml = from_yaml(tmp_path, {**beside, **sections})
    study = em.create_study(SPACE, em.LMEval(**evaluate), tmp_path / "run", **BASE, **given)
    assert study.config.to_dict() == yaml
    default = em.create_study(SPACE, em.LMEval(["qa", "lm"]), tmp_path / "run", **BASE)
    assert study.config.to_dict()[section][key] != default.config.to_dict()[section][key]


def test_sections_may_be_dataclasses_with_the_words_of_a_study_file(tmp_path: Path) -> None:
    search = {"trials": 40, "deadline": "8h", "constraints": ["qa >= 0.5"]}
    yaml = from_yaml(tmp_path, {"search": search, "workers": {"count": 2}})
    study = em.create_study(
        SPACE,
        em.LMEval(["qa", "lm"]),
        tmp_path / "run",
        **BASE,
        search=search,
        workers=em.WorkersConfig(count=2),
    )
    assert study.config.to_dict() == yaml
    again = em.create_study(
        SPACE,
        study.config.evaluate,
        tmp_path / "run",
        **BASE,
        search=study.config.search,
        workers=study.config.workers,
        output=study.config.output,
    )
    assert again.config == study.config


def test_lm_eval_has_the_keys_of_the_section_evaluate() -> None:
    assert [f.name for f in dataclasses.fields(em.LMEval)] == [
        f.name for f in dataclasses.fields(EvaluateConfig)
    ]


@pytest.mark.parametrize("name", optimizers.names())
def test_every_optimizer_can_be_named(tmp_path: Path, name: str) -> None:
    refusal = ""
    try:
        study = em.create_study(SPACE, em.LMEval(["qa"]), tmp_path, **BASE, optimizer=name)
        refusal = "" if study.config.search.optimizer == name else "another was taken"
    except UserError as error:
        refusal = str(error)  # some search spaces of their own kind alone
    assert "unknown" not in refusal
    assert "another" not in refusal


def test_an_optimizer_made_with_options_is_the_name_and_the_options(tmp_path: Path) -> None:
    made = optimizers.create("cmaes", sigma=0.1)
    one = em.create_study(SPACE, em.LMEval(["qa"]), tmp_path, **BASE, optimizer=made)
    options = {"sigma": 0.1}
    two = em.create_study(
        SPACE, em.LMEval(["qa"]), tmp_path, **BASE, optimizer="cmaes", options=options
    )
    assert one.config.search.optimizer == "cmaes"
    assert one.config.search.options["sigma"] == two.config.search.options["sigma"] == 0.1


def test_a_space_is_a_name_a_path_or_a_space(tmp_path: Path) -> None:
    space = em.SearchSpace.from_yaml(SPACE)
    file = tmp_path / "mine.yaml"
    from evomerge.core import yaml_file

    file.write_text(yaml_file.write(space.document))
    bound = space.bind(base="base", models=["a", "b"])
    studies = [
        em.create_study(SPACE, em.LMEval(["qa"]), tmp_path, **BASE),
        em.create_study(file, em.LMEval(["qa"]), tmp_path, **BASE),
        em.create_study(str(file), em.LMEval(["qa"]), tmp_path, **BASE),
        em.create_study(space, em.LMEval(["qa"]), tmp_path, **BASE),
        em.create_study(bound, em.LMEval(["qa"]), tmp_path),
    ]
    for study in studies:
        assert study.config.base_model == "base"
        assert study.config.models == ("a", "b")
        assert [d.name for d in study.space.dimensions] == [
            d.name for d in studies[0].space.dimensions
        ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"evaluate": em.LMEval("qa")}, r"evaluate.tasks: expected a list but got 'qa'"),
        ({"evaluate": ["qa"]}, r"study: evaluate: expected"),
        ({"models": "a"}, r"models: expected a list but got 'a'"),
        ({"constraints": "qa >= 1"}, r"constraints: expected a list but got 'qa >= 1'"),
        ({"dead_line": "8h"}, r"unknown key 'dead_line': did you mean 'deadline'"),
        ({"space": "tie_by_depth"}, r"unknown space 'tie_by_depth': did you mean"),
        ({"base_model": None, "models": None}, r"or give base_model=... and models=\[...\]"),
    ],
)
def test_a_mistake_is_refused_by_name_in_one_line(
    tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    keys = {"space": SPACE, "evaluate": em.LMEval(["qa"]), **BASE, **given}
    with pytest.raises(UserError, match=message) as caught:
        em.create_study(keys.pop("space"), keys.pop("evaluate"), tmp_path, **keys)
    assert "\n" not in str(caught.value)


def test_a_loaded_study_takes_what_may_differ(tmp_path: Path) -> None:
    space = em.SearchSpace.from_yaml(SPACE).bind(base="base", models=["a", "b"])
    with em.create_study(space, em.LMEval(["qa"]), tmp_path / "run", trials=20) as study:
        study.ask()
    loaded = em.load_study(tmp_path / "run", trials=30, deadline="1h", workers={"count": 2})
    assert loaded.config.search.trials == 30
    assert loaded.config.to_dict()["search"]["deadline"] == "1h"
    assert loaded.config.workers.count == 2
    same = em.load_study(tmp_path / "run")
    assert same.config == study.config


def test_dir_lists_the_public_names() -> None:
    assert dir(em) == sorted(em.__all__)
    assert all(hasattr(em, name) for name in em.__all__)
