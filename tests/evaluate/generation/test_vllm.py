"""vLLM as the engine that generates: run where it is installed.

bash tests/evaluate/make_vllm_environment.sh DIR && DIR/bin/python -m pytest -m vllm tests/evaluate
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from evomerge.core.errors import UserError
from evomerge.evaluate.generation.decode import Decoder
from evomerge.evaluate.generation.vllm import VllmDecoder
from evomerge.evaluate.outcomes import NonFiniteError
from evomerge.evaluate.token_requests import Prompt
from tests.evaluate.evaluation_bench import VOCABULARY, make_tokenizer

TEXTS = ["item 4: abc=", "a", "so", "item 77: z=", "7,8,9=", "one two three four", "q?", "x:y"]
# Warnings of vLLM's own imports are not ours to mend.
pytestmark = pytest.mark.filterwarnings("default")
OPTIONS = {"max_model_len": 64, "enforce_eager": True}
installed = importlib.util.find_spec("vllm") is not None
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")


def make(architecture: str, seed: int) -> Any:
    """A model with heads of 32, which vLLM's CPU kernels need."""
    kind = {"llama": LlamaConfig, "qwen3": Qwen3Config}[architecture]
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 32}
    config = kind(
        **sizes,
        vocab_size=len(VOCABULARY),
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        initializer_range=0.3,
        tie_word_embeddings=architecture == "llama",
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config).float().eval().requires_grad_(False)


def save(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    make_tokenizer(bos=False).save_pretrained(folder)
    return folder


def prompts(stops: tuple[str, ...] = ()) -> list[Prompt]:
    tokenizer = make_tokenizer(bos=False)
    return [
        Prompt(("t", i), tuple(tokenizer(text)["input_ids"]), stops, 16)
        for i, text in enumerate(TEXTS)
    ]


@pytest.mark.vllm
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_answers_follow_the_live_weights_and_are_those_of_a_fresh_engine(
    architecture: str, tmp_path: Path
) -> None:
    a, b = make(architecture, 1), make(architecture, 2)
    tokenizer = make_tokenizer(bos=False)
    expected = {name: Decoder(m, tokenizer, 8)(prompts()) for name, m in (("a", a), ("b", b))}
    assert expected["a"] != expected["b"]
    live = make(architecture, 1)
    engine = VllmDecoder(live, tokenizer, save(a, tmp_path / "a"), OPTIONS)
    assert engine(prompts()) == expected["a"]
    live.load_state_dict(b.state_dict())
    after = engine(prompts())
    assert after == expected["b"]
    fresh = VllmDecoder(b, tokenizer, save(b, tmp_path / "b"), OPTIONS)
    assert fresh(prompts()) == after
    live.load_state_dict(a.state_dict())
    assert engine(prompts()) == expected["a"]
    stop = expected["a"][0].text[2:4]
    assert engine(prompts((stop, "<eos>"))) == Decoder(a, tokenizer, 8)(prompts((stop, "<eos>")))


@pytest.mark.vllm
def test_a_real_study_with_vllm_scores_as_without(tmp_path: Path) -> None:
    from evomerge.evaluate.scorer import Scorer
    from evomerge.evaluate.tasks.harness import Harness
    from evomerge.evaluate.tasks.request import TaskRequest
    from tests.evaluate.evaluation_bench import write_tasks

    model, tokenizer = make("llama", 3), make_tokenizer(bos=False)
    write_tasks(tmp_path, model, tokenizer)
    names = ("write", "write_digit", "write_shots", "choice")
    asked = [TaskRequest(name) for name in names]
    harness = Harness.load(asked, [tmp_path], tokenizer=tokenizer)
    options = {**OPTIONS, "max_model_len": 128}
    engine = VllmDecoder(model, tokenizer, save(model, tmp_path / "model"), options)
    items = {name: list(range(12)) for name in names}
    by_vllm = Scorer(model, tokenizer, harness, 16, engine)
    assert by_vllm.score(items, "metric") == Scorer(model, tokenizer, harness, 16).score(
        items, "metric"
    )
    model.lm_head.weight[:] = torch.nan
    with pytest.raises(NonFiniteError):
        by_vllm.score(items, "metric")


@pytest.mark.vllm
def test_an_option_that_vllm_does_not_take_is_named(tmp_path: Path) -> None:
    model = make("llama", 1)
    folder = save(model, tmp_path)
    with pytest.raises(UserError, match="vLLM cannot run"):
        VllmDecoder(model, make_tokenizer(bos=False), folder, {"max_model_length": 3})
    with pytest.raises(UserError, match="seed is not an option here"):
        VllmDecoder(model, make_tokenizer(bos=False), folder, {"seed": 3})


@pytest.mark.skipif(installed, reason="vLLM is installed here")
def test_a_missing_vllm_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not installed here: pip install 'evomerge\[vllm\]'"):
        VllmDecoder(make("llama", 1), make_tokenizer(bos=False), tmp_path, {})
