"""The weight files of a model are those that transformers would load."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from evomerge.checkpoint.files.index import shards_of
from evomerge.checkpoint.opening import open_model
from evomerge.core.errors import UserError
from tests.models import make_model, near

HEAD = "lm_head.weight"


@pytest.fixture
def sharded(tmp_path):
    """A model in shards with an index, and the one file of another training beside it."""
    base = make_model(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="8KB")
    near(base, tmp_path / "later", seed=3)
    return tmp_path


def loaded_head(folder):
    return AutoModelForCausalLM.from_pretrained(folder).lm_head.weight


@pytest.mark.parametrize("shards", ["there", "gone"])
def test_the_one_file_goes_before_an_index(sharded, shards):
    shutil.copy(sharded / "later" / "model.safetensors", sharded / "sharded")
    if shards == "gone":
        for shard in (sharded / "sharded").glob("model-0*"):
            shard.unlink()
    read = open_model(sharded / "sharded").tensor(HEAD)
    assert torch.equal(read, loaded_head(sharded / "sharded"))
    assert torch.equal(read, loaded_head(sharded / "later"))


def test_a_file_that_the_config_names_goes_before_all(sharded):
    folder = sharded / "sharded"
    shutil.copy(sharded / "later" / "model.safetensors", folder / "other.safetensors")
    shutil.copy(sharded / "base" / "model.safetensors", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config, "transformers_weights": "other.safetensors"})
    )
    assert torch.equal(open_model(folder).tensor(HEAD), loaded_head(folder))
    assert torch.equal(open_model(folder).tensor(HEAD), loaded_head(sharded / "later"))


def test_shards_without_an_index_are_read_if_all_are_there(sharded):
    folder = sharded / "sharded"
    (folder / "model.safetensors.index.json").unlink()
    assert torch.equal(open_model(folder).tensor(HEAD), loaded_head(sharded / "base"))
    last = sorted(folder.glob("model-0*"))[-1]
    last.unlink()
    with pytest.raises(UserError, match=f"{last.name} is missing, and there is no model"):
        open_model(folder)


def test_weights_that_may_be_two_models_are_refused_naming_both(sharded):
    folder = sharded / "sharded"
    (folder / "model.safetensors.index.json").unlink()
    shutil.copy(sharded / "later" / "model.safetensors", folder / "consolidated.safetensors")
    with pytest.raises(UserError, match=r"it has consolidated.safetensors and model-0.*no model"):
        open_model(folder)


def test_a_tensor_that_two_shards_hold_is_refused_naming_both(sharded):
    folder = sharded / "sharded"
    first, second = sorted(folder.glob("model-0*"))[:2]
    name = next(iter(load_file(first)))
    save_file({**load_file(second), name: torch.zeros(2)}, second)
    with pytest.raises(UserError, match=f"{name} is in {first.name} and in {second.name}"):
        open_model(folder)


def test_an_adapter_beside_a_model_is_refused_as_transformers_would_load_both(tmp_path):
    folder = make_model(tmp_path / "model")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="it holds a model and an adapter"):
        open_model(folder)


def test_a_file_that_leaves_the_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="would leave the folder"):
        shards_of(tmp_path, "../x.safetensors")
