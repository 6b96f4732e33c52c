from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from evomerge.core.errors import UserError
from evomerge.evaluate.generation.decode import Decoder, can_decode
from evomerge.evaluate.generation.vllm import VllmDecoder
from evomerge.evaluate.likelihood.attention import max_packed_length
from evomerge.evaluate.outcomes import NonFiniteError
from evomerge.evaluate.token_requests import Prompt
from tests.architectures import config_of
from tests.evaluate.evaluation_bench import continuation, make_model, make_tokenizer

TEXTS = ["item 4: abc=", "a", "so", "item 77: z=", "7,8,9=", "one two three four", "q?", "x:y"]


def prompts(tokenizer: object, stops: tuple[str, ...], most: int = 12) -> list[Prompt]:
    return [
        Prompt(("t", i), tuple(tokenizer(text)["input_ids"]), stops, most)  # type: ignore[operator]
        for i, text in enumerate(TEXTS)
    ]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_texts_are_those_of_transformers_generate_one_prompt_at_a_time(
    architecture: str, batch_size: int
) -> None:
    model, tokenizer = make_model(architecture, seed=2), make_tokenizer(bos=True)
    answers = Decoder(model, tokenizer, batch_size)(prompts(tokenizer, ()))
    expected = [continuation(model, tokenizer, text, 12) for text in TEXTS]
    assert [answer.text for answer in answers] == expected
    assert len(set(expected)) > 4


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "gemma3", "qwen3"])
def test_examples_that_prompts_share_are_read_once_and_change_no_text(architecture: str) -> None:
    model, tokenizer = make_model(architecture, seed=2), make_tokenizer(bos=True)
    examples = "one 1: xyz. " * 6
    texts = [examples + text for text in TEXTS * 2] + TEXTS
    asked = [
        Prompt(("t", i), tuple(tokenizer(text)["input_ids"]), (), 12)
        for i, text in enumerate(texts)
    ]
    lengths: list[int] = []
    model.get_input_embeddings().register_forward_pre_hook(
        lambda _, arguments: lengths.append(arguments[0].shape[1])
    )
    shared = Decoder(model, tokenizer, 64, max_packed_length(model))(asked)
    assert max(lengths) == (91 if architecture == "gemma3" else 73)  # its window is 40 tokens
    lengths.clear()
    assert shared == Decoder(model, tokenizer, 64)(asked)
    assert max(lengths) == 91
    assert len({answer.text for answer in shared}) > 4


def test_an_answer_ends_before_the_first_of_its_stops() -> None:
    model, tokenizer = make_model("llama", seed=2), make_tokenizer(bos=True)
    whole = Decoder(model, tokenizer, 64)(prompts(tokenizer, (), most=16))
    for stop in ("e", "ab", whole[0].text[3:5]):
        answers = Decoder(model, tokenizer, 64)(prompts(tokenizer, (stop,), most=16))
        for free, stopped in zip(whole, answers, strict=True):
            assert stopped.text == free.text.split(stop)[0]
            assert stopped.truncated == (stop not in free.text and free.truncated)
    assert not answers[0].truncated


def test_rows_stop_by_their_own_strings_and_lengths() -> None:
    model, tokenizer = make_model("llama", seed=2), make_tokenizer(bos=True)
    whole = Decoder(model, tokenizer, 64)(prompts(tokenizer, (), most=12))
    tokens = [one.tokens for one in prompts(tokenizer, ())]
    mixed = [
        Prompt(("t", i), row, (whole[i].text[i % 3],) if i % 2 else (), 3 + i)
        for i, row in enumerate(tokens)
    ]
    answers = Decoder(model, tokenizer, 64)(mixed)
    for i, (free, answer) in enumerate(zip(whole, answers, strict=True)):
        expected = free.text[: 3 + i]
        assert answer.text == (expected.split(free.text[i % 3])[0] if i % 2 else expected)


def test_the_models_end_token_ends_an_answer_untruncated() -> None:
    model, tokenizer = make_model("gpt2", seed=2), make_tokenizer(bos=False)
    asked = prompts(tokenizer, ())
    free = Decoder(model, tokenizer, 64)(asked)
    chosen = next(i for i, one in enumerate(free) if one.truncated and len(set(one.text[:3])) == 3)
    third = int(tokenizer(free[chosen].text)["input_ids"][2])
    model.generation_config.eos_token_id = [third]
    (ended,) = Decoder(model, tokenizer, 1)([asked[chosen]])
    # An end token that is no special token is text like any other.
    assert (ended.text, ended.truncated) == (free[chosen].text[:3], False)


def test_generation_settings_that_change_greedy_decoding_are_left_to_lm_eval() -> None:
    model = make_model("llama", seed=2)
    assert can_decode(model)
    model.generation_config.repetition_penalty = 1.1
    assert not can_decode(model)


def test_weights_that_are_not_finite_are_reported_with_their_item() -> None:
    model, tokenizer = make_model("llama", seed=2), make_tokenizer(bos=True)
    asked = prompts(tokenizer, ())
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(NonFiniteError, match="task 't', document"):
        Decoder(model, tokenizer, 64)(asked)


def test_an_engine_for_plain_language_models_refuses_wrappers(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(config_of("gemma3"))
    with pytest.raises(UserError, match=r"is for plain language models here"):
        VllmDecoder(model, make_tokenizer(bos=True), tmp_path, {})
