"""Cases from public threads of people who merge models: what is right, or the line that refuses.

Each test names the thread. Models are made here, two layers and sixteen wide.
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from evomerge.checkpoint.opening import open_model
from evomerge.cli import main
from evomerge.core.errors import UserError
from evomerge.merge.build import build
from evomerge.merge.output.extract_lora import extract_lora
from evomerge.recipe.recipe import Recipe
from tests.adapters import make_adapter, merged_by_peft
from tests.models import load, make_model, near

TOKENS = torch.arange(4, 14)[None]


def passed(model: str, out: Path) -> Path:
    """Build one model as it is."""
    build(Recipe.from_dict({"merge_method": "passthrough", "models": [model]}), out)
    return out


def linear(models: list[tuple[Path, float]], out: Path, **keys: Any) -> Path:
    """Build a linear merge."""
    entries = [{"model": str(m), "parameters": {"weight": weight}} for m, weight in models]
    document = {"merge_method": "linear", "models": entries, **keys}
    build(Recipe.from_dict(document), out, note=lambda _: None)
    return out


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model.eval()(TOKENS).logits
    return result


def edit(file: Path, **keys: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **keys}))


def make_small(config: Any, auto: Any, folder: Path, seed: int) -> Path:
    """Save a model of a config with weights that differ everywhere."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = auto.from_config(config)
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder


def test_an_encoder_stored_with_and_without_its_prefix_is_one_model(tmp_path):
    """arcee-ai/mergekit#284: encoders from the hub name their tensors ``bert.…`` or without it."""
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2,
    )  # fmt: skip
    one, two = (
        make_small(config, transformers.AutoModel, tmp_path / f"{seed}", seed) for seed in (1, 2)
    )
    file = two / "model.safetensors"
    save_file({f"bert.{k}": t for k, t in load_file(file).items()}, file, {"format": "pt"})
    out = linear([(one, 0.25), (two, 0.75)], tmp_path / "out", dtype="float32")
    (pooled,) = (name for name in load(out) if "pooler" in name and name.endswith("bias"))
    assert pooled == "pooler.dense.bias", "as the live model has it"
    states = [transformers.AutoModel.from_pretrained(m).state_dict() for m in (one, two, out)]
    for name, tensor in states[2].items():
        expected = 0.25 * states[0][name].double() + 0.75 * states[1][name].double()
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-6)


def test_a_gpt2_of_the_hub_and_one_that_was_saved_again_are_one_model(tmp_path):
    """arcee-ai/mergekit#284, too: GPT-2's files lack the prefix that transformers writes."""
    one, two = (make_model(tmp_path / f"{seed}", "gpt2", seed=seed) for seed in (1, 2))
    expected = load(one)
    file = one / "model.safetensors"
    stored = {key.removeprefix("transformer."): tensor for key, tensor in expected.items()}
    save_file(stored, file, {"format": "pt"})
    out = linear([(one, 0.25), (two, 0.75)], tmp_path / "out", dtype="float32")
    for name, tensor in load(out).items():
        mean = 0.25 * expected[name].double() + 0.75 * load(two)[name].double()
        torch.testing.assert_close(tensor.double(), mean, rtol=1e-6, atol=1e-6)
    adapter = make_adapter(tmp_path / "adapter", two, target_modules=["c_attn"])
    again = passed(f"{one}+{adapter}", tmp_path / "again")
    transformers.AutoModelForCausalLM.from_pretrained(again)


def test_a_layer_that_stands_twice_in_a_stack_is_stored_twice(tmp_path):
    """arcee-ai/mergekit#85: saving failed as the copies shared memory."""
    base = make_model(tmp_path / "base")
    part = {"sources": [{"model": str(base), "layer_range": [0, 2]}]}
    recipe = Recipe.from_dict({"merge_method": "passthrough", "slices": [part, part]})
    build(recipe, tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.config.num_hidden_layers == 4
    state, before = model.state_dict(), load(base)
    for name in before:
        if ".layers." in name:
            again = name.replace("layers.0", "layers.2").replace("layers.1", "layers.3")
            assert torch.equal(state[again], before[name])


def test_a_stack_that_asks_for_more_layers_than_there_are_is_refused(tmp_path):
    """arcee-ai/mergekit#398 and #239: the message named a tensor that no such model has."""
    base = make_model(tmp_path / "base")
    part = {"sources": [{"model": str(base), "layer_range": [1, 3]}]}
    recipe = Recipe.from_dict({"merge_method": "passthrough", "slices": [part]})
    with pytest.raises(UserError, match=r"it has no tensor model\.layers\.2\..*, which the recipe"):
        build(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_several_ends_of_generation_stay(tmp_path):
    """arcee-ai/mergekit#275 and hiyouga/EasyR1#11007: a merge lost generation_config.json."""
    base = make_model(tmp_path / "base")
    other = near(base, tmp_path / "other", seed=2)
    generation = {"eos_token_id": [2, 7, 9], "temperature": 0.6, "do_sample": True, "top_p": 0.9}
    (base / "generation_config.json").write_text(json.dumps(generation))
    keys = {"base_model": str(base), "merge_method": "task_arithmetic"}
    out = linear([(base, 0.5), (other, 0.5)], tmp_path / "out", **keys)
    loaded = transformers.GenerationConfig.from_pretrained(out)
    assert loaded.eos_token_id == [2, 7, 9]
    assert (loaded.temperature, loaded.top_p) == (0.6, 0.9)


def test_a_chat_template_in_a_file_of_its_own_goes_along(tmp_path):
    """hiyouga/LlamaFactory#8399 and arcee-ai/mergekit#589: merges lost their chat template."""
    base = make_model(tmp_path / "base")
    (base / "chat_template.jinja").write_text(
        "{% for m in messages %}<{{ m.content }}>{% endfor %}"
    )
    adapter = make_adapter(tmp_path / "adapter", base)
    out = passed(f"{base}+{adapter}", tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "w1"}], tokenize=False)
    assert text == "<w1>"


def test_an_adapter_with_more_tokens_on_tied_embeddings_is_refused(tmp_path, capsys):
    """huggingface/transformers#45127: merged and reloaded, such a model repeats one token."""
    base = make_model(tmp_path / "base", tied=True)
    larger = transformers.AutoModelForCausalLM.from_pretrained(base)
    larger.resize_token_embeddings(43)
    larger.save_pretrained(tmp_path / "larger")
    whole = ["embed_tokens", "lm_head"]
    adapter = make_adapter(tmp_path / "adapter", tmp_path / "larger", modules_to_save=whole)
    recipe = tmp_path / "recipe.yaml"
    for host in (base, tmp_path / "larger"):
        recipe.write_text(f"merge_method: passthrough\nmodels: ['{host}+{adapter}']\n")
        assert main(["build", str(recipe), str(tmp_path / "out")]) == 2
        message = capsys.readouterr().err.splitlines()[-1]
        assert "tied" in message or "resize_token_embeddings(43)" in message
        assert not (tmp_path / "out").exists()


def test_an_adapter_whose_rows_were_cut_to_its_tokenizer_names_both_sizes(tmp_path):
    """axolotl-ai-cloud/axolotl#2277: 151,666 rows in the adapter, 151,936 in the model."""
    base = make_model(tmp_path / "base")
    smaller = transformers.AutoModelForCausalLM.from_pretrained(base)
    smaller.resize_token_embeddings(38)
    smaller.save_pretrained(tmp_path / "smaller")
    whole = ["embed_tokens", "lm_head"]
    adapter = make_adapter(tmp_path / "adapter", tmp_path / "smaller", modules_to_save=whole)
    with pytest.raises(UserError, match=r"by \[38, 16\], but in .* \[40, 16\].*resize_token"):
        open_model(f"{base}+{adapter}")


def test_an_adapter_of_a_model_of_another_width_is_refused(tmp_path):
    """pipilurj/MLLM-protector#6: the adapter of a 7B model was put on one of 3B."""
    base = make_model(tmp_path / "base")
    config = transformers.AutoConfig.from_pretrained(base)
    config.hidden_size, config.head_dim = 32, 16
    wide = make_small(config, transformers.AutoModelForCausalLM, tmp_path / "wide", 1)
    adapter = make_adapter(tmp_path / "adapter", wide)
    with pytest.raises(UserError, match=r"q_proj\.weight by \[32, 32\], but in .* \[16, 16\]"):
        open_model(f"{base}+{adapter}")


def test_an_adapter_that_was_saved_empty_is_refused(tmp_path, capsys):
    """ymcui/Chinese-LLaMA-Alpaca-2#392: DeepSpeed's stage 3 left tensors of shape [0] behind."""
    base = make_model(tmp_path / "base")
    adapter = make_adapter(tmp_path / "adapter", base)
    file = adapter / "adapter_model.safetensors"
    save_file({key: torch.zeros(0) for key in load_file(file)}, file)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"merge_method: passthrough\nmodels: ['{base}+{adapter}']\n")
    assert main(["build", str(recipe), str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert "expected factors (rank, in) and (out, rank), but got [0] and [0]" in message


def test_adapters_of_every_layer_of_a_mamba_are_merged_as_by_peft(tmp_path):
    """huggingface/transformers#30316: merged, the model was another than with its adapter on."""
    config = transformers.MambaConfig(
        vocab_size=40, hidden_size=16, state_size=4, num_hidden_layers=2, time_step_rank=2,
    )  # fmt: skip
    base = make_small(config, transformers.AutoModelForCausalLM, tmp_path / "base", 1)
    targets = ["x_proj", "in_proj"]
    adapter = make_adapter(tmp_path / "adapter", base, target_modules=targets)
    out = passed(f"{base}+{adapter}", tmp_path / "out")
    expected = merged_by_peft(base, adapter)
    merged = transformers.AutoModelForCausalLM.from_pretrained(out).state_dict()
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-6)


def test_a_merged_adapter_answers_as_the_adapter_does(tmp_path):
    """huggingface/peft#1035 and #2502: other logits before and after merging; here fc2 of OPT."""
    import peft

    config = transformers.OPTConfig(
        vocab_size=40, hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2,
        word_embed_proj_dim=16, max_position_embeddings=32,
    )  # fmt: skip
    base = make_small(config, transformers.AutoModelForCausalLM, tmp_path / "base", 1)
    adapter = make_adapter(tmp_path / "adapter", base, target_modules=["fc2"], r=8, lora_alpha=2)
    out = passed(f"{base}+{adapter}", tmp_path / "out")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = transformers.AutoModelForCausalLM.from_pretrained(base)
        before = logits(plain)
        by_peft = logits(peft.PeftModel.from_pretrained(plain, str(adapter)))
        merged = logits(transformers.AutoModelForCausalLM.from_pretrained(out))
    torch.testing.assert_close(merged, by_peft, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(merged, before, atol=1e-2)


def test_a_reward_models_head_goes_along_or_is_missed_aloud(tmp_path):
    """huggingface/trl#297 and #368: merged as a language model, a reward model lost its head."""
    import peft

    language = make_model(tmp_path / "language")
    config = transformers.AutoConfig.from_pretrained(language, num_labels=1)
    auto = transformers.AutoModelForSequenceClassification
    reward = make_small(config, auto, tmp_path / "reward", 3)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(4)
        settings = peft.LoraConfig(task_type="SEQ_CLS", r=2, init_lora_weights=False)
        model = peft.get_peft_model(auto.from_pretrained(reward), settings)
        for name, parameter in model.named_parameters():
            if "score" in name and parameter.requires_grad:
                parameter.data += 1
        model.save_pretrained(tmp_path / "adapter")
        head = model.merge_and_unload().score.weight.detach()
    out = passed(f"{reward}+{tmp_path / 'adapter'}", tmp_path / "out")
    merged = auto.from_pretrained(out)
    assert merged.config.architectures == ["LlamaForSequenceClassification"]
    torch.testing.assert_close(merged.score.weight.detach(), head)
    with pytest.raises(UserError, match=r"it changes score\.weight, which .* does not have"):
        open_model(f"{language}+{tmp_path / 'adapter'}")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_dtype_is_that_of_the_file_and_of_the_config(dtype, tmp_path):
    """arcee-ai/mergekit#604: whatever dtype was asked for, float32 came out."""
    base = make_model(tmp_path / "base")
    other = near(base, tmp_path / "other", seed=2)
    out = linear([(base, 0.5), (other, 0.5)], tmp_path / "out", dtype=dtype)
    assert {tensor.dtype for tensor in load(out).values()} == {getattr(torch, dtype)}
    config = json.loads((out / "config.json").read_text())
    assert config.get("dtype", config.get("torch_dtype")) == dtype
    model = transformers.AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert model.dtype == getattr(torch, dtype)


def test_weights_that_do_not_sum_to_one_count_as_they_are_without_normalize(tmp_path):
    """arcee-ai/mergekit#214: .1 and 1.0 of one model are 1.1 of it, unless they are normalised."""
    base = make_model(tmp_path / "base")
    again = shutil.copytree(base, tmp_path / "again")
    for normalize, factor in ((False, 1.1), (True, 1.0)):
        out = linear(
            [(base, 0.1), (again, 1.0)],
            tmp_path / f"{normalize}",
            dtype="float32",
            parameters={"normalize": normalize},
        )
        for name, tensor in load(base).items():
            expected = (factor * tensor.double()).float()
            torch.testing.assert_close(load(out)[name], expected, rtol=1e-6, atol=1e-7)


def test_an_adapter_cannot_be_extracted_across_added_tokens(tmp_path):
    """arcee-ai/mergekit#328: the head of a fine-tune with added tokens has more rows."""
    base = make_model(tmp_path / "base")
    larger = transformers.AutoModelForCausalLM.from_pretrained(base)
    larger.resize_token_embeddings(42)
    larger.save_pretrained(tmp_path / "larger")
    with pytest.raises(UserError, match=r"(embed_tokens|lm_head)\.weight.*40.*42|42.*40"):
        extract_lora(str(tmp_path / "larger"), str(base), tmp_path / "out", rank=2)
    assert not (tmp_path / "out").exists()


def test_an_adapter_whose_pattern_names_one_module_changes_that_module_alone(tmp_path):
    """huggingface/peft#1689: what is loaded from a folder must be what was saved there."""
    base = make_model(tmp_path / "base")
    name = "model.layers.1.self_attn.q_proj"
    adapter = make_adapter(tmp_path / "adapter", base, target_modules=[name])
    out = passed(f"{base}+{adapter}", tmp_path / "out")
    before, after = load(base), load(out)
    differ = [key for key in before if not torch.equal(before[key], after[key])]
    assert differ == [f"{name}.weight"]
