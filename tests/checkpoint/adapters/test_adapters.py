"""LoRA adapters against PEFT's own merge_and_unload."""

import json
import random
import shutil
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GemmaConfig, GemmaForCausalLM

from evomerge.checkpoint.opening import open_model
from evomerge.core.errors import UserError
from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.plan import Ref
from tests.adapters import make_adapter, merged_by_peft
from tests.models import load, make_model

PATTERNS = {
    "rank_pattern": {"q_proj": 2, r"layers\.1\.self_attn\.v_proj": 8},
    "alpha_pattern": {"^model.layers.0.self_attn.v_proj": 3, "v_proj": 16},
}
CASES = {
    "plain": ("llama", {}),
    "rank-stabilised": ("llama", {"use_rslora": True, "lora_alpha": 5}),
    "patterns": ("llama", PATTERNS),
    "every linear layer": ("llama", {"target_modules": "all-linear"}),
    "embedding, and a head saved whole": (
        "llama",
        {"target_modules": ["embed_tokens", "o_proj"], "modules_to_save": ["lm_head", "norm"]},
    ),
    "transposed layers": ("gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"]}),
    "biases of B": ("gpt2", {"target_modules": ["c_attn", "c_fc"], "lora_bias": True}),
    "DoRA": ("llama", {"use_dora": True, "target_modules": "all-linear"}),
    "DoRA, rank-stabilised": ("llama", {"use_dora": True, "use_rslora": True, "lora_alpha": 5}),
    "DoRA of an embedding": (
        "llama",
        {"use_dora": True, "target_modules": ["embed_tokens", "o_proj"]},
    ),
    "DoRA of transposed layers": ("gpt2", {"use_dora": True, "target_modules": ["c_attn", "c_fc"]}),
    "trained tokens": ("llama", {"trainable_token_indices": [7, 2]}),
    "trained tokens of the head": (
        "llama",
        {"trainable_token_indices": {"embed_tokens": [1, 5, 39], "lm_head": [2]}},
    ),
    "trained tokens of a tied head": ("tied", {"trainable_token_indices": [3]}),
    "transposed layers and biases": ("gpt2", {"target_modules": ["c_attn"], "bias": "all"}),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    made = {name: make_model(folder / name, name) for name in ("llama", "gpt2")}
    return {**made, "tied": make_model(folder / "tied", tied=True)}


@pytest.fixture(scope="module")
def plain(bases, tmp_path_factory):
    return make_adapter(tmp_path_factory.mktemp("plain") / "adapter", bases["llama"])


@pytest.fixture
def spoiled(plain, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(plain, tmp_path / "spoiled")


def edit(adapter, **changes):
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize("case", CASES)
def test_an_adapted_model_has_the_weights_that_peft_merges(case, bases, tmp_path):
    architecture, config = CASES[case]
    base = bases[architecture]
    adapter = make_adapter(tmp_path / "adapter", base, **config)
    checkpoint = open_model(f"{base}+{adapter}")
    expected = merged_by_peft(base, adapter)
    plain = open_model(base)
    assert checkpoint.tensors.keys() == plain.tensors.keys()
    moved = 0
    for name in checkpoint.tensors:
        torch.testing.assert_close(checkpoint.tensor(name), expected[name], rtol=1e-6, atol=1e-6)
        assert checkpoint.tensors[name].shape == tuple(expected[name].shape)
        moved += not torch.equal(expected[name], plain.tensor(name))
        factors = checkpoint.factors(name)
        if factors is None:  # a tensor that PEFT saved whole
            continue
        delta = sum((pair.left @ pair.right for pair in factors), torch.zeros(()))
        torch.testing.assert_close(delta + plain.tensor(name), expected[name])
    assert moved >= 2, "the adapter must change something, or the test shows nothing"


def test_tensors_that_an_adapter_leaves_alone_are_the_models_to_the_bit(bases, plain):
    base = open_model(bases["llama"])
    checkpoint = open_model(f"{bases['llama']}+{plain}")
    for name in base.tensors:
        same = torch.equal(checkpoint.tensor(name), base.tensor(name))
        assert same == ("q_proj" not in name and "v_proj" not in name)
    assert checkpoint.folder == base.folder
    assert checkpoint.vocabulary == base.vocabulary


def test_a_half_precision_model_is_adapted_in_float32_and_rounds_to_what_peft_makes(tmp_path):
    base = make_model(tmp_path / "base", dtype="bfloat16")
    adapter = make_adapter(tmp_path / "adapter", base)
    checkpoint = open_model(f"{base}+{adapter}")
    expected = merged_by_peft(base, adapter)
    for name, info in checkpoint.tensors.items():
        ours = checkpoint.tensor(name)
        assert info.dtype == ("F32" if "q_proj" in name or "v_proj" in name else "BF16")
        assert ours.dtype == (torch.float32 if info.dtype == "F32" else torch.bfloat16)
        # PEFT rounds the delta before it adds it: one more rounding of at most half a step
        torch.testing.assert_close(
            ours.bfloat16().float(), expected[name].float(), rtol=2**-7, atol=2**-9
        )


def test_adapters_stack_and_their_order_does_not_matter(bases, plain, tmp_path):
    base = bases["llama"]
    second = make_adapter(tmp_path / "second", base, seed=2, target_modules=["v_proj", "o_proj"])
    one, other = (open_model(f"{base}+{a}+{b}") for a, b in [(plain, second), (second, plain)])
    start, first = open_model(base), open_model(f"{base}+{plain}")
    last = open_model(f"{base}+{second}")
    for name in one.tensors:
        sum_of_both = first.tensor(name) + last.tensor(name) - start.tensor(name)
        torch.testing.assert_close(one.tensor(name), sum_of_both, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(one.tensor(name), other.tensor(name), rtol=1e-5, atol=1e-6)


def test_an_adapter_of_one_model_is_added_to_another_as_it_is(bases, plain, tmp_path):
    # Platypus: an adapter that was trained on one model, on a fine-tune of it.
    host = make_model(tmp_path / "host", seed=9)
    home = open_model(f"{bases['llama']}+{plain}")
    away = open_model(f"{host}+{plain}")
    base, plain_host = open_model(bases["llama"]), open_model(host)
    for name in base.tensors:
        torch.testing.assert_close(
            away.tensor(name) - plain_host.tensor(name),
            home.tensor(name) - base.tensor(name),
            rtol=1e-5,
            atol=1e-5,
        )


def test_the_fingerprint_is_of_model_and_adapter(bases, plain, spoiled):
    base = bases["llama"]
    first = open_model(f"{base}+{plain}").fingerprint
    assert first not in (open_model(base).fingerprint,)
    assert open_model(f"{base}+{spoiled}").fingerprint == first
    edit(spoiled, lora_alpha=7)
    assert open_model(f"{base}+{spoiled}").fingerprint != first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "says use_dora, but its tensors lack magnitude vectors"),
        ({"arrow_config": {"top_k": 1}}, "cannot be merged into weights .*routes between adapters"),
        ({"use_bdlora": {"nblocks": 2}}, r"cannot be read as a delta \(use_bdlora\)"),
        ({"init_lora_weights": "pissa_niter_4"}, "it changed the model's weights before training"),
        ({"peft_type": "IA3"}, "expected peft_type LORA, but got 'IA3'"),
        ({"r": 3}, "says rank 3, but its factors have 4"),
        ({"lora_alpha": "six"}, "expected lora_alpha as a number: 'six'"),
        ({"rank_pattern": {"(a+)+$": 1}}, "is too complex a pattern"),
        ({"rank_pattern": {"[": 1}}, "is no regular expression"),
        ({"alpha_pattern": [1]}, "alpha_pattern: expected names and numbers"),
    ],
)
def test_an_adapter_that_is_more_than_a_delta_is_refused_with_the_reason(
    bases, spoiled, change, message
):
    edit(spoiled, **change)
    with pytest.raises(UserError, match=message) as caught:
        open_model(f"{bases['llama']}+{spoiled}")
    assert "\n" not in str(caught.value)


def test_a_mutated_configuration_is_read_or_refused(bases, spoiled):
    file = spoiled / "adapter_config.json"
    config, draw, read = json.loads(file.read_text()), random.Random(4), 0
    junk = [None, True, -1, 0, 0.5, 10**400, "", "x", [], [1], {}, {"q_proj": "x"}, {"[": 2}]
    junk += [{"q_proj": 0}, {"v_proj": 10**400}, {"(a*)*": 4}, {"q_proj": None}, {"": 4}]
    for _ in range(300):
        wrong = {**config, draw.choice([*config, "lora_bias"]): draw.choice(junk)}
        wrong[draw.choice(["r", "lora_alpha", "rank_pattern", "alpha_pattern"])] = draw.choice(junk)
        file.write_text(json.dumps(wrong))
        try:
            checkpoint = open_model(f"{bases['llama']}+{spoiled}")
            for name in checkpoint.tensors:
                checkpoint.tensor(name)
        except UserError:
            continue
        read += 1
    assert read > 5


def test_dora_is_known_by_its_tensors_too(bases, tmp_path):
    adapter = make_adapter(tmp_path / "dora", bases["llama"], use_dora=True)
    edit(adapter, use_dora=False)
    with pytest.raises(UserError, match=r"says no DoRA \(use_dora\), but its tensors have"):
        open_model(f"{bases['llama']}+{adapter}")


def test_damaged_adapters_are_named(bases, spoiled):
    base, file = bases["llama"], spoiled / "adapter_model.safetensors"
    tensors = load_file(file)
    key = next(k for k in tensors if "lora_A" in k)
    save_file({**tensors, key: tensors[key] * float("nan")}, file)
    with pytest.raises(UserError, match=r"q_proj\.lora_A\.weight holds NaN or infinity"):
        open_model(f"{base}+{spoiled}").tensor("model.layers.0.self_attn.q_proj.weight")
    save_file({k: t for k, t in tensors.items() if k != key}, file)
    with pytest.raises(UserError, match=r"lora_B\.weight lacks its other half"):
        open_model(f"{base}+{spoiled}")
    save_file({k: torch.zeros(4, 15) if k == key else t for k, t in tensors.items()}, file)
    with pytest.raises(UserError, match=r"q_proj\.weight by \[16, 15\], but in .* \[16, 16\]"):
        open_model(f"{base}+{spoiled}")
    save_file({k.replace("layers.1", "layers.7"): t for k, t in tensors.items()}, file)
    with pytest.raises(UserError, match=r"it changes model\.layers\.7\.self_attn.* does not have"):
        open_model(f"{base}+{spoiled}")
    file.rename(spoiled / "adapter_model.bin")
    with pytest.raises(UserError, match=r"expected adapter_model\.safetensors.*is a pickle"):
        open_model(f"{base}+{spoiled}")


def test_an_adapter_alone_is_no_model_and_a_model_is_no_adapter(bases, plain):
    with pytest.raises(UserError, match=r"this is an adapter, not a model; write \{model: BASE"):
        open_model(plain)
    with pytest.raises(UserError, match=r"expected a PEFT adapter, but it has no adapter_config"):
        open_model(f"{bases['llama']}+{bases['llama']}")


@pytest.mark.parametrize("by_default", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    ],
)
def test_a_tied_embedding_or_head_cannot_be_adapted(settings, by_default, tmp_path):
    base = make_model(tmp_path / "tied", tied=True)
    if by_default:  # as Gemma's configs on the hub leave it out
        config = GemmaConfig(
            vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, head_dim=8,
        )  # fmt: skip
        base = tmp_path / "default"
        GemmaForCausalLM(config).save_pretrained(base)
        document = json.loads((base / "config.json").read_text())
        document.pop("tie_word_embeddings", None)
        (base / "config.json").write_text(json.dumps(document))
    adapter = make_adapter(tmp_path / "adapter", base, **settings)
    with pytest.raises(
        UserError, match=r"it changes .*(embed_tokens|lm_head)\.weight, .* is tied to"
    ):
        open_model(f"{base}+{adapter}")


def test_an_adapter_of_a_resized_vocabulary_names_the_remedy(tmp_path):
    base = make_model(tmp_path / "base")
    larger = AutoModelForCausalLM.from_pretrained(base)
    larger.resize_token_embeddings(44)
    larger.save_pretrained(tmp_path / "larger")
    whole = ["embed_tokens", "lm_head"]
    adapter = make_adapter(tmp_path / "adapter", tmp_path / "larger", modules_to_save=whole)
    with pytest.raises(UserError, match=r"by \[44, 16\], .*resize_token_embeddings\(44\)"):
        open_model(f"{base}+{adapter}")


def test_an_adapted_model_is_folded_tensor_by_tensor_and_not_held(bases, plain):
    """Both tensors are read twice, as two merges do: the same bits, and nothing stays behind."""
    name = f"{bases['llama']}+{plain}"
    parents = Parents([name])
    changed = [n for n in parents.checkpoints[name].tensors if "q_proj" in n or "v_proj" in n]
    first, other = (Ref(name, tensor) for tensor in changed[:2])
    tensor = parents.tensor(first)
    assert parents.tensor(first) is tensor, "one merge asks several times"
    values, held = tensor.clone(), weakref.ref(tensor)
    parents.tensor(other)
    del tensor
    assert held() is None
    assert torch.equal(parents.tensor(first), values)
    kept = Ref(name, "model.embed_tokens.weight")
    assert parents.tensor(kept) is parents.tensor(kept), "what is in a file stays mapped"


def test_trained_tokens_that_do_not_fit_are_named(bases, tmp_path):
    adapter = make_adapter(tmp_path / "tokens", bases["llama"], trainable_token_indices=[1, 5])
    for tokens, message in (
        ([1], "expected 2 tokens of .*embed_tokens, but got"),
        ([1, -5], "expected 2 tokens"),
        ({"lm_head": [1, 5]}, "expected 2 tokens of .*embed_tokens, but got None"),
        ([1, 40], r"changes model\.embed_tokens\.weight"),
    ):
        edit(adapter, trainable_token_indices=tokens)
        with pytest.raises(UserError, match=message):
            open_model(f"{bases['llama']}+{adapter}")


def test_dora_of_zero_change_is_the_model_and_scales_with_its_magnitude(bases, tmp_path):
    """Liu 2024, eq. 5: W' = m (W + BA) / ||W + BA||, so that twice the norm of W gives twice W."""
    base = bases["llama"]
    adapter = make_adapter(tmp_path / "dora", base, use_dora=True)
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    before = load(base)
    for key in tensors:
        if key.endswith("lora_B.weight"):
            tensors[key] = torch.zeros_like(tensors[key])
        if key.endswith("lora_magnitude_vector"):
            name = key.removeprefix("base_model.model.").replace("lora_magnitude_vector", "weight")
            tensors[key] = 2 * before[name].norm(dim=1)
    save_file(tensors, file)
    model = open_model(f"{base}+{adapter}")
    name = "model.layers.0.self_attn.q_proj.weight"
    torch.testing.assert_close(model.tensor(name), 2 * before[name])
    assert model.factors(name) is None, "it is no sum of a low-rank product"
