"""Parents that compute or tokenize in another way are scored as their own folders are."""

import json
import shutil
from pathlib import Path

import lm_eval
import pytest
import yaml
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from evomerge.merge.build import build
from evomerge.merge.parents.nested import open_parents
from evomerge.recipe.recipe import Recipe
from evomerge.study.config import StudyConfig
from evomerge.study.phases.anchors import anchors
from evomerge.study.workers.evaluator import Evaluator
from evomerge.study.workers.own_config import OwnModels
from evomerge.study.workers.requests import Describe, Description, Evaluate, Scores
from tests.adapters import make_adapter
from tests.study.small_study import real_study

ITEMS = {"small_choice": list(range(24)), "small_write": list(range(24))}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return real_study(tmp_path_factory.mktemp("study") / "study")


@pytest.fixture
def study(original, tmp_path):
    """A copy of the small study, whose tasks stay where they are."""
    shutil.copytree(original.parent, tmp_path / "study")
    return tmp_path / "study" / "study.yaml"


def change(file: Path, **keys):
    document = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**document, **keys}))


def stock(folder, tasks):
    """The stock harness's metric of each item of a model's folder."""
    loaded = TaskManager(include_path=str(tasks), include_defaults=False).load(list(ITEMS))
    model = HFLM(pretrained=str(folder), dtype="float32", batch_size=8, device="cpu")
    results = lm_eval.evaluate(model, loaded, bootstrap_iters=0, samples=ITEMS)
    metrics = {"small_choice": "acc", "small_write": "exact_match"}
    return {
        (task, row["doc_id"]): row[metrics[task]]
        for task, rows in results["samples"].items()
        for row in rows
    }


def scored(evaluator, recipe):
    answer = evaluator.handle(Evaluate(recipe.to_dict(), [ITEMS], "metric"))
    assert isinstance(answer, Scores), answer
    return {(row[0], row[1]): row for row in answer.rows}


CHANGES = {
    "rotation": ("config.json", {"rope_parameters": {"rope_theta": 3.0, "rope_type": "default"}}),
    "activation": ("config.json", {"hidden_act": "relu"}),
    "norm": ("config.json", {"rms_norm_eps": 0.5}),
    "ends of generation": ("generation_config.json", {"eos_token_id": [2, 5, 6, 7, 8, 9]}),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_parents_score_is_the_stock_harness_score_of_its_folder(kind, study):
    file, keys = CHANGES[kind]
    zoo = study.parent / "zoo"
    change(zoo / "one" / file, **keys)
    config = StudyConfig.from_yaml(study)
    evaluator = Evaluator(config)
    parents = {a.name: a.recipe for a in anchors(config) if a.kind in ("parent", "base")}
    for name in ("one", "two", "base"):
        rows = scored(evaluator, parents[name])
        expected = stock(zoo / name, study.parent / "tasks")
        assert {key: float(row[2]) for key, row in rows.items()} == expected, name
    description = evaluator.handle(Describe())
    assert isinstance(description, Description)
    (warning,) = [w for w in description.evaluation["warnings"] if "model of its own" in w]
    assert str(zoo / "one") in warning


def test_a_merge_with_a_chosen_config_is_scored_as_it_is_exported(study, tmp_path):
    zoo = study.parent / "zoo"
    change(zoo / "one" / "config.json", hidden_act="relu")
    document = {
        "merge_method": "linear",
        "base_model": str(zoo / "base"),
        "models": [str(zoo / "one"), str(zoo / "two")],
        "parameters": {"weight": 0.5},
        "out_dtype": "float32",
    }
    evaluator = Evaluator(StudyConfig.from_yaml(study))
    for number, more in enumerate(({}, {"config": str(zoo / "one")})):
        recipe = Recipe.from_dict({**document, **more})
        build(recipe, tmp_path / str(number), note=print)
        expected = stock(tmp_path / str(number), study.parent / "tasks")
        assert {k: float(row[2]) for k, row in scored(evaluator, recipe).items()} == expected


def test_files_that_say_the_same_in_other_words_need_no_model_of_their_own(study):
    zoo = study.parent / "zoo"
    change(zoo / "one" / "config.json", transformers_version="4.40.0", use_cache=False)
    change(zoo / "one" / "tokenizer_config.json", name_or_path="/home/somebody/one")
    config = StudyConfig.from_yaml(study)
    description = Evaluator(config).handle(Describe())
    assert isinstance(description, Description)
    assert not [w for w in description.evaluation["warnings"] if "model of its own" in w]


def test_an_adapters_own_chat_template_is_said_to_be_unused(study):
    zoo = study.parent / "zoo"
    (zoo / "base" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    adapter = make_adapter(study.parent / "adapter", zoo / "base")
    document = yaml.safe_load(study.read_text())
    document["models"] = [f"{zoo / 'base'}+{adapter}", str(zoo / "two")]
    document["evaluate"]["apply_chat_template"] = True

    def said() -> list[str]:
        config = StudyConfig.from_dict(document, study.parent, "study.yaml")
        parents = open_parents([config.base_model, *config.models])
        return [w for w in OwnModels(config, parents.opened).warnings() if "chat template" in w]

    assert said() == []
    (adapter / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert said() == []
    (adapter / "chat_template.jinja").write_text("> {{ messages[0].content }}")
    (warning,) = said()
    assert warning.startswith(f"{adapter} has a chat template of its own, which nobody reads")
    document["evaluate"]["apply_chat_template"] = False
    assert said() == []
