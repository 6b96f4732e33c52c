"""Benches that the tests of scoring share."""

from __future__ import annotations

import pytest

from tests.evaluate.evaluation_bench import (
    CHAT,
    Bench,
    make_model,
    make_tokenizer,
    write_tasks,
)


@pytest.fixture(scope="session", params=["llama", "gpt2"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A bench for each architecture; Llama's tokenizer adds a first token, GPT-2's does not."""
    architecture = request.param
    model = make_model(architecture, seed=3)
    tokenizer = make_tokenizer(bos=architecture == "llama")
    folder = tmp_path_factory.mktemp(architecture)
    write_tasks(folder, model, tokenizer)
    return Bench(model, tokenizer, folder)


@pytest.fixture(scope="session", params=["llama", "qwen3", "gpt2", "gemma2"])
def any_bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A bench for each architecture on which scores must equal lm-eval's, with a chat template."""
    architecture = request.param
    model = make_model(architecture, seed=3)
    tokenizer = make_tokenizer(bos=architecture != "gpt2")
    tokenizer.chat_template = CHAT
    folder = tmp_path_factory.mktemp(architecture)
    write_tasks(folder, model, tokenizer)
    return Bench(model, tokenizer, folder)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The Llama bench alone, for what does not depend on the architecture."""
    model, tokenizer = make_model("llama", seed=3), make_tokenizer(bos=True)
    folder = tmp_path_factory.mktemp("only-llama")
    write_tasks(folder, model, tokenizer)
    return Bench(model, tokenizer, folder)
