from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, MambaConfig, MistralConfig, MptConfig

from evomerge.evaluate.likelihood import attention
from evomerge.evaluate.likelihood.attention import max_packed_length, packing_support
from evomerge.evaluate.scorer import Scorer
from evomerge.evaluate.tasks.harness import Harness
from tests.evaluate.evaluation_bench import Bench, make_model

ARCHITECTURES = ["llama", "gpt2", "gemma2", "qwen3"]


def model_of(config: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_usual_architectures_take_packed_rows_up_to_their_length(
    architecture: str, dtype: torch.dtype
) -> None:
    assert max_packed_length(make_model(architecture, seed=1).to(dtype)) == 128


def test_rows_are_packed_up_to_an_attention_window_only() -> None:
    assert max_packed_length(make_model("gemma3", seed=1)) == 40
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 48}
    assert max_packed_length(model_of(MistralConfig(**small, **heads, sliding_window=24))) == 24
    assert max_packed_length(model_of(MistralConfig(**small, **heads, sliding_window=8))) == 0


@pytest.mark.parametrize(
    "config",
    [
        BloomConfig(vocab_size=48, hidden_size=32, n_layer=2, n_head=2, initializer_range=0.3),
        MptConfig(vocab_size=48, d_model=32, n_layers=2, n_heads=2, initializer_range=0.3),
    ],
)
def test_a_model_whose_positions_are_not_its_own_to_give_is_scored_in_plain_rows(
    config: Any,
) -> None:
    assert max_packed_length(model_of(config)) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mistake", ["leak", "shift"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_mask_or_a_place_that_is_wrong_is_noticed(
    architecture: str, mistake: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = attention.model_arguments

    def wrong(model: Any, depths: Any, last: Any, prefix: Any) -> dict[str, Any]:
        if mistake == "leak":  # every token sees all that come before it in the row
            last = torch.full_like(last, last.shape[1] - 1)
        else:
            depths = torch.arange(depths.shape[1]).expand_as(depths)
        return right(model, depths, last, prefix)

    monkeypatch.setattr(attention, "model_arguments", wrong)
    assert max_packed_length(make_model(architecture, seed=1).to(dtype)) == 0


def test_weights_that_are_not_finite_tell_nothing_and_are_not_packed() -> None:
    model = make_model("llama", seed=1)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    assert max_packed_length(model) == 0


def test_a_scorer_says_what_it_cannot_do_in_the_fast_way(llama: Bench) -> None:
    harness = Harness.load(["choice"], [llama.folder])
    assert Scorer(llama.model, llama.tokenizer, harness).warnings == []
    config = BloomConfig(vocab_size=48, hidden_size=32, n_layer=2, n_head=2, eos_token_id=2)
    packing, decoding = Scorer(model_of(config), llama.tokenizer, harness).warnings
    assert packing.startswith("this model's rows cannot be packed with a block mask (it takes no")
    assert decoding.startswith("this model's generation is not plain greedy")
    config = MambaConfig(vocab_size=48, hidden_size=32, num_hidden_layers=2, eos_token_id=2)
    packing = Scorer(model_of(config), llama.tokenizer, harness).warnings[0]
    assert packing.startswith("this model does not give the same logits for rows packed")


def _noisy(model: Any, noise: float) -> Any:
    """Make the logits of rows of 16 tokens or more differ, as other kernels' rounding does."""

    def perturb(_: Any, __: Any, output: Any) -> Any:
        if output.logits.shape[1] >= 16:
            draw = torch.Generator().manual_seed(output.logits.shape[1])
            step = torch.randn(output.logits.shape, generator=draw) * output.logits.float().std()
            output.logits = (output.logits.float() + noise * step).to(output.logits.dtype)
        return output

    model.register_forward_hook(perturb)
    return model


def test_rounding_that_plain_rows_show_too_is_no_reason_against_packing() -> None:
    """SmolLM2-135M in bfloat16: .055 of the spread by packing, .049 by a longer row alone."""
    model = make_model("llama", seed=1).to(torch.bfloat16)
    assert max_packed_length(_noisy(model, 0.05)) == 128


def test_the_difference_that_refuses_packing_is_given() -> None:
    """The same noise in float32 is no rounding, and bfloat16's has an end."""
    single = packing_support(_noisy(make_model("llama", seed=1), 0.05))
    assert single.max_length == 0
    match = re.fullmatch(
        r"logits differ by (\S+) of their spread, where up to 0.000 is rounding", single.why_not
    )
    assert match is not None
    assert 0.02 < float(match[1]) < 0.08
    much = packing_support(_noisy(make_model("llama", seed=1).to(torch.bfloat16), 0.5))
    assert much.why_not.endswith("where up to 0.150 is rounding")
