"""Merges that are refused: in one line, with nothing left behind."""

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from evomerge.core.errors import UserError
from evomerge.merge.build import build, fill
from evomerge.merge.digest import digest
from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.plan import plan
from tests.merge.merging import load_live, recipe_of
from tests.models import load, make_family, make_model, near


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_parents_that_are_not_finite_are_refused_by_the_tensors_name(llama, value, tmp_path):
    folder = near(Path(llama["base"]), tmp_path / "bad", seed=1)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.self_attn.k_proj.weight"][2, 3] = value
    save_file(tensors, folder / "model.safetensors")
    recipe = recipe_of({**llama, "b": str(folder)})
    message = r"bad: tensor model\.layers\.1\.self_attn\.k_proj\.weight has 1 values that are NaN"
    with pytest.raises(UserError, match=message):
        build(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_exists_is_refused_and_left_alone(llama, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis").write_text("years")
    with pytest.raises(UserError, match="out: already exists; name another folder or remove it"):
        build(recipe_of(llama), out)
    assert [path.name for path in out.iterdir()] == ["thesis"]
    first = build(recipe_of(llama), out, replace=True)
    assert not (out / "thesis").exists()
    assert digest(load(out).items()) == first
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_merge_that_fails_half_way_leaves_nothing(llama, tmp_path):
    filters = [{"filter": "lm_head", "value": 0.0}, {"filter": "layers.2", "value": 0.0}]
    recipe = recipe_of(llama, "linear", [*filters, {"value": 1.0}])
    with pytest.raises(
        UserError, match=r"(lm_head|layers\.2)\S+: linear: expected weights whose su"
    ):
        build(recipe, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_models_that_do_not_match_are_refused_before_anything_is_written(llama, tmp_path):
    wider = make_family(tmp_path / "wider", names="", layers=2)
    recipe = recipe_of({**llama, "b": wider["base"]})
    with pytest.raises(UserError, match=r"does not match .*layers\.2\.\S+ is missing"):
        build(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_live_model_of_another_shape_is_refused(llama, tmp_path):
    recipe = recipe_of(llama)
    parents = Parents(recipe.model_names)
    live = load_live(make_model(tmp_path / "shallow", layers=2))
    with pytest.raises(
        UserError, match=r"LlamaForCausalLM has no tensor model\.layers\.2\.\S+ of sh"
    ):
        fill(live, plan(recipe, parents.checkpoints), parents)
