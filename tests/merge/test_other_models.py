"""What is no causal language model: classifiers, encoders, vision models, mixtures of experts."""

import json
import warnings

import pytest
import torch

from evomerge.core.errors import UserError
from evomerge.merge.build import build
from evomerge.recipe.recipe import Recipe
from tests.models import load, make_model, make_t5

COMMON = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "pad_token_id": 0,
}
IDS = torch.tensor([[1, 7, 4, 20, 39, 5]])
PIXELS = torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)


def made(folder, kind, seed, **config):
    """Save a tiny model of a kind; one kind and seed is always the same model."""
    import transformers

    wide = {**COMMON, **config}
    if kind.startswith("ViT"):
        wide |= {"image_size": 16, "patch_size": 8}
        del wide["vocab_size"], wide["pad_token_id"]
    family = next(f for f in ("Bert", "ViT", "Llama", "Mixtral") if kind.startswith(f))
    if family == "Mixtral":
        wide |= {"num_local_experts": 3, "num_key_value_heads": 1}
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = getattr(transformers, kind)(getattr(transformers, f"{family}Config")(**wide))
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return str(folder)


def average(*models, **more):
    return Recipe.from_dict(
        {
            "merge_method": "linear",
            "models": [{"model": model, "parameters": {"weight": 1.0}} for model in models],
            **more,
        }
    )


def outputs(folder, kind):
    import transformers

    model, loading = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    inputs = {"pixel_values": PIXELS} if "ViT" in type(model).__name__ else {"input_ids": IDS}
    with torch.no_grad():
        return model.eval()(**inputs)[0], model


def averaged_by_hand(folders, kind):
    import transformers

    loader = getattr(transformers, kind)
    first, second = (loader.from_pretrained(folder).double().state_dict() for folder in folders)
    model = loader.from_pretrained(folders[0]).eval()
    model.load_state_dict(
        {k: (t + second[k]) / 2 if t.is_floating_point() else t for k, t in first.items()}
    )
    vision = "ViT" in type(model).__name__
    with torch.no_grad():
        return model(pixel_values=PIXELS)[0] if vision else model(input_ids=IDS)[0]


KINDS = [
    ("BertForSequenceClassification", "AutoModelForSequenceClassification", {"num_labels": 3}),
    ("LlamaForSequenceClassification", "AutoModelForSequenceClassification", {"num_labels": 1}),
    ("BertForMaskedLM", "AutoModelForMaskedLM", {}),
    ("BertForTokenClassification", "AutoModelForTokenClassification", {"num_labels": 4}),
    ("ViTForImageClassification", "AutoModelForImageClassification", {"num_labels": 5}),
    ("ViTModel", "AutoModel", {}),
    ("MixtralForCausalLM", "AutoModelForCausalLM", {}),
]


@pytest.mark.parametrize(("kind", "loader", "config"), KINDS, ids=[kind for kind, *_ in KINDS])
def test_models_of_every_kind_are_averaged_whole(kind, loader, config, tmp_path):
    folders = [made(tmp_path / f"{seed}", kind, seed, **config) for seed in (1, 2)]
    build(average(*folders), tmp_path / "out")
    got, _ = outputs(tmp_path / "out", loader)
    torch.testing.assert_close(got, averaged_by_hand(folders, loader), rtol=1e-4, atol=1e-5)


def test_a_gradient_runs_over_each_stack_of_layers_by_itself(tmp_path):
    folders = [str(make_t5(tmp_path / f"{seed}", seed=seed)) for seed in (1, 2)]
    first, second = map(load, folders)
    entries = [
        {"model": folder, "parameters": {"weight": weight}}
        for folder, weight in zip(folders, ([1.0, 0.0], [0.0, 1.0]), strict=True)
    ]
    build(Recipe.from_dict({"merge_method": "linear", "models": entries}), tmp_path / "out")
    merged = load(tmp_path / "out")
    shares = {f"encoder.block.{i}.": share for i, share in enumerate((0, 1 / 2, 1))}
    shares |= {f"decoder.block.{i}.": share for i, share in enumerate((0, 1 / 3, 2 / 3, 1))}
    assert merged.keys() == first.keys()
    for name, tensor in merged.items():
        share = next((s for stack, s in shares.items() if name.startswith(stack)), 0)
        torch.testing.assert_close(tensor, (1 - share) * first[name] + share * second[name])
    piece = {"model": folders[0], "layer_range": [0, 2]}
    stack = {"merge_method": "passthrough", "slices": [{"sources": [piece]}]}
    with pytest.raises(UserError, match=r"one stack of layers, but .* decoder\.block\., enc"):
        build(Recipe.from_dict(stack), tmp_path / "stack")


def test_reward_models_are_merged_by_any_method(tmp_path):
    # Ramé 2024 (WARM) averages them; their scalar head is a tensor like any other.
    kind, loader = "LlamaForSequenceClassification", "AutoModelForSequenceClassification"
    base, one, two = (made(tmp_path / f"{s}", kind, s, num_labels=1) for s in range(3))
    recipe = Recipe.from_dict(
        {
            "merge_method": "task_arithmetic",
            "base_model": base,
            "models": [one, two],
            "parameters": {"weight": 0.3},
        }
    )
    build(recipe, tmp_path / "out")
    b, x, y, merged = (load(f) for f in (base, one, two, tmp_path / "out"))
    for name, tensor in merged.items():
        deltas = x[name].double() + y[name].double() - 2 * b[name].double()
        torch.testing.assert_close(tensor.double(), b[name] + 0.3 * deltas, rtol=1e-5, atol=1e-6)
    assert merged["score.weight"].shape == (1, 16)
    assert outputs(tmp_path / "out", loader)[0].shape == (1, 1)


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """Two classifiers of three and five classes on one encoder, and one with classes of names."""
    folder = tmp_path_factory.mktemp("heads")
    kind = "BertForSequenceClassification"
    return {
        "three": made(folder / "three", kind, 1, num_labels=3),
        "five": made(folder / "five", kind, 2, num_labels=5),
        "named": made(folder / "named", kind, 3, id2label={0: "bad", 1: "fair", 2: "good"}),
    }


def test_heads_that_differ_are_an_error_that_names_the_tensor(heads, tmp_path):
    with pytest.raises(UserError, match=r"classifier\.weight is \[5, 16\], expected \[3, 16\]"):
        build(average(heads["three"], heads["five"]), tmp_path / "out")
    with pytest.raises(
        UserError,
        match=r"classifier\.\w+: its rows stand for different classes in .*named than .*three "
        r"\(bad, fair, good; LABEL_0, LABEL_1, LABEL_2\); set `heads: base` or `heads: drop`",
    ):
        build(average(heads["three"], heads["named"]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_encoders_average_without_heads_becomes_a_base_for_more_training(heads, tmp_path):
    # Choshen 2022: heads are dropped, the encoders' average is what is trained on.
    from transformers import AutoModel, AutoModelForSequenceClassification

    recipe = average(heads["three"], heads["five"], heads["named"], heads="drop")
    build(recipe, tmp_path / "out")
    merged = load(tmp_path / "out")
    three, five, named = (load(heads[name]) for name in ("three", "five", "named"))
    assert set(three) - set(merged) == {"classifier.weight", "classifier.bias"}
    for name, tensor in merged.items():
        mean = (three[name].double() + five[name].double() + named[name].double()) / 3
        torch.testing.assert_close(tensor.double(), mean, rtol=1e-6, atol=1e-7)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert not {"architectures", "id2label", "label2id"} & set(config)
    encoder = AutoModel.from_pretrained(tmp_path / "out")
    weight = encoder.state_dict()["encoder.layer.1.output.dense.weight"]
    assert torch.equal(weight, merged["bert.encoder.layer.1.output.dense.weight"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fresh = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", num_labels=7)
    assert fresh.classifier.weight.shape == (7, 16)


def test_the_bases_head_can_stay_as_it_is(heads, tmp_path):
    recipe = average(heads["three"], heads["five"], base_model=heads["three"], heads="base")
    build(recipe, tmp_path / "out")
    merged, three = load(tmp_path / "out"), load(heads["three"])
    for name in ("classifier.weight", "classifier.bias"):
        assert torch.equal(merged[name], three[name])
    name = "bert.pooler.dense.weight"
    mean = (three[name].double() + load(heads["five"])[name].double()) / 2
    torch.testing.assert_close(merged[name].double(), mean)
    assert outputs(tmp_path / "out", "AutoModelForSequenceClassification")[0].shape == (1, 3)


def test_other_tensors_that_differ_follow_the_recipe(tmp_path):
    # NaiveMC, Chen 2024: what only one model has passes through untouched.
    long = made(tmp_path / "long", "BertModel", 1, max_position_embeddings=64)
    short = made(tmp_path / "short", "BertForMaskedLM", 2, max_position_embeddings=32)
    whole = made(tmp_path / "whole", "BertForMaskedLM", 3, max_position_embeddings=64)
    name = "bert.embeddings.position_embeddings.weight"
    for unmatched, expected in (("base", True), ("drop", False), ("union", True)):
        recipe = average(whole, short, unmatched=unmatched)
        build(recipe, tmp_path / unmatched, note=print)
        merged = load(tmp_path / unmatched)
        assert (name in merged) == expected
        assert not expected or torch.equal(merged[name], load(whole)[name])
    with pytest.raises(UserError, match=r"position_embeddings\.weight is \[32, 16\], expected"):
        build(average(whole, short), tmp_path / "out")
    # a model without the others' prefix has nothing in common with them
    build(average(long, whole, unmatched="union"), tmp_path / "both")
    both = load(tmp_path / "both")
    assert set(both) == set(load(long)) | set(load(whole))
    assert torch.equal(both["pooler.dense.weight"], load(long)["pooler.dense.weight"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"heads": "keep"}, "heads: unknown value 'keep': known: base, drop, merge"),
        ({"unmatched": "skip"}, "unmatched: unknown value 'skip': known: base, drop, error, union"),
    ],
)
def test_an_unknown_choice_lists_the_known_ones(more, message):
    with pytest.raises(UserError, match=message):
        average("a", "b", **more)
    plain = average("a", "b")
    assert average("a", "b", heads="merge", unmatched="error").digest == plain.digest
    assert average("a", "b", heads="drop").digest != plain.digest
    assert Recipe.from_dict(average("a", "b", heads="drop").to_dict()).heads == "drop"


def test_a_language_models_head_can_be_left_to_the_base(tmp_path):
    one, two = (str(make_model(tmp_path / f"{seed}", seed=seed)) for seed in (1, 2))
    build(average(one, two, heads="base"), tmp_path / "out")
    merged, first = load(tmp_path / "out"), load(one)
    assert torch.equal(merged["lm_head.weight"], first["lm_head.weight"])
    assert not torch.equal(merged["model.norm.weight"], first["model.norm.weight"])
