import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.checkpoint.compatible import check_compatible, check_same_tokens
from evomerge.checkpoint.files import shards
from evomerge.checkpoint.files.folder import resolve
from evomerge.checkpoint.opening import open_model
from evomerge.core.atomic import atomic_folder
from evomerge.core.errors import UserError
from tests.models import make_model, near


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture
def folder(llama, tmp_path):
    """A copy of the model that a test may spoil."""
    return Path(shutil.copytree(llama, tmp_path / "model"))


@pytest.fixture
def sharded(llama, tmp_path, monkeypatch):
    """The model in shards with an index, none larger than 4000 bytes unless one tensor is."""
    target = tmp_path / "sharded"
    shutil.copytree(llama, target)
    (target / "model.safetensors").unlink()
    tensors = load_file(llama / "model.safetensors")
    sizes = {name: tensor.numel() * 4 for name, tensor in tensors.items()}
    monkeypatch.setattr(shards, "SHARD_BYTES", 4000)
    shards.write_shards(target, tensors.items(), sizes)
    return target


def edit_json(file, **changes):
    document = json.loads(file.read_text())
    file.write_text(json.dumps({**document, **changes}))


def test_a_folder_is_read_as_safetensors_holds_it(llama):
    checkpoint = open_model(llama)
    expected = load_file(llama / "model.safetensors")
    assert checkpoint.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(checkpoint.tensor(name), tensor)
        assert checkpoint.tensors[name].shape == tuple(tensor.shape)
        assert checkpoint.tensors[name].numel == tensor.numel()


def test_shards_are_cut_before_they_grow_too_large_and_read_back_as_one(sharded, llama):
    files = sorted(sharded.glob("*.safetensors"))
    assert len(files) > 3
    for file in files:
        tensors = load_file(file)
        assert len(tensors) == 1 or sum(t.numel() * 4 for t in tensors.values()) <= 4000
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    expected = load_file(llama / "model.safetensors")
    assert index["metadata"]["total_size"] == sum(t.numel() * 4 for t in expected.values())
    checkpoint = open_model(sharded)
    assert checkpoint.tensors.keys() == expected.keys()
    assert all(torch.equal(checkpoint.tensor(name), expected[name]) for name in expected)


def test_transformers_loads_the_shards_that_we_write(sharded, llama):
    from transformers import AutoModelForCausalLM

    ours = AutoModelForCausalLM.from_pretrained(sharded).state_dict()
    whole = AutoModelForCausalLM.from_pretrained(llama).state_dict()
    assert all(torch.equal(ours[name], whole[name]) for name in whole)


def test_a_shard_that_the_index_names_must_be_there(sharded):
    (sharded / "model-00002-of-00009.safetensors").unlink(missing_ok=True)
    missing = sorted(sharded.glob("*.safetensors"))[1]
    missing.unlink()
    with pytest.raises(UserError, match=rf"{missing.name}: a shard that the index names is miss"):
        open_model(sharded)


def test_a_tensor_that_the_index_places_in_a_shard_must_be_there(sharded):
    file = sharded / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    index["weight_map"]["model.layers.7.mlp.up_proj.weight"] = index["weight_map"][
        "model.norm.weight"
    ]
    file.write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"model\.layers\.7\.mlp\.up_proj\.weight is not in model-"):
        open_model(sharded)


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "x.bin", 3, None, ""]
)
def test_a_shard_cannot_lie_outside_the_folder(sharded, name):
    file = sharded / "model.safetensors.index.json"
    (sharded.parent / "x.safetensors").write_bytes(b"")
    edit_json(file, weight_map={"lm_head.weight": name})
    with pytest.raises(UserError, match="would leave the model's folder"):
        open_model(sharded)


@pytest.mark.parametrize("index", ["{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": ["b"]}}'])
def test_a_damaged_index_is_named(sharded, index):
    (sharded / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError, match=r"model\.safetensors\.index\.json: "):
        open_model(sharded)


def test_pickled_weights_are_refused_with_the_remedy(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin is a pickle.*convert it to safet"):
        open_model(folder)


def test_a_folder_without_weights_or_config_is_no_model(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="expected safetensors weights, but there are none"):
        open_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"it has no config\.json"):
        open_model(folder)


@pytest.mark.parametrize("text", ["{", "[1]", "\udcff", ""])
def test_a_damaged_config_is_named(folder, text):
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"config\.json: expected"):
        open_model(folder)


def test_the_fingerprint_is_of_the_weights_and_the_config_and_not_of_the_folder(llama, folder):
    first = open_model(llama).fingerprint
    assert open_model(folder).fingerprint == first
    (folder / "README.md").write_text("words")
    assert open_model(folder).fingerprint == first
    edit_json(folder / "config.json", rms_norm_eps=1e-5)
    assert open_model(folder).fingerprint != first


def test_one_byte_of_one_tensor_changes_the_fingerprint(llama, folder):
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    assert open_model(folder).fingerprint != open_model(llama).fingerprint


def test_models_that_match_are_compatible_and_a_mismatch_lists_the_first_tensors(llama, tmp_path):
    base = open_model(llama)
    check_compatible(base, open_model(near(llama, tmp_path / "near", seed=1)))
    smaller = tmp_path / "smaller"
    shutil.copytree(llama, smaller)
    tensors = load_file(llama / "model.safetensors")
    cut = {name: tensor[:-1].clone() for name, tensor in tensors.items()}
    del cut["model.norm.weight"]
    save_file({**cut, "extra": torch.zeros(1)}, smaller / "model.safetensors")
    with pytest.raises(UserError) as caught:
        check_compatible(base, open_model(smaller))
    message = str(caught.value)
    assert message.startswith(f"{smaller}: does not match {llama}: ")
    assert "lm_head.weight is [39, 16], expected [40, 16]" in message
    # 21 tensors, all wrong (20 cut, 1 missing), and one too many; the first five are listed
    assert message.endswith(" and 17 more")
    assert "\n" not in message


def test_missing_and_foreign_tensors_are_told_apart(llama, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(llama, other)
    tensors = load_file(llama / "model.safetensors")
    tensors["model.norm.bias"] = tensors.pop("model.norm.weight")
    save_file(tensors, other / "model.safetensors")
    with pytest.raises(
        UserError, match=r"model\.norm\.weight is missing; model\.norm\.bias is not in the base"
    ):
        check_compatible(open_model(llama), open_model(other))


def test_a_tied_head_may_be_stored_or_not(tmp_path):
    tied = make_model(tmp_path / "tied", tied=True)
    assert "lm_head.weight" not in open_model(tied).tensors
    both = tmp_path / "both"
    shutil.copytree(tied, both)
    tensors = load_file(tied / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, both / "model.safetensors")
    first, second = open_model(tied), open_model(both)
    check_compatible(first, second)
    check_compatible(second, first)


def test_tokenizers_that_number_tokens_otherwise_are_shown(llama, folder):
    file = folder / "tokenizer.json"
    document = json.loads(file.read_text())
    vocabulary = document["model"]["vocab"]
    vocabulary["w3"], vocabulary["w4"] = vocabulary["w4"], vocabulary["w3"]
    file.write_text(json.dumps(document))
    with pytest.raises(
        UserError, match=r"its tokenizer differs .* tokens: 'w3'=8 is 7 there, 'w4'"
    ):
        check_same_tokens(open_model(llama), open_model(folder))


def test_a_model_without_tokenizer_json_is_not_compared_by_it(llama, folder):
    (folder / "tokenizer.json").unlink()
    assert open_model(folder).vocabulary is None
    check_same_tokens(open_model(llama), open_model(folder))


def test_the_vocabulary_of_a_unigram_tokenizer_is_a_list(folder):
    document = {
        "model": {"vocab": [["<unk>", 0.0], ["x", -1.5]]},
        "added_tokens": [{"content": "<a>", "id": 2}],
    }
    (folder / "tokenizer.json").write_text(json.dumps(document))
    assert open_model(folder).vocabulary == {"<unk>": 0, "x": 1, "<a>": 2}


@pytest.mark.parametrize(
    "document",
    [
        "{",
        "[]",
        "{}",
        '{"model": 1}',
        '{"model": {"vocab": 3}}',
        '{"model": {"vocab": [[]]}}',
        '{"model": {"vocab": {}}, "added_tokens": [{}]}',
        '{"model": {"vocab": {}}, "added_tokens": null}',
        '{"model": {"vocab": {"a": [1]}}}',
    ],
)
def test_a_damaged_tokenizer_is_named(folder, document):
    (folder / "tokenizer.json").write_text(document)
    with pytest.raises(UserError, match=r"tokenizer\.json: expected a tokenizer"):
        open_model(folder).vocabulary  # noqa: B018 - reading it is what is tested


def test_a_file_and_a_word_are_no_models(folder):
    with pytest.raises(UserError, match="expected a model folder but it is a file"):
        resolve(folder / "config.json")
    with pytest.raises(UserError, match="not-there: no such folder, and not a hub id of the form"):
        resolve("not-there")


def test_a_hub_id_without_a_network_is_told_in_one_line(monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        resolve("someone/a-model-that-is-not-here@main")
    message = str(caught.value)
    assert message.startswith(
        "someone/a-model-that-is-not-here@main: no such folder, not downloaded yet"
    )
    assert "\n" not in message


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "out"

    def fail():
        with atomic_folder(target) as partial:
            (partial / "half").write_text("x")
            assert not target.exists()
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        fail()
    assert list((tmp_path / "deep").iterdir()) == []
    with atomic_folder(target) as partial:
        (partial / "whole").write_text("x")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    assert (target / "whole").read_text() == "x"


def test_a_folder_that_holds_something_gives_way_only_if_told_to(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "thesis").write_text("years")
    with pytest.raises(UserError, match="out: already exists"), atomic_folder(target):
        raise AssertionError
    assert (target / "thesis").read_text() == "years"
    with pytest.raises(ZeroDivisionError), atomic_folder(target, replace=True):
        _ = 1 / 0
    assert (target / "thesis").read_text() == "years"
    with atomic_folder(target, replace=True) as partial:
        (partial / "new").write_text("y")
    assert os.listdir(target) == ["new"]
    assert os.listdir(tmp_path) == ["out"]


def test_an_empty_folder_may_be_filled(tmp_path):
    with atomic_folder(tmp_path / "out") as partial:
        pass
    with atomic_folder(tmp_path / "out") as partial:
        (partial / "new").write_text("y")
    assert os.listdir(tmp_path / "out") == ["new"]


def test_a_file_is_never_replaced_by_a_folder(tmp_path):
    target = tmp_path / "out"
    target.write_text("words")
    for replace in (False, True):
        with pytest.raises(UserError, match="out: "), atomic_folder(target, replace=replace):
            raise AssertionError
    with (
        pytest.raises(UserError, match=r"model: .*is not a folder"),
        atomic_folder(target / "model"),
    ):
        raise AssertionError
    assert target.read_text() == "words"
    assert os.listdir(tmp_path) == ["out"]


def test_a_name_like_an_unknown_users_home_is_a_model_that_is_not_there() -> None:
    with pytest.raises(UserError, match="~nobody-of-this-name"):
        open_model("~nobody-of-this-name/model")
