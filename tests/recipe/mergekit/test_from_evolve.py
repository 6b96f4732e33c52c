"""mergekit-evolve's genome files read as study files."""

from pathlib import Path

import pytest

from evomerge.core.errors import UserError
from evomerge.recipe.mergekit.from_evolve import from_genome
from evomerge.recipe.space.space import SearchSpace
from evomerge.study.config import StudyConfig
from tests.models import make_family

GENOME = {
    "genome": {
        "models": ["a", "b"],
        "merge_method": "ties",
        "base_model": "base",
        "layer_granularity": 2,
        "filters": ["mlp"],
    },
    "tasks": ["arc_mine", {"name": "gsm_mine", "metric": "exact_match,strict-match", "weight": 2}],
    "limit": 100,
    "num_fewshot": 3,
}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    make_family(folder, layers=4)
    return folder


def study_of(zoo, genome=None, **fields):
    document = {**GENOME, **fields, "genome": {**GENOME["genome"], **(genome or {})}}
    document["genome"] = {k: v for k, v in document["genome"].items() if v is not ...}
    return from_genome(document, zoo, where="file")


def space_of(study):
    config = StudyConfig.from_dict(study.document, Path("/"))
    space = SearchSpace.from_dict(config.space)
    return space.bind(config.base_model, config.models, config.output.dtype)


def test_a_genome_of_groups_is_slices_with_a_hole_for_every_gene(zoo):
    space = space_of(study_of(zoo))
    # (4 layers / 2) groups x 2 models x (1 filter + the rest) x {weight, density}
    assert len(space.dimensions) == 2 * 2 * 2 * 2
    recipe = space.fill([d.start for d in space.dimensions])
    assert recipe.merge_method == "ties"
    assert [part.sources[0].layer_range for part in recipe.slices] == [(0, 2), (2, 4)]
    source = recipe.slices[1].sources[1]
    assert source.model == str(zoo / "b")
    # where mergekit-evolve starts: weight 1 / n, density 1
    assert source.parameters == {
        "weight": [{"value": 0.5, "filter": "mlp"}, {"value": 0.5}],
        "density": [{"value": 1.0, "filter": "mlp"}, {"value": 1.0}],
    }
    assert recipe.parameters == {"normalize": True}
    assert recipe.base_model == str(zoo / "base")


def test_tasks_shots_and_limit_are_the_studys(zoo):
    config = StudyConfig.from_dict(study_of(zoo).document, Path("/"))
    tasks = [(task.name, task.metric, task.weight) for task in config.evaluate.tasks]
    assert tasks == [
        ("arc_mine", "acc,none", 1.0),
        ("gsm_mine", "exact_match,strict-match", 2.0),
    ]
    assert config.evaluate.items.per_generation == 100
    assert config.evaluate.num_fewshot == 3
    assert config.evaluate.fitness == "metric"
    assert config.output.dtype == "bfloat16"


def test_smooth_groups_are_knots_over_depth(zoo):
    space = space_of(study_of(zoo, {"smooth": True, "filters": None}))
    assert len(space.dimensions) == 2 * 2 * 2
    recipe = space.fill([d.start for d in space.dimensions])
    assert recipe.models[0].parameters == {"weight": [0.5, 0.5], "density": [1.0, 1.0]}


def test_slerp_is_a_t_for_each_group(zoo):
    genome = {"merge_method": "slerp", "filters": ..., "base_model": ...}
    space = space_of(study_of(zoo, genome))
    assert [(d.low, d.high) for d in space.dimensions] == [(0.0, 1.0)] * 2
    recipe = space.fill([d.start for d in space.dimensions])
    assert recipe.base_model == str(zoo / "a")
    assert "normalize" not in recipe.parameters


def test_other_fields_reach_the_space(zoo):
    genome = {"layer_granularity": 0, "allow_negative_weights": True, "normalize": False}
    space = space_of(study_of(zoo, {**genome, "filters": None, "tokenizer_source": "base"}))
    recipe = space.fill([d.start for d in space.dimensions])
    assert space.dimensions[0].low == -1.0
    assert recipe.parameters == {"normalize": False}
    assert recipe.tokenizer_source == "base"
    plain = space_of(study_of(zoo, {"merge_method": "task_arithmetic", "layer_granularity": 0}))
    assert plain.fill([d.start for d in plain.dimensions]).parameters == {"normalize": False}


def test_each_field_that_changes_meaning_has_a_note(zoo):
    fields = {"limit": ..., "shuffle": True, "random_init": True, "fewshot_as_multiturn": False}
    document = {**GENOME, **fields, "apply_chat_template": True}
    del document["limit"]
    notes = from_genome(document, zoo).notes
    for word in ("limit", "shuffle", "random_init", "fewshot_as_multiturn", "weights lie in"):
        assert any(word in note for note in notes), word
    # the tiny tokenizer has no chat template, and by default mergekit-evolve applies one
    study = study_of(zoo)
    assert study.document["evaluate"]["apply_chat_template"] is False
    assert any("has no chat template" in note for note in study.notes)


def test_a_lower_is_better_metric_takes_its_weight_without_the_sign(zoo):
    task = {"name": "wiki_mine", "metric": "word_perplexity,none", "weight": -0.5}
    assert study_of(zoo, tasks=[task]).document["evaluate"]["tasks"][0]["weight"] == 0.5


@pytest.mark.parametrize(
    ("genome", "fields", "message"),
    [
        ({"merge_method": "della"}, {}, "file: genome: merge_method: unknown value 'della'"),
        ({"layer_granularty": 2}, {}, "file: genome: unknown key 'layer_granularty': did you mean"),
        ({"layer_granularity": 3}, {}, "layer_granularity: expected a divisor of the 4 layers of"),
        ({"smooth": 1}, {}, "genome: smooth: expected true or false, but got 1"),
        ({"filters": "mlp"}, {}, "genome: filters: expected a list but got 'mlp'"),
        ({"filters": [3]}, {}, r"genome: filters\[0\]: expected text, but got 3"),
        ({"models": []}, {}, "genome: expected one or more models"),
        ({"models": [3]}, {}, r"genome: models\[0\]: expected a folder or a hub id but got 3"),
        ({"base_model": ...}, {}, "genome: ties needs a base_model"),
        ({"merge_method": "slerp"}, {}, "slerp merges two models, one of them the base_model"),
        ({}, {"task": ["x"]}, "file: unknown key 'task': did you mean 'tasks'"),
        ({}, {"tasks": []}, "file: expected one or more tasks"),
        ({}, {"tasks": [{"nme": "x"}]}, r"tasks\[0\]: unknown key 'nme': did you mean 'name'"),
        ({}, {"tasks": [{"name": "x", "weight": -1}]}, r"tasks\[0\]\.weight: a study turns"),
        ({}, {"limit": 0}, "limit: expected at least 1, but got 0"),
        ({}, {"num_fewshot": "3"}, "num_fewshot: expected a whole number, but got '3'"),
    ],
)
def test_a_mistake_is_told_by_its_field(zoo, genome, fields, message):
    with pytest.raises(UserError, match=message):
        study_of(zoo, genome, **fields)
