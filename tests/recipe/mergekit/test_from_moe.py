"""Configurations of mergekit-moe as recipes whose method is `moe`."""

import json
from pathlib import Path
from typing import Any

import pytest

from evomerge.cli import main
from evomerge.core import yaml_file
from evomerge.core.errors import UserError
from evomerge.recipe.mergekit.from_moe import from_moe
from evomerge.recipe.recipe import Recipe
from tests.models import load, make_family

PROMPTS = {"a": ["w1 w2 w3", "w4 w5"], "b": ["w9 w8 w7"]}


def configuration(**changes: Any) -> dict[str, Any]:
    experts = [{"source_model": name, "positive_prompts": texts} for name, texts in PROMPTS.items()]
    return {
        "base_model": "base",
        "gate_mode": "hidden",
        "dtype": "bfloat16",
        "experts": experts,
    } | (changes)


def test_prompts_become_rows_and_the_recipe_builds(tmp_path: Path) -> None:
    make_family(tmp_path, names=("a", "b"))
    source, out = tmp_path / "moe.yml", tmp_path / "moe.yaml"
    source.write_text(yaml_file.write(configuration(experts_per_token=1)))
    assert main(["import", str(source), str(out)]) == 0
    recipe = Recipe.from_yaml(out)
    assert recipe.parameters == {"router": "hidden", "top": 1}
    assert recipe.output_dtype == "bfloat16"
    rows = recipe.data_of(str(tmp_path / "a"))
    assert rows is not None
    lines = Path(rows.file).read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"text": text} for text in PROMPTS["a"]]
    assert main(["build", str(out), str(tmp_path / "out")]) == 0
    router = load(tmp_path / "out")["model.layers.0.block_sparse_moe.gate.weight"]
    assert router.shape == (2, 16)


def test_one_model_and_random_gates_are_upcycling(tmp_path: Path) -> None:
    same = [{"source_model": "a"}, {"source_model": "a"}, {"source_model": "a"}]
    written = configuration(gate_mode="random", experts=same, architecture="mixtral")
    imported = from_moe(written, tmp_path, tmp_path / "rows")
    assert [entry.model for entry in imported.recipe.models] == ["a"]
    expected = {"router": "random", "top": 2, "experts": 3, "layout": "mixtral"}
    assert imported.recipe.parameters == expected
    assert imported.rows == {}
    assert "deviation of .02" in imported.notes[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gate_mode": "cheap_embed"}, "its embeddings are no router here: write hidden"),
        ({"shared_experts": [{"source_model": "a"}]}, "write `shared: SHARE`"),
        ({"experts": [{"source_model": "a"}]}, "positive_prompts: expected a list of texts"),
        (
            {"experts": [{"source_model": "a", "noise_scale": 0.1}]},
            "noise_scale: it has no counter",
        ),
        ({"experts": []}, "experts: expected a list of models"),
        ({"architecture": "deepseek"}, "architecture: expected one of mixtral, qwen, qwen3"),
        ({"expert": 1}, "unknown key 'expert'"),
        (
            {"experts": [{"source_model": x} for x in "aab"], "gate_mode": "random"},
            "3 experts of 2",
        ),
    ],
)
def test_what_has_no_counterpart_is_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        from_moe(configuration(**changes), tmp_path, tmp_path / "rows")
