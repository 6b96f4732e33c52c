"""Mistakes that mergekit 0.1.5 passes over in silence, or with a warning, are errors here.

One case each. In brackets what mergekit does: [ignores] a key nobody reads, [skips] a tensor or a
model, [warns] and goes on, [guesses] what was meant.
"""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.cli import main
from evomerge.core.errors import UserError
from evomerge.merge.build import build
from evomerge.recipe.recipe import Recipe
from tests.models import VOCABULARY, make_family, make_model, retokenized, write_tokenizer

TIES = {
    "merge_method": "ties",
    "base_model": "base",
    "models": [
        {"model": "a", "parameters": {"weight": 0.5, "density": 0.5}},
        {"model": "b", "parameters": {"weight": 0.5, "density": 0.5}},
    ],
    "parameters": {"normalize": True},
    "tokenizer": {"source": "union", "tokens": {"w1": {"source": "a"}}, "pad_to_multiple_of": 8},
}
SLICES = {
    "merge_method": "passthrough",
    "slices": [
        {"sources": [{"model": "a", "layer_range": [0, 2]}]},
        {"sources": [{"model": "b", "layer_range": [1, 2]}]},
    ],
}
KEYS = {
    "a key of the file [ignores]": (TIES, ["dytpe"], "float32", "unknown key 'dytpe'"),
    "a parameter [ignores]": (TIES, ["parameters", "wibble"], 1, "of ties 'wibble'"),
    "a parameter misspelt [ignores]": (TIES, ["parameters", "normalise"], 1, "mean 'normalize'"),
    "a model's parameter [ignores]": (
        TIES,
        ["models", 0, "parameters", "densty"],
        1,
        "unknown parameter of ties 'densty': did you mean 'density'",
    ),
    "a parameter of another method [ignores]": (TIES, ["parameters", "t"], 0.5, "of ties 't'"),
    "one for all under a model [ignores]": (
        TIES,
        ["models", 0, "parameters", "normalize"],
        False,
        r"models\[0\]\.parameters\.normalize: holds for all models at once",
    ),
    "a key of a model [ignores]": (TIES, ["models", 0, "weight"], 1, r"models\[0\]: unknown key"),
    "layers of a model [ignores]": (
        TIES,
        ["models", 0, "layer_range"],
        [0, 1],
        r"models\[0\]: unknown key 'layer_range'",
    ),
    "a key of a condition [ignores]": (
        TIES,
        ["parameters", "normalize"],
        [{"value": True, "fliter": "mlp"}],
        "unknown key 'fliter'",
    ),
    "a key of a slice [parses, unused]": (
        SLICES,
        ["slices", 0, "residual_weight"],
        0.5,
        r"slices\[0\]: unknown key 'residual_weight'",
    ),
    "a key of a source [ignores]": (
        SLICES,
        ["slices", 0, "sources", 0, "layers"],
        [0, 1],
        r"slices\[0\]\.sources\[0\]: unknown key 'layers': did you mean 'layer_range'",
    ),
    "a key of tokenizer [ignores]": (
        TIES,
        ["tokenizer", "pad_to_multiple"],
        8,
        "tokenizer: unknown key 'pad_to_multiple': did you mean 'pad_to_multiple_of'",
    ),
    "a key of a token [ignores]": (
        TIES,
        ["tokenizer", "tokens", "w1", "froce"],
        True,
        r"tokenizer\.tokens\['w1'\]: unknown key 'froce'",
    ),
    "a token without a source [not implemented]": (
        TIES,
        ["tokenizer", "tokens", "w1"],
        {"force": True},
        r"tokenizer\.tokens\['w1'\]: expected a source",
    ),
    "a kind of row [takes it for a model]": (
        TIES,
        ["tokenizer", "tokens", "w1", "source"],
        {"kind": "zeros"},
        r"tokens\['w1'\]\.source: unknown kind 'zeros': did you mean 'zero'",
    ),
    "token and id at once [refuses]": (
        TIES,
        ["tokenizer", "tokens", "w1", "source"],
        {"kind": "model_token", "model": "a", "token": "x", "token_id": 1},
        "expected either token or token_id",
    ),
    "a tokenizer of a model that is not merged [loads it]": (
        TIES,
        ["tokenizer", "source"],
        "c",
        r"tokenizer\.source: unknown source 'c'",
    ),
    "both ways to name a tokenizer [refuses]": (
        TIES,
        ["tokenizer_source"],
        "base",
        "expected tokenizer_source or tokenizer, not both",
    ),
    "rows padded to 0 [ignores]": (
        TIES,
        ["tokenizer", "pad_to_multiple_of"],
        0,
        r"tokenizer\.pad_to_multiple_of: expected a whole number >= 1",
    ),
    "a chat template's name [refuses at the end]": (
        TIES,
        ["chat_template"],
        "chatlm",
        "chat_template: expected one of auto, alpaca, chatml",
    ),
    "no number [NaN weights]": (
        TIES,
        ["models", 0, "parameters", "weight"],
        float("nan"),
        "weight must be a finite number",
    ),
    "a density beyond 1 [takes it for 1]": (
        TIES,
        ["models", 0, "parameters", "density"],
        1.5,
        r"density must be a number in \[0, 1\]",
    ),
    "a text for a truth [guesses]": (
        TIES,
        ["parameters", "normalize"],
        "false",
        "normalize must be true or false",
    ),
    "an empty gradient [ignores]": (
        TIES,
        ["parameters", "normalize"],
        [],
        r"parameters\.normalize: expected at least one value",
    ),
    "a model twice [merges it once]": (TIES, ["models", 1, "model"], "a", "a appears twice"),
    "a dtype [fails at the end]": (TIES, ["out_dtype"], "bf16", "unknown dtype 'bf16'"),
}


@pytest.mark.parametrize("name", KEYS)
def test_a_key_that_nobody_would_read_is_refused_by_its_name(name):
    document, path, value, message = KEYS[name]
    Recipe.from_dict(document)
    wrong = copy.deepcopy(document)
    inner = wrong
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(UserError, match=message):
        Recipe.from_dict(wrong)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    make_family(folder)
    return folder


@pytest.fixture
def zoo(pristine, tmp_path):
    """A base and two models whose files a test may spoil."""
    shutil.copytree(pristine, tmp_path / "zoo")
    return tmp_path / "zoo"


def edit(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def configure(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def more_rows(zoo):
    retokenized(zoo / "b", VOCABULARY, rows=48)


def more_rows_than_tokens_differ(zoo):
    retokenized(zoo / "b", [*VOCABULARY, "x"])


def wider(zoo):
    name = "model.layers.1.mlp.up_proj.weight"
    edit(zoo / "b", lambda tensors: tensors.update({name: torch.zeros(25, 16)}))


def lacking(zoo):
    edit(zoo / "b", lambda tensors: tensors.pop("model.layers.0.self_attn.q_proj.weight"))


def lacking_one_of_few(zoo):
    edit(zoo / "b", lambda tensors: tensors.pop("lm_head.weight"))


def a_head_for_a_tied_base(zoo):
    for model in ("base", "a"):
        configure(zoo / model, tie_word_embeddings=True)
        edit(zoo / model, lambda tensors: tensors.pop("lm_head.weight"))


def spare_tensor(zoo):
    edit(zoo / "b", lambda tensors: tensors.update({"model.extra.weight": torch.zeros(2)}))


def other_counts(zoo):
    for number, model in enumerate(("base", "a", "b")):
        edit(zoo / model, lambda h, n=number: h.update({"model.seen": torch.tensor([n])}))


def not_finite(zoo):
    def spoil(tensors):
        tensors["model.layers.1.mlp.down_proj.weight"][3, 4] = float("nan")

    edit(zoo / "b", spoil)


def deeper(zoo):
    shutil.rmtree(zoo / "b")
    make_model(zoo / "b", layers=3)


def another_kind(zoo):
    configure(zoo / "b", model_type="mistral")


def other_tokens(zoo):
    write_tokenizer(zoo / "b", [*VOCABULARY[:5], VOCABULARY[6], VOCABULARY[5], *VOCABULARY[7:]])


def token_without_a_row(zoo):
    write_tokenizer(zoo / "b", [*VOCABULARY, "x"])


def no_tokenizer(zoo):
    (zoo / "b" / "tokenizer.json").unlink()


def rows_that_config_does_not_know(zoo):
    configure(zoo / "b", vocab_size=41)


def unspoilt(zoo):
    del zoo


UNION = {"tokenizer_source": "union"}
TENSORS = {
    "truncates embeddings": (more_rows, {}, r"embed_tokens\.weight is \[48, 16\], expected \[40,"),
    "truncates another tensor": (wider, {}, r"layers\.1\.mlp\.up_proj\.weight is \[25, 16\]"),
    "skips a tensor": (lacking, {}, r"layers\.0\.self_attn\.q_proj\.weight is missing"),
    "merges the embedding for a head": (lacking_one_of_few, {}, r"lm_head\.weight is missing"),
    "drops a tensor": (spare_tensor, {}, r"model\.extra\.weight is not in the base"),
    "averages whole numbers": (
        other_counts,
        {},
        r"model\.seen: an integer tensor cannot be merged",
    ),
    "spreads NaN": (not_finite, {}, r"layers\.1\.mlp\.down_proj\.weight has 1 values that are"),
    "drops layers": (deeper, {}, r"layers\.2\.\S+ is not in the base"),
    "allows crimes": (another_kind, {}, r"its model_type is 'mistral', that of \S+ 'llama'"),
    "mixes rows": (other_tokens, {}, r"in 2 tokens: 'w1'=6 is 5 there, 'w2'=5 is 6 there"),
    "warns of a token beyond the rows": (
        token_without_a_row,
        UNION,
        r"1 tokens have no row in embeddings of 40, first 'x'=40",
    ),
    "takes the base's tokenizer for it": (no_tokenizer, UNION, "expected a tokenizer.json"),
    "leaves rows where they are": (
        rows_that_config_does_not_know,
        UNION,
        "no embedding has the vocab_size of its config.json, 41",
    ),
    "zeroes a token": (
        unspoilt,
        {"tokenizer": {"tokens": {"new": {"source": "a"}}}},
        r"tokenizer\.tokens\['new'\]: \S+ has no token 'new'",
    ),
    "drops a chat template": (
        lambda zoo: [file.unlink() for file in zoo.glob("*/tokenizer*")],
        {"chat_template": "chatml"},
        "expected tokenizer files to add the chat_template to",
    ),
}


def document_of(zoo, **more):
    models = [{"model": str(zoo / m), "parameters": {"weight": 0.5}} for m in "ab"]
    document = {"merge_method": "ties", "base_model": str(zoo / "base"), "models": models, **more}
    text = json.dumps(document).replace('"source": "a"', f'"source": "{zoo / "a"}"')
    return json.loads(text)


@pytest.mark.parametrize("name", TENSORS)
def test_silent_faults_of_mergekit_are_refused_by_the_tensors_or_tokens_name(name, zoo, tmp_path):
    spoil, more, message = TENSORS[name]
    spoil(zoo)
    with pytest.raises(UserError, match=message):
        build(Recipe.from_dict(document_of(zoo, **more)), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["zoo"]


@pytest.mark.parametrize("name", ["truncates embeddings", "mixes rows", "skips a tensor"])
@pytest.mark.parametrize("command", ["build", "build of an import"])
def test_the_command_line_tells_it_in_one_line(name, command, zoo, tmp_path, capsys):
    spoil, more, _ = TENSORS[name]
    spoil(zoo)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(document_of(zoo, **more)))
    if command != "build":
        assert main(["import", str(recipe), str(tmp_path / "imported.yaml")]) == 0
        recipe = tmp_path / "imported.yaml"
    capsys.readouterr()
    assert main(["build", str(recipe), str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("evomerge: error: ")
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["a key of the file [ignores]", "a parameter [ignores]"])
@pytest.mark.parametrize("command", ["build", "import", "export"])
def test_the_command_line_names_the_key(name, command, tmp_path, capsys):
    document, path, value, _ = KEYS[name]
    wrong = copy.deepcopy(document)
    (wrong if len(path) == 1 else wrong[path[0]])[path[-1]] = value
    file = Path(tmp_path / "recipe.yaml")
    file.write_text(json.dumps(wrong))
    out = [] if command == "export" else [str(tmp_path / "out")]
    assert main([command, str(file), *out]) == 2
    assert path[-1] in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["recipe.yaml"]
